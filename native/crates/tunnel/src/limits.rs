//! Sizes, counts and times of a tunnel. Defaults are those that ambient's peers use, except where
//! said otherwise.
use crate::buffers::LARGEST_READ;
use std::time::Duration;

#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes a peer may send on one stream before the application has taken them.
    pub stream_window: u32,
    /// Bytes a peer may send on all streams together. Large enough for every stream to stall with a
    /// full window: a smaller one would let a few applications that do not read stop all others
    /// (ambient's 16 MiB stalls after four).
    pub connection_window: u32,
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

impl Default for Limits {
    fn default() -> Self {
        let stream_window = 4 << 20;
        let max_streams = 100;
        Self {
            stream_window,
            connection_window: stream_window * max_streams,
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
