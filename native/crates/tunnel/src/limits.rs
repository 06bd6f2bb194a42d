//! Sizes, counts and times of a tunnel. Defaults are those that ambient's peers use, except where
//! said otherwise.
use crate::Budget;
use crate::buffers::LARGEST_READ;
use std::time::Duration;
use tokio::sync::watch;

/// The window of a tunnel's streams, as it follows the budget.
pub(crate) struct StreamWindow {
    full: u32,
    announced: u32,
    scarce: watch::Receiver<bool>,
}

impl StreamWindow {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self { full: limits.stream_window, announced: limits.stream_window, scarce: limits.budget.scarce() }
    }

    /// Completes when another window may be wanted. Never, if the budget is gone.
    pub(crate) async fn changed(&mut self) {
        if self.scarce.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Announces the window that is wanted now. A peer that has not acknowledged the last one cannot be told
    /// another: that is tried again at the next call.
    pub(crate) fn announce(&mut self, set: impl FnOnce(u32) -> Result<(), h2::Error>) {
        let scarce = *self.scarce.borrow();
        let wanted = if scarce { self.full.min(Budget::FAIR) } else { self.full };
        if wanted != self.announced && set(wanted).is_ok() {
            self.announced = wanted;
        }
    }
}

#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes a peer may send on one stream before the application has taken them.
    pub stream_window: u32,
    /// Bytes a peer may send on all streams together. Large enough for every stream to stall with a
    /// full window: a smaller one would let a few applications that do not read stop all others
    /// (ambient's 16 MiB stalls after four).
    pub connection_window: u32,
    /// What all streams together may hold for applications that do not read: shared by clones.
    pub budget: Budget,
    /// Largest DATA frame that a peer may send.
    pub frame_bytes: u32,
    /// Streams on one tunnel, each way.
    pub max_streams: u32,
    /// Bytes of all headers of one request or response.
    pub header_list_bytes: u32,
    /// Bytes one stream may have waiting to be encrypted.
    pub send_buffer_bytes: usize,
    /// A tunnel that is silent for this long is asked whether it lives.
    pub ping_interval: Duration,
    /// How long the answer may take.
    pub ping_timeout: Duration,
    /// A tunnel without streams is closed after this.
    pub idle: Duration,
    /// HTTP/2 preface and settings after TLS; response to a CONNECT takes `connect` of the caller.
    pub handshake_timeout: Duration,
    /// How long the answer to a CONNECT may take.
    pub open_timeout: Duration,
}

impl Limits {
    /// The same, with the budget as another owner's.
    #[must_use]
    pub fn for_owner(&self) -> Self {
        Self { budget: self.budget.for_owner(), ..self.clone() }
    }
}

impl Default for Limits {
    fn default() -> Self {
        let stream_window = 4 << 20;
        let max_streams = 100;
        Self {
            stream_window,
            connection_window: stream_window * max_streams,
            budget: Budget::new(128 << 20),
            frame_bytes: 1 << 20,
            max_streams,
            header_list_bytes: 16 << 10,
            // Full reads, so that what is left over is not a frame of its own.
            send_buffer_bytes: 2 * LARGEST_READ,
            ping_interval: Duration::from_secs(10),
            ping_timeout: Duration::from_secs(20),
            idle: Duration::from_secs(300),
            handshake_timeout: Duration::from_secs(10),
            open_timeout: Duration::from_secs(20),
        }
    }
}
