//! How many retries there may be at a time.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Retries that are allowed at a time however few requests there are.
const FREE_RETRIES: u64 = 3;

/// Requests and retries under way.
#[derive(Debug, Default)]
pub(super) struct Budget {
    pub(super) requests: AtomicU64,
    retries: AtomicU64,
}

/// One more under way, until it is dropped.
#[derive(Debug)]
pub(super) struct Counted<'a>(&'a AtomicU64);

impl<'a> Counted<'a> {
    pub(super) fn new(count: &'a AtomicU64) -> Self {
        count.fetch_add(1, Relaxed);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Budget {
    pub(super) fn retry(&self, per_million: u32) -> Option<Counted<'_>> {
        let retry = Counted::new(&self.retries);
        let (retries, requests) = (self.retries.load(Relaxed), self.requests.load(Relaxed));
        let allowed = (requests * u64::from(per_million) / 1_000_000).max(FREE_RETRIES);
        (retries <= allowed).then_some(retry)
    }
}
