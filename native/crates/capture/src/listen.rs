//! Listeners inside a pod.
use crate::options::{set_common, set_mark, set_transparent};
use crate::{CaptureError, Keepalive, PORT_HBONE, PORT_INBOUND_PLAINTEXT, PORT_OUTBOUND, PodNetns};
use meltemi_bpf::ListenerRole;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::net::SocketAddr;
use tokio::net::{TcpListener, TcpStream};

/// Pending connections the kernel keeps for a listener (capped by net.core.somaxconn of the pod).
const BACKLOG: i32 = 4096;

/// A transparent listener in a pod's namespace. What it accepts has the mark, keepalive and no
/// Nagle: Linux copies these options from the listener.
#[derive(Debug)]
pub struct Listener(TcpListener);

impl Listener {
    /// Opens a listener. Without SO_REUSEPORT, so that no process of the pod can join it.
    ///
    /// # Errors
    /// When a process of the pod holds the port, the kernel refuses an option, or the guard does not take it.
    pub fn open(netns: &PodNetns, address: SocketAddr, keepalive: Keepalive) -> Result<Self, CaptureError> {
        let socket =
            netns.run(|| Socket::new(Domain::for_address(address), stream(), Some(Protocol::TCP)))??;
        set_mark(&socket)?;
        set_common(&socket, keepalive)?;
        set_transparent(&socket, address.ip())?;
        let failed = |source| CaptureError::Listen { address, source };
        // Connections of a previous data plane may linger on the port; a second listener is still refused.
        socket.set_reuse_address(true).map_err(failed)?;
        if address.is_ipv6() {
            socket.set_only_v6(true).map_err(failed)?;
        }
        socket.bind(&SockAddr::from(address)).map_err(failed)?;
        // Before it listens: what it accepts inherits the registration.
        netns.register(&socket)?;
        socket.listen(BACKLOG).map_err(failed)?;
        if let Some(role) = role_of(address.port()) {
            netns.publish(role, address.is_ipv6(), &socket)?;
        }
        Ok(Self(TcpListener::from_std(socket.into()).map_err(failed)?))
    }

    /// The next connection and its peer. Cancel safe.
    pub async fn accept(&self) -> std::io::Result<(TcpStream, SocketAddr)> {
        let (stream, peer) = self.0.accept().await?;
        Ok((stream, crate::canonical(peer)))
    }

    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

/// What the redirection brings to a port.
fn role_of(port: u16) -> Option<ListenerRole> {
    match port {
        PORT_OUTBOUND => Some(ListenerRole::Outbound),
        PORT_INBOUND_PLAINTEXT => Some(ListenerRole::Plaintext),
        PORT_HBONE => Some(ListenerRole::Hbone),
        _ => None,
    }
}

pub(crate) fn stream() -> Type {
    Type::STREAM.nonblocking().cloexec()
}
