//! The ports that a pod is served on, in each address family that its namespace has.
use meltemi_capture::{
    CaptureError, Keepalive, Listener, PORT_HBONE, PORT_INBOUND_PLAINTEXT, PORT_OUTBOUND, PodNetns,
};
use nix::libc::EAFNOSUPPORT;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What arrives on a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// What the pod's application opens.
    Outbound,
    /// What comes to the pod without a tunnel.
    Plaintext,
    /// Tunnels to the pod.
    Hbone,
}

impl Role {
    pub(crate) const ALL: [Self; 3] = [Self::Outbound, Self::Plaintext, Self::Hbone];

    fn port(self) -> u16 {
        match self {
            Self::Outbound => PORT_OUTBOUND,
            Self::Plaintext => PORT_INBOUND_PLAINTEXT,
            Self::Hbone => PORT_HBONE,
        }
    }
}

/// One family's listeners, in the order of [`Role::ALL`].
#[derive(Debug)]
pub(crate) struct Family {
    pub(crate) ipv6: bool,
    pub(crate) listeners: [Listener; 3],
}

impl Family {
    fn open(netns: &PodNetns, ip: IpAddr, keepalive: Keepalive) -> Result<Self, CaptureError> {
        let [outbound, plaintext, hbone] =
            Role::ALL.map(|role| Listener::open(netns, SocketAddr::new(ip, role.port()), keepalive));
        Ok(Self { ipv6: ip.is_ipv6(), listeners: [outbound?, plaintext?, hbone?] })
    }
}

/// Opens a pod's listeners: IPv4's, then IPv6's where the kernel has that family. A namespace in which
/// IPv6 is merely switched off has them, too: an interface may get an address later.
///
/// # Errors
/// If one cannot be opened: nothing of the pod is served then, in either family.
pub(crate) fn open(netns: &PodNetns, keepalive: Keepalive) -> Result<Vec<Family>, CaptureError> {
    let mut families = vec![Family::open(netns, Ipv4Addr::UNSPECIFIED.into(), keepalive)?];
    match Family::open(netns, Ipv6Addr::UNSPECIFIED.into(), keepalive) {
        Ok(family) => families.push(family),
        // No process of the pod can have a socket of this family either.
        Err(CaptureError::Socket(error)) if error.raw_os_error() == Some(EAFNOSUPPORT) => {}
        Err(error) => return Err(error),
    }
    Ok(families)
}
