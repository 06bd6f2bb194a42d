//! One tunnel, from the side that opened it.
use crate::headers::{BAGGAGE, FORWARDED, TRACEPARENT};
use crate::limits::StreamWindow;
use crate::stream::{Slot, Slots};
use crate::{Limits, OpenError, Refusal, TraceParent, TunnelError, TunnelStream, keepalive};
use bytes::Bytes;
use h2::client::{Connection, SendRequest};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Version};
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

/// A CONNECT to make.
#[derive(Debug, Clone)]
pub struct OpenRequest {
    /// `ip:port`, or `host:port` towards a waypoint.
    pub authority: String,
    pub baggage: Option<HeaderValue>,
    pub forwarded: Option<HeaderValue>,
    pub trace: TraceParent,
}

impl OpenRequest {
    fn build(&self) -> Result<Request<()>, OpenError> {
        let mut request = Request::builder()
            .method(Method::CONNECT)
            .version(Version::HTTP_2)
            .uri(&self.authority)
            .body(())
            .map_err(|_| OpenError::Refused { status: StatusCode::BAD_REQUEST, refusal: None })?;
        let headers = request.headers_mut();
        let values = [
            (BAGGAGE, self.baggage.clone()),
            (FORWARDED, self.forwarded.clone()),
            (TRACEPARENT, self.trace.header()),
        ];
        headers.extend(values.into_iter().filter_map(|(name, value)| Some((name, value?))));
        Ok(request)
    }
}

/// A tunnel that streams can be opened on. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ClientTunnel {
    sender: SendRequest<Bytes>,
    slots: Arc<Slots>,
    closed: CancellationToken,
}

impl ClientTunnel {
    /// Begins HTTP/2 on an encrypted stream whose peer is known. The second part must be polled for
    /// the tunnel to live; it ends when the tunnel does.
    pub async fn begin<Io>(
        io: Io,
        limits: Limits,
    ) -> Result<(Self, impl Future<Output = Result<(), TunnelError>> + Send), TunnelError>
    where
        Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let handshake = h2::client::Builder::new()
            .initial_window_size(limits.stream_window)
            .initial_connection_window_size(limits.connection_window)
            .max_frame_size(limits.frame_bytes)
            .max_header_list_size(limits.header_list_bytes)
            .initial_max_send_streams(limits.max_streams as usize)
            .max_send_buffer_size(limits.send_buffer_bytes)
            .enable_push(false)
            .handshake(io);
        let (sender, connection) = tokio::time::timeout(limits.handshake_timeout, handshake)
            .await
            .map_err(|_| TunnelError::Handshake(limits.handshake_timeout.as_millis()))??;
        let slots = Slots::new(limits.max_streams);
        let closed = CancellationToken::new();
        let tunnel = Self { sender, slots, closed: closed.clone() };
        Ok((tunnel, drive(connection, limits, closed)))
    }

    /// Takes a place for one more stream; `None` when the tunnel is full or ended.
    pub(crate) fn reserve(&self) -> Option<Slot> {
        if self.closed.is_cancelled() || self.peer_limit_reached() {
            return None;
        }
        self.slots.take()
    }

    fn peer_limit_reached(&self) -> bool {
        self.slots.active() as usize >= self.sender.current_max_send_streams()
    }

    /// How long the tunnel has had no stream.
    pub(crate) fn idle(&self) -> Option<std::time::Duration> {
        self.slots.idle()
    }

    pub(crate) fn same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.slots, &other.slots)
    }

    /// Ends the tunnel and every stream on it, at once.
    pub(crate) fn close(&self) {
        self.closed.cancel();
    }

    /// Completes when the tunnel has ended or was closed.
    pub(crate) async fn ended(&self) {
        self.closed.cancelled().await;
    }

    /// Opens a stream and waits for the peer's answer. Cancel safe: a stream that is dropped on the
    /// way is reset and its place given back.
    pub async fn open(&self, request: &OpenRequest, limits: &Limits) -> Result<TunnelStream, OpenError> {
        self.open_with(request, &HeaderMap::new(), limits).await
    }

    /// The same with further headers.
    pub async fn open_with(
        &self,
        request: &OpenRequest,
        further: &HeaderMap,
        limits: &Limits,
    ) -> Result<TunnelStream, OpenError> {
        let slot = self.slots.take().ok_or(OpenError::Tunnel(TunnelError::Closed))?;
        self.open_in(slot, request, further, limits).await
    }

    pub(crate) async fn open_in(
        &self,
        slot: Slot,
        request: &OpenRequest,
        further: &HeaderMap,
        limits: &Limits,
    ) -> Result<TunnelStream, OpenError> {
        let mut request = request.build()?;
        request.headers_mut().extend(further.clone());
        let opening = async {
            let mut sender = self.sender.clone().ready().await.map_err(TunnelError::from)?;
            let (response, send) = sender.send_request(request, false).map_err(TunnelError::from)?;
            let response = response.await.map_err(TunnelError::from)?;
            Ok::<_, OpenError>((response, send))
        };
        let (response, send) = tokio::select! {
            opened = tokio::time::timeout(limits.open_timeout, opening) => {
                opened.map_err(|_| OpenError::Timeout(limits.open_timeout.as_millis()))??
            }
            () = self.closed.cancelled() => return Err(TunnelError::Closed.into()),
        };
        if response.status() != StatusCode::OK {
            let refusal = Refusal::parse(response.headers());
            return Err(OpenError::Refused { status: response.status(), refusal });
        }
        Ok(TunnelStream {
            send,
            receive: response.into_body(),
            send_buffer_bytes: limits.send_buffer_bytes,
            budget: limits.budget.clone(),
            _slot: Some(slot),
        })
    }
}

async fn drive<Io>(
    mut connection: Connection<Io, Bytes>,
    limits: Limits,
    closed: CancellationToken,
) -> Result<(), TunnelError>
where
    Io: AsyncRead + AsyncWrite + Unpin,
{
    // Whoever waits for this tunnel learns of its end also when this future is dropped.
    let _ended = closed.clone().drop_guard();
    let Some(pings) = connection.ping_pong() else { return Err(TunnelError::Closed) };
    let mut window = StreamWindow::new(&limits);
    let mut alive = std::pin::pin!(keepalive::watch(pings, &limits));
    loop {
        window.announce(|bytes| connection.set_initial_window_size(bytes));
        tokio::select! {
            result = &mut connection => return Ok(result?),
            error = &mut alive => return Err(error),
            () = closed.cancelled() => return Err(TunnelError::Closed),
            () = window.changed() => {}
        }
    }
}
