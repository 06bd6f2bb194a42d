//! Connections that leave from inside a pod.
use crate::listen::stream;
use crate::options::{named, set_common, set_mark, set_transparent};
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
    /// The pod's own application. Like any application, it may stop reading for as long as it likes.
    Own,
    /// An application elsewhere.
    Application,
    /// Another proxy, which always reads: unacknowledged data means that the path or peer is gone.
    Tunnel,
}

/// How long a tunnel's data may stay unacknowledged.
const TUNNEL_USER_TIMEOUT: Duration = Duration::from_secs(20);

/// Below Linux's default of net.ipv4.ip_local_port_range (32768 to 60999), above what services listen on.
const APART_PORTS: std::ops::Range<u16> = 10_240..32_768;
/// Ports that are tried where one is taken.
const PORT_ATTEMPTS: u32 = 32;

/// A connection to open.
#[derive(Debug, Clone, Copy)]
pub struct Upstream {
    pub destination: SocketAddr,
    /// Source address to use, also one that is not the pod's own. `None` leaves it to routing.
    pub source: Option<IpAddr>,
    /// `source` is an address from which somebody else may connect to the same destination in a way that
    /// capture sees: the port is chosen from those that systems do not give out by themselves. Connection
    /// tracking would else take the one connection for the other: it would get no answer, or pass uncaptured.
    pub apart: bool,
    pub kind: UpstreamKind,
    pub timeout: Duration,
    pub keepalive: Keepalive,
}

impl Upstream {
    /// Connects from inside `netns`. Cancel safe: dropping the future closes the socket.
    pub async fn connect(&self, netns: &PodNetns) -> Result<TcpStream, CaptureError> {
        let address = self.destination;
        let connecting = async {
            let mut attempt = 1;
            loop {
                let tried = async {
                    let socket = self.socket(netns)?;
                    let connecting = TcpSocket::from_std_stream(socket.into()).connect(address);
                    connecting.await.map_err(|source| CaptureError::Connect { address, source })
                };
                match tried.await {
                    Err(CaptureError::Connect { source, .. })
                        if self.apart && attempt < PORT_ATTEMPTS && is_taken(&source) =>
                    {
                        attempt += 1;
                    }
                    result => return result,
                }
            }
        };
        match tokio::time::timeout(self.timeout, connecting).await {
            Ok(result) => result,
            Err(_) => Err(CaptureError::ConnectTimeout { address, timeout_ms: self.timeout.as_millis() }),
        }
    }

    fn socket(&self, netns: &PodNetns) -> Result<Socket, CaptureError> {
        let domain = Domain::for_address(self.destination);
        let socket = netns.run(|| Socket::new(domain, stream(), Some(Protocol::TCP)))??;
        set_common(&socket, self.keepalive)?;
        // Redirection by BPF needs no mark on the way to the pod's own addresses, and the application's accepted
        // socket would take it over (tcp_fwmark_accept): its answers would leave the pod, to be dropped there.
        if self.kind != UpstreamKind::Own || !netns.is_redirected_by_bpf() {
            set_mark(&socket)?;
        }
        netns.register(&socket)?;
        if self.kind == UpstreamKind::Tunnel {
            socket.set_tcp_user_timeout(Some(TUNNEL_USER_TIMEOUT)).map_err(named("TCP_USER_TIMEOUT"))?;
        }
        if let Some(source) = self.source {
            set_transparent(&socket, source)?;
            let mut port = 0;
            if self.apart {
                // Several connections may have the port, to different destinations.
                socket.set_reuse_address(true).map_err(named("SO_REUSEADDR"))?;
                port = rand::random_range(APART_PORTS);
            } else {
                // The port is chosen at connect, per destination: binding alone would use up one port
                // of the whole address for every connection.
                set_bind_address_no_port(&socket).map_err(named("IP_BIND_ADDRESS_NO_PORT"))?;
            }
            socket
                .bind(&SockAddr::from(SocketAddr::new(source, port)))
                .map_err(|source| CaptureError::Connect { address: self.destination, source })?;
        }
        Ok(socket)
    }
}

/// Another connection has the same addresses and ports, or had them a moment ago.
fn is_taken(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable)
}

fn set_bind_address_no_port(socket: &Socket) -> io::Result<()> {
    nix::sys::socket::setsockopt(&socket.as_fd(), nix::sys::socket::sockopt::IpBindAddressNoPort, &true)
        .map_err(io::Error::from)
}
