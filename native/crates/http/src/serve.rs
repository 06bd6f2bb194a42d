//! A client's connection: HTTP/1.1 or HTTP/2 with prior knowledge, as its first bytes say.

use crate::core::Core;
use crate::upstream::Tasks;
use crate::world::World;
use hyper::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Streams that the peer reset before they were seen (rapid reset, CVE-2023-44487).
const PENDING_RESETS: usize = 20;

/// Serves a connection until it ends. `drain`: requests under way are finished, none is begun.
///
/// # Errors
/// What broke the connection, for the record.
pub async fn serve<W: World, Io>(
    core: &Arc<Core<W>>,
    io: Io,
    downstream: Arc<W::Downstream>,
    http2_only: bool,
    drain: &CancellationToken,
) -> Result<(), String>
where
    Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let settings = core.settings();
    let mut builder = auto::Builder::new(Tasks(core.tasks.clone()));
    if http2_only {
        builder = builder.http2_only();
    }
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(settings.header_timeout)
        .max_buf_size(settings.header_bytes.max(8_192) as usize)
        .max_headers(settings.header_count + 1);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(settings.concurrent_streams)
        .max_header_list_size(settings.header_bytes)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_local_error_reset_streams(Some(1024))
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(8 << 20)
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(20));
    let first = Arc::new(Notify::new());
    let (service_core, seen) = (core.clone(), first.clone());
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        seen.notify_one();
        let (core, downstream) = (service_core.clone(), downstream.clone());
        async move { Ok::<_, Infallible>(Box::pin(core.handle(request, &downstream)).await) }
    });
    let mut connection = pin!(builder.serve_connection_with_upgrades(TokioIo::new(io), service));
    let mut first = pin!(tokio::time::timeout(settings.header_timeout, first.notified()));
    let (mut waiting, mut draining) = (true, false);
    loop {
        tokio::select! {
            ended = connection.as_mut() => return ended.map_err(|error| error.to_string()),
            begun = first.as_mut(), if waiting => match begun {
                Ok(()) => waiting = false,
                Err(_) => return Err("no request within the time for its headers".to_owned()),
            },
            () = drain.cancelled(), if !draining => {
                draining = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}
