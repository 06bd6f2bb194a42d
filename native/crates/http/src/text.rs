//! Predicates over texts: of headers, methods, hosts and paths.

use regex::bytes::{Regex, RegexBuilder};

/// Bytes that one compiled pattern may take. Anybody who may write a route writes patterns, and a request's cost is
/// their size times the text's.
pub(crate) const PATTERN_BYTES: usize = 64 << 10;
/// Bytes that the lazily built automaton of one pattern may take, for each thread that uses it.
pub(crate) const AUTOMATON_BYTES: usize = 64 << 10;

/// Why a text cannot be matched with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    #[error("it matches nothing: want one of exact, prefix, suffix, regex, present")]
    Empty,
    #[error("the pattern is not understood: {0}")]
    Pattern(String),
}

/// A pattern that must match the whole text, in time linear to it. Classes such as `\d` are ASCII's, as in RE2.
#[derive(Debug, Clone)]
pub struct Pattern {
    regex: Regex,
    /// As it was written.
    source: Box<str>,
    ignore_case: bool,
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source && self.ignore_case == other.ignore_case
    }
}

impl Eq for Pattern {}

impl Pattern {
    pub fn new(source: &str, ignore_case: bool) -> Result<Self, TextError> {
        // Compiled by itself first: a stray parenthesis must not close the group around it.
        let build = |text: &str| {
            RegexBuilder::new(text)
                .unicode(false)
                .case_insensitive(ignore_case)
                .size_limit(PATTERN_BYTES)
                .dfa_size_limit(AUTOMATON_BYTES)
                .build()
                .map_err(|error| TextError::Pattern(error.to_string()))
        };
        build(source)?;
        let regex = build(&format!(r"\A(?:{source})\z"))?;
        Ok(Self { regex, source: source.into(), ignore_case })
    }

    pub fn matches(&self, text: &[u8]) -> bool {
        self.regex.is_match(text)
    }

    pub fn source(&self) -> &str {
        &self.source
    }

    /// What every text that matches begins with, as far as it is plain to see.
    pub fn literal_prefix(&self) -> Vec<u8> {
        let mut prefix = Vec::new();
        if self.ignore_case {
            return prefix;
        }
        let parser =
            regex_syntax::ParserBuilder::new().unicode(false).utf8(false).build().parse(&self.source);
        if let Ok(hir) = parser {
            leading_literal(&hir, &mut prefix);
        }
        prefix
    }
}

/// True where the whole expression is that literal, so that what follows it belongs to the prefix, too.
fn leading_literal(hir: &regex_syntax::hir::Hir, prefix: &mut Vec<u8>) -> bool {
    use regex_syntax::hir::{HirKind, Look};
    match hir.kind() {
        HirKind::Empty | HirKind::Look(Look::Start) => true,
        HirKind::Literal(literal) => {
            prefix.extend_from_slice(&literal.0);
            true
        }
        HirKind::Capture(capture) => leading_literal(&capture.sub, prefix),
        HirKind::Concat(parts) => parts.iter().all(|part| leading_literal(part, prefix)),
        HirKind::Class(_) | HirKind::Look(_) | HirKind::Repetition(_) | HirKind::Alternation(_) => false,
    }
}

/// One predicate over one text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TextMatch {
    Exact(Box<str>),
    Prefix(Box<str>),
    Suffix(Box<str>),
    Regex(Box<Pattern>),
    Present,
    /// Without regard to the case of ASCII letters; `text` is in lower case.
    Folded {
        kind: FoldedKind,
        text: Box<str>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FoldedKind {
    Exact,
    Prefix,
    Suffix,
}

impl TextMatch {
    pub fn exact(text: &str) -> Self {
        Self::Exact(text.into())
    }

    pub fn regex(source: &str) -> Result<Self, TextError> {
        Ok(Self::Regex(Box::new(Pattern::new(source, false)?)))
    }

    pub fn matches(&self, text: &[u8]) -> bool {
        match self {
            Self::Exact(want) => text == want.as_bytes(),
            Self::Prefix(want) => text.starts_with(want.as_bytes()),
            Self::Suffix(want) => text.ends_with(want.as_bytes()),
            Self::Regex(pattern) => pattern.matches(text),
            Self::Present => true,
            Self::Folded { kind, text: want } => {
                let want = want.as_bytes();
                let part = match kind {
                    FoldedKind::Exact if text.len() == want.len() => Some(text),
                    FoldedKind::Exact => None,
                    FoldedKind::Prefix => text.get(..want.len()),
                    FoldedKind::Suffix => {
                        text.len().checked_sub(want.len()).and_then(|from| text.get(from..))
                    }
                };
                part.is_some_and(|part| part.eq_ignore_ascii_case(want))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_texts() {
        let pattern = Pattern::new("a|b", false).unwrap();
        assert!(pattern.matches(b"a") && pattern.matches(b"b"));
        assert!(!pattern.matches(b"ab") && !pattern.matches(b"xa") && !pattern.matches(b"a\n"));
        assert!(Pattern::new("A+", true).unwrap().matches(b"aAa"));
        assert!(Pattern::new(r"\d", false).unwrap().matches(b"7"));
        for bad in ["(", "a)(b", "[", r"\1", "(?=a)", "a{1000}{1000}", "(a{100}b{100}){50}"] {
            assert!(Pattern::new(bad, false).is_err(), "accepted {bad}");
        }
        assert!(Pattern::new("/api/v[0-9]+/([a-z0-9-]{1,63}/){0,4}[^/]*", false).is_ok());
    }

    #[test]
    fn the_literal_prefix_is_never_more_than_what_must_come_first() {
        for (source, want) in [
            ("/api/v1/[0-9]+", "/api/v1/"),
            ("^/a/b$", "/a/b"),
            ("/a(/b)c.*", "/a/bc"),
            ("/a(/b)?", "/a"),
            ("/a|b", ""),
            ("(?i)/a", "/"),
            (".*", ""),
            ("/ab*", "/a"),
        ] {
            let prefix = Pattern::new(source, false).unwrap().literal_prefix();
            assert_eq!(String::from_utf8(prefix).unwrap(), want, "{source}");
        }
        assert_eq!(Pattern::new("/a", true).unwrap().literal_prefix(), b"");
    }

    #[test]
    fn folded_texts_ignore_case() {
        let folded = |kind| TextMatch::Folded { kind, text: "ab".into() };
        assert!(folded(FoldedKind::Exact).matches(b"AB") && !folded(FoldedKind::Exact).matches(b"ABc"));
        assert!(folded(FoldedKind::Prefix).matches(b"aBc") && !folded(FoldedKind::Prefix).matches(b"a"));
        assert!(folded(FoldedKind::Suffix).matches(b"cAb") && !folded(FoldedKind::Suffix).matches(b"b"));
    }
}
