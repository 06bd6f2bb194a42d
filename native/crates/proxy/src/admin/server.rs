//! The listeners: who may connect, how much a request may hold, how long it may take.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::unistd::geteuid;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::Views;
use super::reply::{Reply, problem};
use super::socket::{OwnSocket, SocketError};
use super::{control, reading};

/// Connections at a time, to each socket.
const MOST_CONNECTIONS: usize = 32;
const MOST_HEADER_BYTES: usize = 16 * 1024;
const MOST_HEADERS: usize = 64;
const MOST_BODY_BYTES: usize = 16 * 1024;
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
const BODY_TIMEOUT: Duration = Duration::from_secs(5);
/// Also bounds a client that does not read its answer.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(120);
/// After a failed accept (no descriptors left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[derive(Clone, Copy, Debug)]
enum Side {
    Reading,
    Control,
    /// For everybody: metrics and readiness.
    Scraped,
}

impl Side {
    /// The socket's name in `meltemi_peer_refused_total`.
    const fn socket(self) -> &'static str {
        match self {
            Side::Reading => "proxy-admin",
            Side::Control => "proxy-control",
            Side::Scraped => "metrics",
        }
    }
}

/// Both sockets, bound: before anything else starts, so that a second instance fails at once.
#[derive(Debug)]
pub(crate) struct AdminSockets {
    admin: OwnSocket,
    control: OwnSocket,
}

impl AdminSockets {
    /// To be called inside of a runtime.
    ///
    /// # Errors
    /// [`SocketError`] for the first that cannot be had.
    pub(crate) fn bind(admin: &Path, control: &Path) -> Result<Self, SocketError> {
        Ok(Self { admin: OwnSocket::bind(admin)?, control: OwnSocket::bind(control)? })
    }
}

/// Serves until `stop`, then removes the sockets. Requests under way are cut off.
pub(crate) async fn serve(sockets: AdminSockets, views: Views, stop: CancellationToken) {
    let AdminSockets { admin, control } = sockets;
    tokio::join!(
        accept(admin, Side::Reading, views.clone(), stop.clone()),
        accept(control, Side::Control, views, stop)
    );
}

/// Serves metrics and readiness to whoever asks, until `stop`.
pub(crate) async fn serve_metrics(listener: TcpListener, views: Views, stop: CancellationToken) {
    let room = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let accepting = async {
        loop {
            // Never closed.
            let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    tokio::spawn(connection(stream, Side::Scraped, views.clone(), stop.clone(), place));
                }
                Err(error) => {
                    tracing::warn!(socket = Side::Scraped.socket(), error = %error, "metrics accept failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = accepting => {}
    }
}

async fn accept(socket: OwnSocket, side: Side, views: Views, stop: CancellationToken) {
    let room = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let owner = geteuid().as_raw();
    let accepting = async {
        loop {
            // Never closed.
            let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
            match socket.listener.accept().await {
                Ok((stream, _)) if admits(&stream, owner) => {
                    tokio::spawn(connection(stream, side, views.clone(), stop.clone(), place));
                }
                Ok((stream, _)) => {
                    drop(stream);
                    views.metrics.peer_refused(side.socket());
                    tracing::warn!(socket = side.socket(), "admin peer of another user refused");
                }
                Err(error) => {
                    tracing::warn!(socket = side.socket(), error = %error, "admin accept failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = accepting => {}
    }
}

/// The owner's processes, and root's. A peer whose credentials cannot be read is nobody's.
fn admits(stream: &UnixStream, owner: u32) -> bool {
    stream.peer_cred().is_ok_and(|peer| is_admitted(peer.uid(), owner))
}

pub(super) const fn is_admitted(peer: u32, owner: u32) -> bool {
    peer == owner || peer == 0
}

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    side: Side,
    views: Views,
    stop: CancellationToken,
    _place: OwnedSemaphorePermit,
) {
    let service = service_fn(move |request| {
        let views = views.clone();
        async move { Ok::<_, Infallible>(answer(&views, side, request).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MOST_HEADER_BYTES)
        .max_headers(MOST_HEADERS)
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        () = stop.cancelled() => {}
        () = tokio::time::sleep(CONNECTION_TIMEOUT) => {}
        result = served => if let Err(error) = result {
            tracing::debug!(socket = side.socket(), error = %error, "admin connection ended");
        }
    }
}

async fn answer(views: &Views, side: Side, request: Request<Incoming>) -> Reply {
    let (head, body) = request.into_parts();
    let body = Limited::new(body, MOST_BODY_BYTES).collect();
    let body = match tokio::time::timeout(BODY_TIMEOUT, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            let message = format!("the body is longer than {MOST_BODY_BYTES} bytes");
            return problem(StatusCode::PAYLOAD_TOO_LARGE, &message);
        }
        Ok(Err(_)) => return problem(StatusCode::BAD_REQUEST, "the body cannot be read"),
        Err(_) => {
            return problem(StatusCode::REQUEST_TIMEOUT, "the body did not come in time");
        }
    };
    match side {
        Side::Reading => reading::answer(views, &head.method, head.uri.path()),
        Side::Control => control::answer(views, &head.method, head.uri.path(), &body),
        Side::Scraped => match head.uri.path() {
            "/metrics" | "/stats/prometheus" => reading::answer(views, &head.method, "/metrics"),
            "/healthz/ready" => reading::answer(views, &head.method, "/ready"),
            _ => problem(StatusCode::NOT_FOUND, "there are /metrics, /stats/prometheus, /healthz/ready"),
        },
    }
}
