//! Where tokens lie in a request, and how they are taken out of it.

use crate::matcher::form_decode;
use http::header::{AUTHORIZATION, COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// After a prefix, which is compared without case: a scheme has none (RFC 9110, 11.1).
    Header {
        name: HeaderName,
        prefix: Box<str>,
    },
    /// Of the query.
    Parameter(Box<str>),
    Cookie(Box<str>),
}

/// In the order in which they are looked into.
#[derive(Debug, Default)]
pub(super) struct Places(Vec<Place>);

impl Places {
    /// Where rules look that say nothing else (RFC 6750).
    pub(super) fn usual() -> Self {
        let bearer = Place::Header { name: AUTHORIZATION, prefix: "Bearer ".into() };
        Self(vec![bearer, Place::Parameter("access_token".into())])
    }

    pub(super) fn new(places: Vec<Place>) -> Self {
        if places.is_empty() { Self::usual() } else { Self(places) }
    }

    /// All places of several rules, each once.
    pub(super) fn of<'a>(all: impl Iterator<Item = &'a Self>) -> Self {
        let mut places: Vec<Place> = Vec::new();
        for place in all.flat_map(|places| &places.0) {
            if !places.contains(place) {
                places.push(place.clone());
            }
        }
        Self(places)
    }

    pub(super) fn has(&self, place: &Place) -> bool {
        self.0.contains(place)
    }

    /// Every token of a request: of several in one place, too.
    pub(super) fn tokens(&self, headers: &HeaderMap, query: Option<&str>) -> Vec<(Place, String)> {
        let found = self.0.iter().flat_map(|place| {
            let texts = place.texts(headers, query);
            texts.into_iter().map(move |text| (place.clone(), text))
        });
        found.collect()
    }
}

impl Place {
    fn texts(&self, headers: &HeaderMap, query: Option<&str>) -> Vec<String> {
        match self {
            Self::Header { name, prefix } => {
                let values = headers.get_all(name).iter();
                values.filter_map(|value| after(prefix, value.as_bytes())).collect()
            }
            Self::Parameter(name) => {
                let pairs = query.into_iter().flat_map(|query| query.split('&')).map(pair);
                let named = pairs.filter(|(key, _)| *form_decode(key) == *name.as_bytes());
                let values =
                    named.map(|(_, value)| String::from_utf8_lossy(&form_decode(value)).into_owned());
                values.filter(|value| !value.is_empty()).collect()
            }
            Self::Cookie(name) => {
                let mut found = Vec::new();
                for crumb in headers.get_all(COOKIE).iter().flat_map(crumbs) {
                    let (key, value) = pair(&crumb);
                    if *key == **name && !value.is_empty() {
                        found.push(unquoted(value).to_owned());
                    }
                }
                found
            }
        }
    }

    /// Takes a token out. What stands beside it stays.
    pub(super) fn remove(&self, text: &str, headers: &mut HeaderMap, query: &mut Option<String>) {
        match self {
            Self::Header { name, prefix } => {
                let other = |value: &&HeaderValue| after(prefix, value.as_bytes()).as_deref() != Some(text);
                let rest: Vec<_> = headers.get_all(name).iter().filter(other).cloned().collect();
                replace(headers, name, rest);
            }
            Self::Parameter(name) => {
                let Some(before) = query.take() else { return };
                let other = |part: &&str| {
                    let (key, value) = pair(part);
                    *form_decode(key) != *name.as_bytes() || *form_decode(value) != *text.as_bytes()
                };
                let rest: Vec<_> = before.split('&').filter(other).collect();
                *query = (!rest.is_empty()).then(|| rest.join("&"));
            }
            Self::Cookie(name) => {
                let other = |crumb: &String| {
                    let (key, value) = pair(crumb);
                    *key != **name || unquoted(value) != text
                };
                let rest: Vec<_> = headers
                    .get_all(COOKIE)
                    .iter()
                    .map(|value| crumbs(value).into_iter().filter(other).collect::<Vec<_>>().join("; "))
                    .filter(|value| !value.is_empty())
                    .filter_map(|value| HeaderValue::from_bytes(value.as_bytes()).ok())
                    .collect();
                replace(headers, &COOKIE, rest);
            }
        }
    }
}

fn replace(headers: &mut HeaderMap, name: &HeaderName, values: Vec<HeaderValue>) {
    headers.remove(name);
    for value in values {
        headers.append(name, value);
    }
}

/// What follows the prefix; nothing where it is not there, or nothing follows. Bytes that are no text become
/// characters that no token has: it is refused.
fn after(prefix: &str, value: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(value);
    let text = text.trim();
    let scheme = prefix.trim_end();
    let begin = text.get(..scheme.len())?;
    let rest = &text[scheme.len()..];
    let parted = scheme.len() == prefix.len() || rest.starts_with([' ', '\t']);
    let token = rest.trim_start();
    (begin.eq_ignore_ascii_case(scheme) && parted && !token.is_empty()).then(|| token.to_owned())
}

fn pair(text: &str) -> (&str, &str) {
    text.split_once('=').unwrap_or((text, ""))
}

fn crumbs(value: &HeaderValue) -> Vec<String> {
    let text = String::from_utf8_lossy(value.as_bytes());
    text.split(';').map(|crumb| crumb.trim().to_owned()).filter(|crumb| !crumb.is_empty()).collect()
}

/// RFC 6265, 4.1.1: a value may stand in quotes.
fn unquoted(value: &str) -> &str {
    value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places() -> Places {
        Places(vec![
            Place::Header { name: AUTHORIZATION, prefix: "Bearer ".into() },
            Place::Header { name: HeaderName::from_static("x-token"), prefix: "".into() },
            Place::Parameter("t k".into()),
            Place::Cookie("jwt".into()),
        ])
    }

    fn headers(list: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in list {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn every_token_of_every_place_is_found() {
        let headers = headers(&[
            ("authorization", "bearer  a"),
            ("authorization", "Bearer\tb"),
            ("authorization", "Basic c"),
            ("authorization", "Bearer"),
            ("authorization", "Bearerd"),
            ("x-token", "e"),
            ("cookie", "x=1; jwt=f; jwt=\"g\""),
            ("cookie", "jwt=h"),
        ]);
        let found = places().tokens(&headers, Some("t+k=i&x=j&t%20k=%6B&t+k="));
        let texts: Vec<_> = found.iter().map(|(_, text)| text.as_str()).collect();
        assert_eq!(texts, ["a", "b", "e", "i", "k", "f", "g", "h"]);
    }

    #[test]
    fn a_token_is_taken_out_and_what_stands_beside_it_stays() {
        let mut headers = headers(&[
            ("authorization", "Bearer a"),
            ("authorization", "Basic c"),
            ("cookie", "x=1; jwt=f; y=2"),
            ("cookie", "jwt=f"),
        ]);
        let mut query = Some("p=1&t+k=f&q".to_owned());
        let [bearer, _, parameter, cookie] = &places().0[..] else { panic!("four places") };
        bearer.remove("a", &mut headers, &mut query);
        parameter.remove("f", &mut headers, &mut query);
        cookie.remove("f", &mut headers, &mut query);
        assert_eq!(headers.get_all(AUTHORIZATION).iter().collect::<Vec<_>>(), ["Basic c"]);
        assert_eq!(headers.get_all(COOKIE).iter().collect::<Vec<_>>(), ["x=1; y=2"]);
        assert_eq!(query.as_deref(), Some("p=1&q"));
        let mut alone = Some("t+k=f".to_owned());
        parameter.remove("f", &mut headers, &mut alone);
        assert_eq!(alone, None);
    }
}
