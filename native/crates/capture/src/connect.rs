//! Connections that leave from inside a pod.
use crate::listen::stream;
use crate::options::{named, set_common, set_transparent};
use crate::{CaptureError, Keepalive, PodNetns};
use socket2::{Domain, Protocol, SockAddr, Socket};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::time::Duration;
use tokio::net::{TcpSocket, TcpStream};

/// Whom the connection goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpstreamKind {
    /// An application. It may stop reading for as long as it likes.
    Application,
    /// Another proxy, which always reads: unacknowledged data means that the path or peer is gone.
    Tunnel,
}

/// How long a tunnel's data may stay unacknowledged.
const TUNNEL_USER_TIMEOUT: Duration = Duration::from_secs(20);

/// A connection to open.
#[derive(Debug, Clone, Copy)]
pub struct Upstream {
    pub destination: SocketAddr,
    /// Source address to use, also one that is not the pod's own. `None` leaves it to routing.
    pub source: Option<IpAddr>,
    pub kind: UpstreamKind,
    pub timeout: Duration,
    pub keepalive: Keepalive,
}

impl Upstream {
    /// Connects from inside `netns`. Cancel safe: dropping the future closes the socket.
    pub async fn connect(&self, netns: &PodNetns) -> Result<TcpStream, CaptureError> {
        let address = self.destination;
        let socket = self.socket(netns)?;
        let connecting = TcpSocket::from_std_stream(socket.into()).connect(address);
        match tokio::time::timeout(self.timeout, connecting).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(source)) => Err(CaptureError::Connect { address, source }),
            Err(_) => Err(CaptureError::ConnectTimeout { address, timeout_ms: self.timeout.as_millis() }),
        }
    }

    fn socket(&self, netns: &PodNetns) -> Result<Socket, CaptureError> {
        let domain = Domain::for_address(self.destination);
        let socket = netns.run(|| Socket::new(domain, stream(), Some(Protocol::TCP)))??;
        set_common(&socket, self.keepalive)?;
        if self.kind == UpstreamKind::Tunnel {
            socket.set_tcp_user_timeout(Some(TUNNEL_USER_TIMEOUT)).map_err(named("TCP_USER_TIMEOUT"))?;
        }
        if let Some(source) = self.source {
            set_transparent(&socket, source)?;
            // The port is chosen at connect, per destination: binding alone would use up one port
            // of the whole address for every connection.
            set_bind_address_no_port(&socket).map_err(named("IP_BIND_ADDRESS_NO_PORT"))?;
            socket
                .bind(&SockAddr::from(SocketAddr::new(source, 0)))
                .map_err(|source| CaptureError::Connect { address: self.destination, source })?;
        }
        Ok(socket)
    }
}

fn set_bind_address_no_port(socket: &Socket) -> io::Result<()> {
    nix::sys::socket::setsockopt(&socket.as_fd(), nix::sys::socket::sockopt::IpBindAddressNoPort, &true)
        .map_err(io::Error::from)
}
