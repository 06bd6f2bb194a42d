//! How much may be under way to one service (circuit breakers).

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use tokio::sync::Notify;

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Request,
    /// A request that waits for a connection.
    Pending,
    Retry,
    Connection,
}

/// What is counted of one service. What was begun while there was no bound is not counted.
#[derive(Debug, Default)]
pub(crate) struct Bounds {
    requests: AtomicU32,
    pending: AtomicU32,
    retries: AtomicU32,
    connections: AtomicU32,
    /// A connection has ended, or is free.
    pub(crate) freed: Notify,
    /// No endpoint of the service is avoided any more then: the usual case costs one look.
    pub(super) avoided_until_ms: AtomicU64,
}

impl Bounds {
    fn count(&self, kind: Kind) -> &AtomicU32 {
        match kind {
            Kind::Request => &self.requests,
            Kind::Pending => &self.pending,
            Kind::Retry => &self.retries,
            Kind::Connection => &self.connections,
        }
    }

    /// A place, where fewer than `limit` are taken.
    pub(super) fn take(self: &Arc<Self>, kind: Kind, limit: u32) -> Option<Place> {
        let room = |taken: u32| (taken < limit).then(|| taken + 1);
        self.count(kind).fetch_update(Relaxed, Relaxed, room).ok()?;
        Some(Place { bounds: self.clone(), kind })
    }

    pub(crate) fn connection(self: &Arc<Self>, limit: u32) -> Option<Place> {
        self.take(Kind::Connection, limit)
    }

    pub(crate) fn pending(self: &Arc<Self>, limit: u32) -> Option<Place> {
        self.take(Kind::Pending, limit)
    }

    pub(super) fn is_used(&self) -> bool {
        [Kind::Request, Kind::Pending, Kind::Retry, Kind::Connection]
            .iter()
            .any(|kind| self.count(*kind).load(Relaxed) > 0)
    }
}

/// One of a bounded number; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    bounds: Arc<Bounds>,
    kind: Kind,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.bounds.count(self.kind).fetch_sub(1, Relaxed);
        if self.kind == Kind::Connection {
            self.bounds.freed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_and_come_back() {
        let bounds = Arc::new(Bounds::default());
        let first = bounds.take(Kind::Request, 2).unwrap();
        let second = bounds.take(Kind::Request, 2).unwrap();
        assert!(bounds.take(Kind::Request, 2).is_none());
        assert!(bounds.take(Kind::Retry, 1).is_some(), "kinds are apart");
        drop(first);
        assert!(bounds.take(Kind::Request, 2).is_some());
        assert!(bounds.is_used());
        drop(second);
        assert!(!bounds.is_used());
    }
}
