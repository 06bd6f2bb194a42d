//! Paths rewritten by a pattern.

use crate::text::{AUTOMATON_BYTES, PATTERN_BYTES, TextError};
use regex::bytes::{Captures, Regex, RegexBuilder};

/// Bytes of a substitution.
const SUBSTITUTION_BYTES: usize = 4 << 10;
/// Bytes of a path that is changed, and of what it becomes.
const PATH_BYTES: usize = 16 << 10;
/// Bytes that are looked at for one path, as far as each search may see all that is left of it.
const SEEN_BYTES: usize = 256 << 10;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(Box<[u8]>),
    Group(usize),
}

/// Every place that the pattern matches is replaced.
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
    /// What is not understood of either, or too large.
    pub fn new(pattern: &str, substitution: &str) -> Result<Self, TextError> {
        if substitution.len() > SUBSTITUTION_BYTES {
            return Err(TextError::Pattern("the substitution is longer than 4 KiB".into()));
        }
        let regex = RegexBuilder::new(pattern)
            .unicode(false)
            .size_limit(PATTERN_BYTES)
            .dfa_size_limit(AUTOMATON_BYTES)
            .build()
            .map_err(|error| TextError::Pattern(error.to_string()))?;
        let parts = parts(substitution.as_bytes(), regex.captures_len())?;
        Ok(Self { regex, parts })
    }

    /// The path, changed. What a pattern takes apart inside of a character stays readable. `None` where the path,
    /// the new one or the work between them is too much: a search from every place that was found is quadratic.
    pub fn apply(&self, path: &str) -> Option<String> {
        let bytes = path.as_bytes();
        if bytes.len() > PATH_BYTES {
            return None;
        }
        let mut into = Vec::with_capacity(bytes.len());
        let (mut end, mut left) = (0, SEEN_BYTES);
        let mut found = self.regex.captures_iter(bytes);
        loop {
            left = left.checked_sub(bytes.len() - end)?;
            let Some(captures) = found.next() else { break };
            let Some(whole) = captures.get(0) else { break };
            append(&mut into, &bytes[end..whole.start()])?;
            end = whole.end();
            self.replace(&captures, &mut into)?;
        }
        append(&mut into, &bytes[end..])?;
        Some(String::from_utf8_lossy(&into).into_owned())
    }

    fn replace(&self, captures: &Captures<'_>, into: &mut Vec<u8>) -> Option<()> {
        self.parts.iter().try_for_each(|part| match part {
            Part::Text(text) => append(into, text),
            Part::Group(group) => {
                append(into, captures.get(*group).map_or(&b""[..], |found| found.as_bytes()))
            }
        })
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

fn append(into: &mut Vec<u8>, bytes: &[u8]) -> Option<()> {
    (into.len() + bytes.len() <= PATH_BYTES).then(|| into.extend_from_slice(bytes))
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
            ("b*", "-", "/ab", "-/-a-"),
        ] {
            let changed = RegexChange::new(pattern, substitution).unwrap().apply(path);
            assert_eq!(changed.as_deref(), Some(want), "{pattern}");
        }
    }

    #[test]
    fn neither_the_new_path_nor_the_work_is_more_than_a_multiple_of_the_old_one() {
        let change = |pattern, substitution: &str| RegexChange::new(pattern, substitution).unwrap();
        let path = |length: usize| format!("/{}", "A".repeat(length - 1));
        assert_eq!(change("^/A", "/B").apply(&path(PATH_BYTES)).unwrap().len(), PATH_BYTES);
        assert_eq!(change("^/A", "/B").apply(&path(PATH_BYTES + 1)), None, "too long");
        assert_eq!(change("^.*$", &r"\0".repeat(2000)).apply(&path(1 << 10)), None, "becomes too long");
        assert_eq!(change("^/", &r"\0".repeat(2000)).apply("/a").unwrap().len(), 2001);
        // Each search sees all of the rest, and takes one letter of it.
        let quadratic = change(".*[^/A-Z]|[A-Z]", "b");
        assert_eq!(quadratic.apply(&path(400)).unwrap(), path(400).replace('A', "b"));
        assert_eq!(quadratic.apply(&path(PATH_BYTES)), None);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for (pattern, substitution) in [
            ("(", ""),
            ("a", r"\1"),
            ("a", r"\"),
            ("a", r"\x"),
            ("(?=a)", ""),
            ("a{1000}{1000}", ""),
            ("(a{100}b{100}){50}", ""),
        ] {
            assert!(RegexChange::new(pattern, substitution).is_err(), "{pattern} {substitution}");
        }
        assert!(RegexChange::new("a", &"x".repeat(SUBSTITUTION_BYTES)).is_ok());
        assert!(RegexChange::new("a", &"x".repeat(SUBSTITUTION_BYTES + 1)).is_err());
    }
}
