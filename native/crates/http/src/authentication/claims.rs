//! What a verified token says.

use serde_json::{Map, Value};
use std::time::{Duration, SystemTime};

/// Claims that are lists written as one text (RFC 8693, 4.2; and what is in use beside it).
const SPACED: [&str; 2] = ["scope", "permission"];

/// The payload of a token whose signature, times, issuer and audience were found good.
#[derive(Debug)]
pub struct Claims {
    all: Map<String, Value>,
    /// `ISSUER/SUBJECT`, where there is a subject.
    principal: Option<Box<str>>,
    /// As it stands in the token, base64url.
    payload: Box<str>,
    /// `exp`, without the skew that is allowed.
    expires: Option<SystemTime>,
}

impl Claims {
    pub(crate) fn new(all: Map<String, Value>, payload: &str) -> Self {
        let text = |name: &str| all.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
        let principal = text("iss").zip(text("sub")).map(|(issuer, subject)| format!("{issuer}/{subject}"));
        let seconds = all.get("exp").and_then(Value::as_f64).filter(|seconds| *seconds >= 0.0);
        let expires = seconds
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
            .and_then(|since| SystemTime::UNIX_EPOCH.checked_add(since));
        Self { principal: principal.map(Into::into), payload: payload.into(), expires, all }
    }

    pub(crate) fn principal(&self) -> Option<&str> {
        self.principal.as_deref()
    }

    pub(super) fn payload(&self) -> &str {
        &self.payload
    }

    pub(super) fn expires(&self) -> Option<SystemTime> {
        self.expires
    }

    /// Bytes, about: for bounds.
    pub(super) fn size(&self) -> usize {
        // The parsed form is some times as large as the text.
        self.payload.len() * 4
    }

    /// The texts of a claim, nested by `path`: one, or those of a list. `None`: it is not there, or has no text.
    pub(crate) fn texts(&self, path: &[Box<str>]) -> Option<Vec<&str>> {
        let (first, rest) = path.split_first()?;
        let mut value = self.all.get(&**first)?;
        for name in rest {
            value = value.as_object()?.get(&**name)?;
        }
        match value {
            Value::String(text) if rest.is_empty() && SPACED.contains(&&**first) => {
                Some(text.split(' ').filter(|word| !word.is_empty()).collect())
            }
            Value::String(text) => Some(vec![text]),
            Value::Array(list) => Some(list.iter().filter_map(Value::as_str).collect()),
            _ => None,
        }
    }

    /// A claim as a header's text, nested by dots: texts, numbers and truth values as they are written, what is
    /// more as base64 of its JSON.
    pub(super) fn header_text(&self, path: &str) -> Option<String> {
        use base64::Engine as _;
        let value = self.dotted(path)?;
        Some(match value {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            Value::Bool(truth) => truth.to_string(),
            Value::Null => return None,
            Value::Array(_) | Value::Object(_) => {
                base64::engine::general_purpose::STANDARD.encode(value.to_string())
            }
        })
    }

    /// A name may itself have dots (`https://example.com/roles`): the whole is looked for first.
    fn dotted(&self, path: &str) -> Option<&Value> {
        if let Some(value) = self.all.get(path) {
            return Some(value);
        }
        let mut names = path.split('.');
        let first = self.all.get(names.next()?)?;
        names.try_fold(first, |value, name| value.as_object()?.get(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn claims(value: Value) -> Claims {
        Claims::new(value.as_object().unwrap().clone(), "e30")
    }

    fn path(names: &[&str]) -> Vec<Box<str>> {
        names.iter().map(|name| (*name).into()).collect()
    }

    #[test]
    fn a_principal_needs_both_its_parts() {
        assert_eq!(claims(json!({"iss": "i", "sub": "s"})).principal(), Some("i/s"));
        for value in [json!({"iss": "i"}), json!({"sub": "s"}), json!({"iss": "i", "sub": ""}), json!({})] {
            assert_eq!(claims(value.clone()).principal(), None, "{value}");
        }
    }

    #[test]
    fn claims_are_texts_and_lists_of_texts() {
        let claims = claims(json!({
            "group": "a b", "groups": ["a", 7, "b"], "scope": "read  write", "n": 1, "t": true,
            "realm": {"roles": ["x"], "name": "r"},
        }));
        for (names, want) in [
            (&["group"][..], Some(vec!["a b"])),
            (&["groups"], Some(vec!["a", "b"])),
            (&["scope"], Some(vec!["read", "write"])),
            (&["realm", "roles"], Some(vec!["x"])),
            (&["realm", "name"], Some(vec!["r"])),
            (&["realm", "name", "further"], None),
            (&["realm"], None),
            (&["n"], None),
            (&["t"], None),
            (&["absent"], None),
            (&[], None),
        ] {
            assert_eq!(claims.texts(&path(names)), want, "{names:?}");
        }
    }

    #[test]
    fn headers_are_written_as_texts() {
        let claims = claims(json!({
            "a": {"b": "c"}, "n": 1.5, "i": 7, "t": true, "l": [1], "x": null, "https://e.x/r": "dotted",
        }));
        for (name, want) in [
            ("a.b", Some("c")),
            ("n", Some("1.5")),
            ("i", Some("7")),
            ("t", Some("true")),
            ("l", Some("WzFd")),
            ("https://e.x/r", Some("dotted")),
            ("x", None),
            ("a.c", None),
            ("", None),
        ] {
            assert_eq!(claims.header_text(name).as_deref(), want, "{name}");
        }
    }
}
