//! What labels ask for. The rule is the agent's (src/domain/enrolment.ts), which writes it into the configuration.

use std::collections::HashMap;

use serde::Deserialize;

/// One label of the rule: its key, and the values that ask and decline. Others say nothing.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct WishLabel {
    key: String,
    #[serde(rename = "in")]
    asks: String,
    #[serde(rename = "out")]
    declines: String,
}

pub(crate) type Labels = HashMap<String, String>;

/// The first label that says something decides; none: the object has no wish of its own.
pub(crate) fn wish(rule: &[WishLabel], labels: &Labels) -> Option<bool> {
    rule.iter().find_map(|label| match labels.get(&label.key) {
        Some(value) if *value == label.asks => Some(true),
        Some(value) if *value == label.declines => Some(false),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_label_that_says_something_decides() {
        let rule: Vec<WishLabel> = serde_json::from_str(
            r#"[{"key":"ours","in":"yes","out":"no"},{"key":"theirs","in":"ambient","out":"none"}]"#,
        )
        .expect("rule");
        let of = |labels: &[(&str, &str)]| {
            wish(&rule, &labels.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect())
        };
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[("ours", "perhaps"), ("other", "yes")]), None);
        assert_eq!(of(&[("ours", "no"), ("theirs", "ambient")]), Some(false));
        assert_eq!(of(&[("ours", "perhaps"), ("theirs", "ambient")]), Some(true));
    }
}
