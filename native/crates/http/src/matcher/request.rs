//! What of a request routes look at.

use http::{HeaderMap, HeaderName, Method};
use std::borrow::Cow;

/// A request after hygiene and normalisation.
#[derive(Debug, Clone, Copy)]
pub struct RequestView<'a> {
    /// In lower case, without port.
    pub host: &'a str,
    /// Normalised.
    pub path: &'a str,
    /// As sent, without the question mark.
    pub query: Option<&'a str>,
    pub method: &'a Method,
    pub scheme: &'a str,
    pub headers: &'a HeaderMap,
    /// The original caller's namespace; empty where it has no identity.
    pub source_namespace: &'a str,
    /// That was connected to.
    pub port: u16,
}

impl<'a> RequestView<'a> {
    /// A header's value; several are joined by a comma (RFC 9110, 5.3).
    pub fn header(&self, name: &HeaderName) -> Option<Cow<'a, [u8]>> {
        joined(self.headers, name)
    }

    /// The first parameter of a name, decoded.
    pub fn query_parameter(&self, name: &str) -> Option<Cow<'a, [u8]>> {
        query_parameter(self.query?, name)
    }
}

/// The first parameter of a name, decoded; `query` without the question mark.
pub(crate) fn query_parameter<'a>(query: &'a str, name: &str) -> Option<Cow<'a, [u8]>> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (*form_decode(key) == *name.as_bytes()).then(|| form_decode(value))
    })
}

pub fn joined<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<Cow<'a, [u8]>> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?.as_bytes();
    let Some(second) = values.next() else { return Some(Cow::Borrowed(first)) };
    let mut all = first.to_vec();
    for value in std::iter::once(second).chain(values) {
        all.push(b',');
        all.extend_from_slice(value.as_bytes());
    }
    Some(Cow::Owned(all))
}

/// `application/x-www-form-urlencoded`: "+" is a space, encoded octets are decoded, others stay.
pub(crate) fn form_decode(text: &str) -> Cow<'_, [u8]> {
    let bytes = text.as_bytes();
    if !bytes.iter().any(|byte| matches!(byte, b'%' | b'+')) {
        return Cow::Borrowed(bytes);
    }
    let digit = |at: usize| bytes.get(at).and_then(|byte| (*byte as char).to_digit(16));
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match (bytes[at], digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high << 4 | low) as u8);
                at += 2;
            }
            (b'+', ..) => out.push(b' '),
            (byte, ..) => out.push(byte),
        }
        at += 1;
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_parameter_of_a_name_counts() {
        let headers = HeaderMap::new();
        let view = RequestView {
            host: "a",
            path: "/",
            query: Some("x=1&a+b=%41%zz&x=2&flag"),
            method: &Method::GET,
            scheme: "http",
            headers: &headers,
            source_namespace: "",
            port: 80,
        };
        let get =
            |name| view.query_parameter(name).map(|value| String::from_utf8(value.into_owned()).unwrap());
        assert_eq!(get("x").as_deref(), Some("1"));
        assert_eq!(get("a b").as_deref(), Some("A%zz"));
        assert_eq!(get("flag").as_deref(), Some(""));
        assert_eq!(get("absent"), None);
    }
}
