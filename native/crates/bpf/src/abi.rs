//! What the programs, the data plane and the agent agree upon: from `native/bpf/abi.h`.

use crate::sys::Plain;

/// Of a connection that does not pass the proxy. For routing; proves nothing.
pub const MARK_DIRECT: u32 = 0x53a;
/// Of an application's socket that the proxy still carries, while its pod leaves the mesh.
pub const MARK_CARRIED: u32 = 0x53b;

/// The pinned name of the map of registered sockets, with the version of its layout.
pub(crate) const SOCKETS: &str = "sockets-1";

pub(crate) const ROLE_PROXY: u32 = 1;

/// `struct socket_tag`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct SocketTag {
    pub(crate) role: u32,
}

/// `enum reason`, in its order: the names under which packets are counted.
pub const REASONS: [&str; 14] = [
    "unregistered_socket",
    "unregistered_listener",
    "raw_socket",
    "no_socket",
    "spoofed",
    "not_for_pod",
    "proxy_port",
    "plaintext_in",
    "udp_refused",
    "malformed",
    "udp",
    "host",
    "excluded",
    "before",
];

/// What the data plane listens for, in the order of a pod's slots: all of IPv4, then all of IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenerRole {
    Outbound,
    Plaintext,
    Hbone,
}

/// Slots of one family.
pub(crate) const LISTENERS_PER_FAMILY: u32 = 3;

// SAFETY: C structures of numbers, laid out without padding; a test in layout.rs adds up their members.
unsafe impl Plain for SocketTag {}
