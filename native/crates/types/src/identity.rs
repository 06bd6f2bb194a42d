//! A workload's identity: the SPIFFE id that its certificate carries.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;

const SCHEME: &str = "spiffe://";
/// SPIFFE-ID section 2.3: ids longer than this need not be supported.
const MAX_LENGTH: usize = 2048;
/// SPIFFE-ID section 2.1.
const MAX_TRUST_DOMAIN_LENGTH: usize = 255;

/// `spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/SERVICE_ACCOUNT`. One allocation, cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    uri: Arc<str>,
    trust_domain_end: u16,
    namespace_end: u16,
}

/// Why a text is no identity of this mesh. The text itself is named, cut to 256 bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is no identity of the form spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/SERVICE_ACCOUNT: {problem}"
)]
pub struct IdentityError {
    text: String,
    problem: &'static str,
}

impl IdentityError {
    fn new(text: &str, problem: &'static str) -> Self {
        Self { text: text.chars().take(256).collect(), problem }
    }
}

impl Identity {
    /// Builds an identity from its parts, each checked as [`Identity::from_str`] does.
    pub fn new(trust_domain: &str, namespace: &str, service_account: &str) -> Result<Self, IdentityError> {
        format!("{SCHEME}{trust_domain}/ns/{namespace}/sa/{service_account}").parse()
    }

    /// The whole id, `spiffe://...`.
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// The id without its scheme, `TRUST_DOMAIN/ns/NAMESPACE/sa/SERVICE_ACCOUNT`: what
    /// AuthorizationPolicy calls a principal.
    pub fn principal(&self) -> &str {
        &self.uri[SCHEME.len()..]
    }

    pub fn trust_domain(&self) -> &str {
        &self.uri[SCHEME.len()..usize::from(self.trust_domain_end)]
    }

    pub fn namespace(&self) -> &str {
        &self.uri[self.namespace_range()]
    }

    pub fn service_account(&self) -> &str {
        &self.uri[usize::from(self.namespace_end) + "/sa/".len()..]
    }

    fn namespace_range(&self) -> Range<usize> {
        usize::from(self.trust_domain_end) + "/ns/".len()..usize::from(self.namespace_end)
    }
}

impl FromStr for Identity {
    type Err = IdentityError;

    /// Strict: no other path shape, no empty or relative segment, no query, fragment, port or user.
    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let fail = |problem| Err(IdentityError::new(text, problem));
        if text.len() > MAX_LENGTH {
            return fail("it is longer than 2048 bytes");
        }
        let Some(rest) = text.strip_prefix(SCHEME) else {
            return fail("it does not begin with spiffe://");
        };
        let mut parts = rest.split('/');
        let shape = (parts.next(), parts.next(), parts.next(), parts.next(), parts.next(), parts.next());
        let (Some(trust_domain), Some("ns"), Some(namespace), Some("sa"), Some(account), None) = shape else {
            return fail("its path is not /ns/NAMESPACE/sa/SERVICE_ACCOUNT");
        };
        if trust_domain.is_empty() || trust_domain.len() > MAX_TRUST_DOMAIN_LENGTH {
            return fail("its trust domain is empty or longer than 255 bytes");
        }
        if !trust_domain.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_')) {
            return fail("its trust domain has characters other than a-z, 0-9, '.', '-' and '_'");
        }
        if !is_segment(namespace) || !is_segment(account) {
            return fail(
                "a path segment is empty, relative, or has characters other than letters, digits, '.', '-' and '_'",
            );
        }
        let trust_domain_end = SCHEME.len() + trust_domain.len();
        let namespace_end = trust_domain_end + "/ns/".len() + namespace.len();
        // MAX_LENGTH keeps both below u16::MAX.
        Ok(Self {
            uri: text.into(),
            trust_domain_end: trust_domain_end as u16,
            namespace_end: namespace_end as u16,
        })
    }
}

