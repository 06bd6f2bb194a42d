//! Paths rewritten by a pattern.

use crate::text::TextError;
use regex::bytes::{Captures, Regex, RegexBuilder, Replacer};

/// Bytes that one compiled pattern may take.
const PATTERN_BYTES: usize = 1 << 20;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(Box<[u8]>),
    Group(usize),
}

/// Every place that the pattern matches is replaced, in time linear to the path.
#[derive(Debug, Clone)]
pub struct RegexChange {
    regex: Regex,
    parts: Box<[Part]>,
}

impl PartialEq for RegexChange {
    fn eq(&self, other: &Self) -> bool {
        self.regex.as_str() == other.regex.as_str() && self.parts == other.parts
    }
}

impl Eq for RegexChange {}

impl RegexChange {
    /// `substitution` as RE2 has it: `\1` is the first group, `\0` the whole, `\\` a backslash.
    ///
    /// # Errors
    /// What is not understood of either.
    pub fn new(pattern: &str, substitution: &str) -> Result<Self, TextError> {
        let regex = RegexBuilder::new(pattern)
            .unicode(false)
            .size_limit(PATTERN_BYTES)
            .build()
            .map_err(|error| TextError::Pattern(error.to_string()))?;
        let parts = parts(substitution.as_bytes(), regex.captures_len())?;
        Ok(Self { regex, parts })
    }

    /// The path, changed. What a pattern takes apart inside of a character stays readable.
    pub fn apply(&self, path: &str) -> String {
        let changed = self.regex.replace_all(path.as_bytes(), Parts(&self.parts));
        String::from_utf8_lossy(&changed).into_owned()
    }
}

fn parts(text: &[u8], groups: usize) -> Result<Box<[Part]>, TextError> {
    let mut parts = Vec::new();
    let mut plain = Vec::new();
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        if *byte != b'\\' {
            plain.push(*byte);
            continue;
        }
        match bytes.next() {
            Some(b'\\') => plain.push(b'\\'),
            Some(digit @ b'0'..=b'9') if usize::from(digit - b'0') < groups => {
                if !plain.is_empty() {
                    parts.push(Part::Text(std::mem::take(&mut plain).into()));
                }
                parts.push(Part::Group((digit - b'0').into()));
            }
            Some(b'0'..=b'9') => {
                return Err(TextError::Pattern("the substitution names a group that is not there".into()));
            }
            _ => return Err(TextError::Pattern("a backslash in the substitution names no group".into())),
        }
    }
    if !plain.is_empty() {
        parts.push(Part::Text(plain.into()));
    }
    Ok(parts.into())
}

struct Parts<'a>(&'a [Part]);

impl Replacer for Parts<'_> {
    fn replace_append(&mut self, captures: &Captures<'_>, into: &mut Vec<u8>) {
        for part in self.0 {
            match part {
                Part::Text(text) => into.extend_from_slice(text),
                Part::Group(group) => {
                    into.extend_from_slice(captures.get(*group).map_or(&b""[..], |found| found.as_bytes()));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_put_where_the_substitution_says() {
        for (pattern, substitution, path, want) in [
            ("^/service/([^/]+)(/.*)$", r"\2/instance/\1", "/service/foo/v1/api", "/v1/api/instance/foo"),
            ("one", "two", "/xxx/one/yyy/one/zzz", "/xxx/two/yyy/two/zzz"),
            ("^(.*?)one(.*)$", r"\1two\2", "/xxx/one/yyy/one/zzz", "/xxx/two/yyy/one/zzz"),
            ("(?i)/xxx/", "/yyy/", "/aaa/XxX/bbb", "/aaa/yyy/bbb"),
            ("a", r"[\0]\\", "/a", r"/[a]\"),
            ("nothing", "x", "/a", "/a"),
            ("(b)?/a", r"\1/c", "/a", "/c"),
        ] {
            assert_eq!(RegexChange::new(pattern, substitution).unwrap().apply(path), want, "{pattern}");
        }
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for (pattern, substitution) in
            [("(", ""), ("a", r"\1"), ("a", r"\"), ("a", r"\x"), ("(?=a)", ""), ("a{1000}{1000}", "")]
        {
            assert!(RegexChange::new(pattern, substitution).is_err(), "{pattern} {substitution}");
        }
    }
}
