//! Options that every socket of the data plane carries.
use crate::{CaptureError, MARK};
use socket2::{SockRef, Socket, TcpKeepalive};
use std::io;
use std::net::IpAddr;
use std::time::Duration;
use tokio::net::TcpStream;

/// TCP keepalive. Keepalives do not cross a proxy, so the data plane sends its own on both sides;
/// the defaults are those of ambient's node proxy.
#[derive(Debug, Clone, Copy)]
pub struct Keepalive {
    pub idle: Duration,
    pub interval: Duration,
    pub retries: u32,
}

impl Default for Keepalive {
    fn default() -> Self {
        Self { idle: Duration::from_secs(180), interval: Duration::from_secs(180), retries: 9 }
    }
}

/// The data plane's mark. On a listener it is inherited by what it accepts.
pub(crate) fn set_mark(socket: &Socket) -> Result<(), CaptureError> {
    socket.set_mark(MARK).map_err(named("SO_MARK"))
}

/// Keepalive, no Nagle. On a listener they are inherited by what it accepts.
pub(crate) fn set_common(socket: &Socket, keepalive: Keepalive) -> Result<(), CaptureError> {
    socket.set_tcp_nodelay(true).map_err(named("TCP_NODELAY"))?;
    set_keepalive(&SockRef::from(socket), keepalive)
}

/// Keepalive and no Nagle on an accepted socket.
pub fn set_access_options(stream: &TcpStream, keepalive: Keepalive) -> Result<(), CaptureError> {
    let socket = SockRef::from(stream);
    socket.set_tcp_nodelay(true).map_err(named("TCP_NODELAY"))?;
    set_keepalive(&socket, keepalive)
}

fn set_keepalive(socket: &SockRef<'_>, keepalive: Keepalive) -> Result<(), CaptureError> {
    let parameters = TcpKeepalive::new()
        .with_time(keepalive.idle)
        .with_interval(keepalive.interval)
        .with_retries(keepalive.retries);
    socket.set_tcp_keepalive(&parameters).map_err(named("SO_KEEPALIVE"))
}

/// Lets a socket use addresses that are not the pod's own: accept for any destination, connect from
/// the original client's address.
pub(crate) fn set_transparent(socket: &Socket, family: IpAddr) -> Result<(), CaptureError> {
    match family {
        IpAddr::V4(_) => {
            socket.set_ip_transparent_v4(true).map_err(named("IP_TRANSPARENT"))?;
            socket.set_freebind_v4(true).map_err(named("IP_FREEBIND"))
        }
        IpAddr::V6(_) => {
            socket.set_ip_transparent_v6(true).map_err(named("IPV6_TRANSPARENT"))?;
            socket.set_freebind_v6(true).map_err(named("IPV6_FREEBIND"))
        }
    }
}

/// Makes the coming close of `stream` a reset, so that the peer learns that the connection was cut
/// and not finished.
pub fn reset_on_close(stream: &TcpStream) {
    // Fails only on a socket that is already gone, which is what was wanted.
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

pub(crate) fn named(option: &'static str) -> impl FnOnce(io::Error) -> CaptureError {
    move |source| CaptureError::Option { option, source }
}
