//! One connection inside a tunnel.
use crate::Budget;
use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::Poll;
use std::time::Duration;
use tokio::time::Instant;

/// Longest wait for data before a reset.
const FLUSH: Duration = Duration::from_millis(100);

/// Both directions of a CONNECT that was accepted. Dropping it before both ended resets it.
#[derive(Debug)]
pub struct TunnelStream {
    pub(crate) send: SendStream<Bytes>,
    pub(crate) receive: RecvStream,
    /// Most bytes that `send` takes before they are on their way.
    pub(crate) send_buffer_bytes: usize,
    pub(crate) budget: Budget,
    /// Client side: the place it takes among the tunnel's streams.
    pub(crate) _slot: Option<Slot>,
}

impl TunnelStream {
    /// Waits until what was sent is on its way, or a moment has passed: a reset would drop it.
    pub(crate) async fn flush(&mut self) {
        // Room for a whole buffer means that nothing is in it.
        self.send.reserve_capacity(self.send_buffer_bytes);
        let flushed = std::future::poll_fn(|cx| {
            while self.send.capacity() < self.send_buffer_bytes {
                match std::task::ready!(self.send.poll_capacity(cx)) {
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => break,
                }
            }
            Poll::Ready(())
        });
        let _ = tokio::time::timeout(FLUSH, flushed).await;
    }

    /// Ends the stream as a TCP reset would: what is buffered is dropped, the peer is told that the
    /// connection failed (RFC 9113, 8.5).
    pub fn reset(&mut self) {
        self.send.send_reset(Reason::CONNECT_ERROR);
    }
}

/// Counts the streams of one tunnel, and since when it has none.
#[derive(Debug)]
pub(crate) struct Slots {
    active: AtomicU32,
    limit: AtomicU32,
    idle_since: parking_lot::Mutex<Instant>,
}

impl Slots {
    pub(crate) fn new(limit: u32) -> Arc<Self> {
        Arc::new(Self {
            active: AtomicU32::new(0),
            limit: AtomicU32::new(limit),
            idle_since: parking_lot::Mutex::new(Instant::now()),
        })
    }

    /// Takes a place, or `None` when the tunnel is full.
    pub(crate) fn take(self: &Arc<Self>) -> Option<Slot> {
        let limit = self.limit.load(Ordering::Relaxed);
        self.active
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| (n < limit).then_some(n + 1))
            .ok()
            .map(|_| Slot(self.clone()))
    }

    pub(crate) fn active(&self) -> u32 {
        self.active.load(Ordering::Acquire)
    }

    /// How long the tunnel has had no stream; `None` while it has one.
    pub(crate) fn idle(&self) -> Option<Duration> {
        (self.active() == 0).then(|| self.idle_since.lock().elapsed())
    }
}

/// A place among a tunnel's streams, given back when dropped, however the stream ended.
#[derive(Debug)]
pub(crate) struct Slot(Arc<Slots>);

impl Drop for Slot {
    fn drop(&mut self) {
        *self.0.idle_since.lock() = Instant::now();
        self.0.active.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_tunnel_has_no_place_until_one_is_given_back() {
        let slots = Slots::new(2);
        let first = slots.take().unwrap();
        let _second = slots.take().unwrap();
        assert!(slots.take().is_none());
        assert!(slots.idle().is_none());
        drop(first);
        assert!(slots.take().is_some());
    }
}
