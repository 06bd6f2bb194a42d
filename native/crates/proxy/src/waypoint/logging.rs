//! Of which requests there are records, as Telemetry objects say.

use meltemi_types::meltemi as wire;
use parking_lot::RwLock;
use std::ops::RangeInclusive;

#[derive(Debug, Default)]
pub(crate) struct RequestLogging {
    rule: RwLock<Rule>,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Rule {
    disabled: bool,
    /// None: all.
    statuses: Box<[RangeInclusive<u16>]>,
}

impl RequestLogging {
    /// # Errors
    /// The field that is not understood; the rule stays as it was.
    pub(crate) fn set(&self, message: Option<&wire::AccessLogging>) -> Result<(), String> {
        let rule = message.map(Rule::decode).transpose()?.unwrap_or_default();
        *self.rule.write() = rule;
        Ok(())
    }

    /// Whether a request has a record; `status` is 0 where there was no answer.
    pub(crate) fn wants(&self, status: u16) -> bool {
        let rule = self.rule.read();
        !rule.disabled
            && (rule.statuses.is_empty() || rule.statuses.iter().any(|range| range.contains(&status)))
    }
}

impl Rule {
    fn decode(message: &wire::AccessLogging) -> Result<Self, String> {
        let statuses = message.statuses.iter().enumerate().map(|(index, range)| {
            let bound = |value: u32| u16::try_from(value).ok().filter(|status| *status <= 999);
            match (bound(range.from), bound(range.to)) {
                (Some(from), Some(to)) if from <= to => Ok(from..=to),
                _ => Err(format!(
                    "access_logging.statuses[{index}]: {} to {} is no range",
                    range.from, range.to
                )),
            }
        });
        Ok(Self { disabled: message.disabled, statuses: statuses.collect::<Result<_, _>>()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(disabled: bool, statuses: &[(u32, u32)]) -> wire::AccessLogging {
        let statuses = statuses.iter().map(|(from, to)| wire::StatusRange { from: *from, to: *to }).collect();
        wire::AccessLogging { disabled, statuses }
    }

    #[test]
    fn what_is_wanted_is_what_was_said_last_and_understood() {
        let logging = RequestLogging::default();
        assert!(logging.wants(200) && logging.wants(0));
        logging.set(Some(&message(false, &[(400, 499), (503, 503)]))).unwrap();
        let wanted: Vec<u16> =
            [0, 200, 399, 400, 499, 500, 503].into_iter().filter(|s| logging.wants(*s)).collect();
        assert_eq!(wanted, [400, 499, 503]);
        for bad in [(500, 400), (0, 1000), (1 << 17, 1 << 17)] {
            assert!(logging.set(Some(&message(false, &[bad]))).is_err());
        }
        assert!(!logging.wants(200), "the last good rule stays");
        logging.set(Some(&message(true, &[]))).unwrap();
        assert!(!logging.wants(500));
        logging.set(None).unwrap();
        assert!(logging.wants(200));
    }
}
