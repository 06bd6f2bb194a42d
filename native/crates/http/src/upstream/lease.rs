//! The right to a connection while its response is under way.

use super::multiplexed::Active;
use super::single::{H1, Unused};
use super::{Inner, Terms};
use crate::balance::Usage;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Instant;

#[derive(Debug)]
pub(crate) struct Lease<K: Hash + Eq> {
    held: Held<K>,
    /// What the request counts for at its endpoint.
    pub(super) usage: Option<Usage>,
}

#[derive(Debug)]
enum Held<K: Hash + Eq> {
    Single { inner: Arc<Inner<K>>, key: K, sender: H1, terms: Terms, served: u32 },
    Shared { _active: Active },
}

impl<K: Hash + Eq> Lease<K> {
    /// `served`: requests that the connection has carried, this one included.
    pub(super) fn single(inner: Arc<Inner<K>>, key: K, sender: H1, terms: Terms, served: u32) -> Self {
        Self { held: Held::Single { inner, key, sender, terms, served }, usage: None }
    }

    pub(super) fn shared(active: Active) -> Self {
        Self { held: Held::Shared { _active: active }, usage: None }
    }

    /// The response has come in full: the connection may be used again. A lease that is dropped instead ends
    /// an HTTP/1.1 connection.
    pub(crate) fn give_back(self) {
        if let Held::Single { inner, key, sender, terms, served } = self.held
            && !sender.is_closed()
            && !terms.is_worn_out(served)
        {
            let bounds = terms.bounds.clone();
            {
                let mut endpoints = inner.endpoints.lock();
                let endpoint = endpoints.entry(key).or_default();
                if endpoint.unused.len() < inner.limits.idle_connections {
                    endpoint.unused.push(Unused { sender, since: Instant::now(), served, terms });
                }
            }
            if let Some(bounds) = bounds {
                bounds.freed.notify_waiters();
            }
        }
    }
}
