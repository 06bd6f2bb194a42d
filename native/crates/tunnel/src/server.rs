//! One tunnel, from the side that accepted it.
use crate::headers::REFUSED;
use crate::limits::StreamWindow;
use crate::{Budget, Limits, Refusal, TunnelError, TunnelStream, keepalive};
use bytes::Bytes;
use h2::server::{Connection, SendResponse};
use h2::{Reason, RecvStream};
use http::request::Parts;
use http::{Response, StatusCode};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Remotely reset streams that may wait to be seen (rapid reset, CVE-2023-44487).
const PENDING_RESET_STREAMS: usize = 20;

/// A CONNECT that waits for its answer. Dropping it resets the stream.
#[derive(Debug)]
pub struct Incoming {
    pub parts: Parts,
    receive: RecvStream,
    respond: SendResponse<Bytes>,
    send_buffer_bytes: usize,
    budget: Budget,
}

impl Incoming {
    /// Answers 200: bytes may pass.
    pub fn accept(mut self) -> Result<TunnelStream, TunnelError> {
        let send = self.respond.send_response(Response::new(()), false)?;
        let Self { receive, send_buffer_bytes, budget, .. } = self;
        Ok(TunnelStream { send, receive, send_buffer_bytes, budget, _slot: None })
    }

    /// Answers with `status` and, for peers of ours, the reason.
    pub fn refuse(mut self, status: StatusCode, refusal: Option<&Refusal>) {
        let mut response = Response::new(());
        *response.status_mut() = status;
        if let Some(value) = refusal.and_then(Refusal::header) {
            response.headers_mut().insert(REFUSED, value);
        }
        // Fails only when the peer is gone already.
        let _ = self.respond.send_response(response, true);
    }

    /// Completes when the peer has given the stream up before it was answered.
    pub async fn abandoned(&mut self) {
        let _ = std::future::poll_fn(|cx| self.respond.poll_reset(cx)).await;
    }
}

/// Serves one tunnel until its peer leaves, it is idle for long, or it is told to end.
///
/// `drain` sends GOAWAY and lets streams finish; `kill` ends them. Each CONNECT is given to `handle`,
/// whose future runs as a task among `tasks`.
pub async fn serve<Io, H, F>(
    io: Io,
    limits: &Limits,
    drain: &CancellationToken,
    kill: &CancellationToken,
    tasks: &TaskTracker,
    mut handle: H,
) -> Result<(), TunnelError>
where
    Io: AsyncRead + AsyncWrite + Unpin,
    H: FnMut(Incoming) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let handshake = h2::server::Builder::new()
        .initial_window_size(limits.stream_window)
        .initial_connection_window_size(limits.connection_window)
        .max_frame_size(limits.frame_bytes)
        .max_header_list_size(limits.header_list_bytes)
        .max_concurrent_streams(limits.max_streams)
        .max_send_buffer_size(limits.send_buffer_bytes)
        .max_pending_accept_reset_streams(PENDING_RESET_STREAMS)
        .handshake::<_, Bytes>(io);
    let mut connection: Connection<Io, Bytes> = tokio::select! {
        begun = tokio::time::timeout(limits.handshake_timeout, handshake) => begun
            .map_err(|_| TunnelError::Handshake(limits.handshake_timeout.as_millis()))??,
        () = kill.cancelled() => return Err(TunnelError::Closed),
    };
    let Some(pings) = connection.ping_pong() else { return Err(TunnelError::Closed) };
    let mut alive = std::pin::pin!(keepalive::watch(pings, limits));
    // The client closes idle tunnels; this is for one that does not.
    let idle_check = limits.idle;
    let mut idle_timer = std::pin::pin!(tokio::time::sleep(idle_check));
    let mut idle_before = false;
    let mut draining = false;
    let mut window = StreamWindow::new(limits);
    loop {
        window.announce(|bytes| connection.set_initial_window_size(bytes));
        tokio::select! {
            accepted = connection.accept() => {
                let Some(accepted) = accepted else { return Ok(()) };
                let (request, respond) = accepted?;
                let (parts, receive) = request.into_parts();
                idle_before = false;
                let (send_buffer_bytes, budget) = (limits.send_buffer_bytes, limits.budget.clone());
                tasks.spawn(handle(Incoming { parts, receive, respond, send_buffer_bytes, budget }));
            }
            error = &mut alive => return Err(error),
            () = window.changed() => {}
            () = drain.cancelled(), if !draining => {
                draining = true;
                connection.graceful_shutdown();
            }
            () = kill.cancelled() => {
                connection.abrupt_shutdown(Reason::NO_ERROR);
                // GOAWAY should reach the peer, but nothing waits long for a peer that does not read.
                let flushed = std::future::poll_fn(|cx| connection.poll_closed(cx));
                let _ = tokio::time::timeout(Duration::from_secs(1), flushed).await;
                return Err(TunnelError::Closed);
            }
            () = &mut idle_timer => {
                let idle = !connection.has_streams();
                if idle && idle_before {
                    draining = true;
                    connection.graceful_shutdown();
                }
                idle_before = idle;
                idle_timer.as_mut().reset(tokio::time::Instant::now() + idle_check);
            }
        }
    }
}
