//! What of a request a consistent hash is of.

use super::policy::{HashKey, HashOf};
use super::ring::hash_of;
use http::header::{COOKIE, HeaderMap, HeaderValue};
use std::net::IpAddr;

/// A request, as far as hashes look at it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HashInput<'a> {
    /// As they are sent on.
    pub(crate) headers: &'a HeaderMap,
    /// As sent, without the question mark.
    pub(crate) query: Option<&'a str>,
    pub(crate) source_ip: IpAddr,
}

/// The request's hash, and a cookie that the client is to be sent with it. `None`: it has nothing to hash.
pub(super) fn of_request(key: &HashKey, input: &HashInput<'_>) -> Option<(u64, Option<HeaderValue>)> {
    match &key.of {
        HashOf::Header(name) => {
            let value = crate::matcher::joined(input.headers, name)?;
            Some((hash_of(&*value), None))
        }
        HashOf::SourceIp => Some((hash_of(input.source_ip), None)),
        HashOf::Query(name) => {
            let value = crate::matcher::query_parameter(input.query?, name)?;
            Some((hash_of(&*value), None))
        }
        HashOf::Cookie(name) => match (cookie(input.headers, name), key.ttl_s) {
            (Some(value), _) => Some((hash_of(value.as_bytes()), None)),
            (None, None) => None,
            (None, Some(ttl_s)) => {
                let value = format!("{:016x}", rand::random::<u64>());
                let path = if key.path.is_empty() { String::new() } else { format!("; Path={}", key.path) };
                let age = if ttl_s == 0 { String::new() } else { format!("; Max-Age={ttl_s}") };
                let made = HeaderValue::try_from(format!("{name}={value}{age}{path}; HttpOnly")).ok();
                Some((hash_of(value.as_bytes()), made))
            }
        },
    }
}

fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let lines = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hashed(of: HashOf, ttl_s: Option<u32>, headers: &HeaderMap) -> Option<(u64, Option<HeaderValue>)> {
        let input = HashInput { headers, query: Some("a=1&user=%41"), source_ip: [10, 0, 0, 1].into() };
        of_request(&HashKey { of, ttl_s, path: "/shop".into() }, &input)
    }

    #[test]
    fn each_part_of_a_request_has_a_hash() {
        let mut headers = HeaderMap::new();
        headers.insert("x-user", HeaderValue::from_static("ann"));
        headers.insert("cookie", HeaderValue::from_static("other=1; session=ann"));
        let of_header = hashed(HashOf::Header("x-user".parse().unwrap()), None, &headers);
        assert_eq!(of_header, Some((hash_of(&b"ann"[..]), None)));
        assert_eq!(hashed(HashOf::Cookie("session".into()), Some(60), &headers), of_header);
        assert_eq!(hashed(HashOf::Query("user".into()), None, &headers), Some((hash_of(&b"A"[..]), None)));
        assert!(hashed(HashOf::SourceIp, None, &headers).is_some());
        for absent in [
            HashOf::Header("x-none".parse().unwrap()),
            HashOf::Query("none".into()),
            HashOf::Cookie("none".into()),
        ] {
            assert_eq!(hashed(absent, None, &headers), None);
        }
    }

    #[test]
    fn a_cookie_is_made_where_there_is_none() {
        let headers = HeaderMap::new();
        let (hash, made) = hashed(HashOf::Cookie("session".into()), Some(60), &headers).unwrap();
        let made = made.unwrap().to_str().unwrap().to_owned();
        assert!(
            made.starts_with("session=") && made.ends_with("; Max-Age=60; Path=/shop; HttpOnly"),
            "{made}"
        );
        // Sent back, it leads to the same place.
        let mut headers = HeaderMap::new();
        headers.insert("cookie", made.split(';').next().unwrap().parse().unwrap());
        assert_eq!(hashed(HashOf::Cookie("session".into()), Some(60), &headers), Some((hash, None)));
        let (_, made) = hashed(HashOf::Cookie("session".into()), Some(0), &HeaderMap::new()).unwrap();
        assert!(!made.unwrap().to_str().unwrap().contains("Max-Age"));
    }
}
