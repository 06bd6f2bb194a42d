//! Tokens that were found good, so that a signature is verified once and not with each request.

use super::claims::Claims;
use super::token::SKEW_S;
use aws_lc_rs::digest;
use hashbrown::HashMap;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Of all claims that are kept, about.
const MOST_BYTES: usize = 4 << 20;

/// A rule with its keys, and the token's hash: the token itself is not kept.
type Key = (u64, [u8; 32]);

/// The oldest goes first where there is no room.
#[derive(Debug, Default)]
pub(super) struct Cache {
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    claims: HashMap<Key, Arc<Claims>>,
    order: VecDeque<Key>,
    bytes: usize,
}

fn key(id: u64, text: &str) -> Key {
    let hash = digest::digest(&digest::SHA256, text.as_bytes());
    let mut bytes = [0; 32];
    bytes.copy_from_slice(hash.as_ref());
    (id, bytes)
}

impl Cache {
    /// What the verifier `id` found, unless it has expired since.
    pub(super) fn get(&self, id: u64, text: &str, now: SystemTime) -> Option<Arc<Claims>> {
        let claims = self.held.lock().claims.get(&key(id, text)).cloned()?;
        let end = claims.expires().and_then(|expires| expires.checked_add(Duration::from_secs(SKEW_S)));
        end.is_none_or(|end| now <= end).then_some(claims)
    }

    pub(super) fn put(&self, id: u64, text: &str, claims: Arc<Claims>) {
        let key = key(id, text);
        let mut held = self.held.lock();
        held.bytes += claims.size();
        match held.claims.insert(key, claims) {
            Some(before) => held.bytes -= before.size(),
            None => held.order.push_back(key),
        }
        while held.bytes > MOST_BYTES {
            let Some(oldest) = held.order.pop_front() else { break };
            if let Some(claims) = held.claims.remove(&oldest) {
                held.bytes -= claims.size();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn claims(value: serde_json::Value, payload: &str) -> Arc<Claims> {
        Arc::new(Claims::new(value.as_object().unwrap().clone(), payload))
    }

    #[test]
    fn what_was_found_holds_for_that_verifier_until_it_expires() {
        let cache = Cache::default();
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        cache.put(1, "t", claims(json!({"exp": 1000}), "p"));
        assert!(cache.get(1, "t", at(1059)).is_some());
        assert!(cache.get(1, "t", at(1061)).is_none());
        assert!(cache.get(2, "t", at(0)).is_none());
        assert!(cache.get(1, "u", at(0)).is_none());
    }

    #[test]
    fn it_is_bounded_and_the_newest_stay() {
        let cache = Cache::default();
        let payload = "x".repeat(MOST_BYTES / 40);
        for index in 0..30 {
            cache.put(1, &index.to_string(), claims(json!({}), &payload));
        }
        let now = SystemTime::now();
        let held = (0..30).filter(|index| cache.get(1, &index.to_string(), now).is_some());
        assert_eq!(held.collect::<Vec<_>>(), (20..30).collect::<Vec<_>>());
    }
}