/// SPIFFE-ID section 2.2.
fn is_segment(text: &str) -> bool {
    !text.is_empty()
        && text != "."
        && text != ".."
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

impl serde::Serialize for Identity {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.uri)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_and_format_agree() {
        let id: Identity = "spiffe://cluster.local/ns/team-a/sa/web.v1".parse().unwrap();
        assert_eq!(
            (id.trust_domain(), id.namespace(), id.service_account()),
            ("cluster.local", "team-a", "web.v1")
        );
        assert_eq!(id.principal(), "cluster.local/ns/team-a/sa/web.v1");
        assert_eq!(id.to_string(), "spiffe://cluster.local/ns/team-a/sa/web.v1");
        assert_eq!(id, Identity::new("cluster.local", "team-a", "web.v1").unwrap());
    }

    #[test]
    fn anything_else_is_refused() {
        for bad in [
            "",
            "spiffe://",
            "spiffe:///ns/a/sa/b",
            "SPIFFE://td/ns/a/sa/b",
            "https://td/ns/a/sa/b",
            "spiffe://td",
            "spiffe://td/ns/a",
            "spiffe://td/ns/a/sa",
            "spiffe://td/ns/a/sa/",
            "spiffe://td/ns//sa/b",
            "spiffe://td/ns/a/sa/b/",
            "spiffe://td/ns/a/sa/b/c",
            "spiffe://td/sa/a/ns/b",
            "spiffe://td//ns/a/sa/b",
            "spiffe://td/ns/../sa/b",
            "spiffe://td/ns/./sa/b",
            "spiffe://td/ns/a/sa/..",
            "spiffe://Td/ns/a/sa/b",
            "spiffe://td:80/ns/a/sa/b",
            "spiffe://user@td/ns/a/sa/b",
            "spiffe://td/ns/a/sa/b?x",
            "spiffe://td/ns/a/sa/b#x",
            "spiffe://td/ns/a%2f/sa/b",
            "spiffe://td/ns/a b/sa/b",
            "spiffe://td/ns/\u{e9}/sa/b",
            " spiffe://td/ns/a/sa/b",
            "spiffe://td/ns/a/sa/b\n",
            "spiffe://td/ns/a/sa/b\0",
        ] {
            assert!(bad.parse::<Identity>().is_err(), "accepted {bad:?}");
        }
        assert!(format!("spiffe://td/ns/a/sa/{}", "x".repeat(2048)).parse::<Identity>().is_err());
        assert!(format!("spiffe://{}/ns/a/sa/b", "x".repeat(256)).parse::<Identity>().is_err());
    }

    #[test]
    fn a_part_cannot_smuggle_a_separator() {
        assert!(Identity::new("td", "a/sa/admin", "b").is_err());
        assert!(Identity::new("td/ns/x", "a", "b").is_err());
    }

    #[test]
    fn any_text_is_refused_or_comes_back_as_it_was() {
        use rand::{Rng, SeedableRng};
        let mut random = rand::rngs::StdRng::seed_from_u64(3);
        let pieces = [
            "spiffe://",
            "td",
            "/ns/",
            "/sa/",
            "a",
            "..",
            "/",
            "%2f",
            "\u{e9}",
            "",
            "cluster.local",
            "ns",
            "\0",
        ];
        let (mut accepted, mut refused) = (0, 0);
        for _ in 0..200_000 {
            // Mostly well-formed, so that both outcomes are met.
            let text: String = ["spiffe://", "td", "/ns/", "a", "/sa/", "b", ""]
                .map(|part| match random.random_range(0..6) {
                    0 => pieces[random.random_range(0..pieces.len())],
                    _ => part,
                })
                .concat();
            if let Ok(id) = text.parse::<Identity>() {
                accepted += 1;
                assert_eq!(id.uri(), text);
                let parts = (id.trust_domain(), id.namespace(), id.service_account());
                assert_eq!(Identity::new(parts.0, parts.1, parts.2), Ok(id.clone()));
            } else {
                refused += 1;
            }
        }
        assert!(accepted > 10_000 && refused > 10_000, "{accepted} accepted, {refused} refused");
    }
}
