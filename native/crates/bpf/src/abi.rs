//! What the programs and this crate agree upon: the mirror of `native/bpf/abi.h`.

use crate::sys::Plain;
use std::net::{IpAddr, Ipv6Addr};

/// Of a connection that does not pass the proxy. For routing; proves nothing.
pub const MARK_DIRECT: u32 = 0x53a;
/// Of an application's socket that the proxy still carries, while its pod leaves the mesh.
pub const MARK_CARRIED: u32 = 0x53b;

/// The pinned names of the node's maps, with the versions of their layouts. A map of another version is
/// left to the programs that use it, until the last of them is replaced.
pub(crate) const MAPS: [(&str, &str); 4] =
    [("sockets", "sockets-1"), ("flows", "flows-1"), ("settings", "settings-1"), ("counters", "counters-1")];
pub(crate) const SOCKETS: &str = "sockets-1";
pub(crate) const FLOWS: &str = "flows-1";
pub(crate) const SETTINGS: &str = "settings-1";
pub(crate) const COUNTERS: &str = "counters-1";

pub(crate) const MAX_ADDRESSES: usize = 16;
pub(crate) const MAX_PORTS: usize = 64;
pub(crate) const MAX_CIDRS: usize = 64;

pub(crate) const ROLE_PROXY: u32 = 1;

/// `struct socket_tag`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct SocketTag {
    pub(crate) role: u32,
}

/// `struct address`: network order, IPv4 mapped.
#[repr(C, align(8))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Address(pub(crate) [u8; 16]);

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        Self(match address {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        })
    }
}

impl From<Address> for IpAddr {
    fn from(address: Address) -> Self {
        Ipv6Addr::from(address.0).to_canonical()
    }
}

/// `struct cidr`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cidr {
    pub(crate) address: Address,
    pub(crate) mask: Address,
}

/// `struct place`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) netns_cookie: u64,
    pub(crate) ifindex: u32,
    pub(crate) zero: u32,
}

impl Place {
    /// The host's end of a pod's interface.
    pub(crate) fn host_end(ifindex: u32) -> Self {
        Self { netns_cookie: 0, ifindex, zero: 0 }
    }

    pub(crate) fn inside(netns_cookie: u64) -> Self {
        Self { netns_cookie, ifindex: 0, zero: 0 }
    }
}

pub(crate) const FLAG_BYPASS_INBOUND: u32 = 1;
pub(crate) const FLAG_REFUSE_UDP: u32 = 2;
pub(crate) const FLAG_DRAINING: u32 = 4;

/// `struct settings`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) netns_cookie: u64,
    pub(crate) netns_inode: u64,
    pub(crate) netns_id: i32,
    pub(crate) flags: u32,
    pub(crate) address_count: u32,
    pub(crate) inbound_port_count: u32,
    pub(crate) outbound_port_count: u32,
    pub(crate) cidr_count: u32,
    pub(crate) addresses: [Address; MAX_ADDRESSES],
    pub(crate) exclude_inbound_ports: [u16; MAX_PORTS],
    pub(crate) exclude_outbound_ports: [u16; MAX_PORTS],
    pub(crate) exclude_outbound_cidrs: [Cidr; MAX_CIDRS],
}

/// `struct flow_key`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FlowKey {
    pub(crate) netns_cookie: u64,
    pub(crate) local: Address,
    pub(crate) remote: Address,
    pub(crate) local_port: u16,
    pub(crate) remote_port: u16,
    pub(crate) zero: u32,
}

/// `struct flow`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Flow {
    pub(crate) socket_cookie: u64,
    pub(crate) why: u32,
    pub(crate) zero: u32,
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

/// `struct counters`: from the pod, then to it.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counters {
    pub(crate) packets: [[u64; REASONS.len()]; 2],
}

/// What the data plane listens for, in the order of a pod's slots: all of IPv4, then all of IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenerRole {
    Outbound,
    Plaintext,
    Hbone,
}

/// Slots of one family.
pub(crate) const LISTENERS_PER_FAMILY: u32 = 3;

// SAFETY: C structures of numbers, laid out without padding; the test below adds up their members.
unsafe impl Plain for SocketTag {}
// SAFETY: as above.
unsafe impl Plain for Place {}
// SAFETY: as above.
unsafe impl Plain for Settings {}
// SAFETY: as above.
unsafe impl Plain for FlowKey {}
// SAFETY: as above.
unsafe impl Plain for Flow {}
// SAFETY: as above.
unsafe impl Plain for Counters {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::size_of;

    #[test]
    fn no_structure_has_padding() {
        assert_eq!(size_of::<SocketTag>(), 4);
        assert_eq!(size_of::<Place>(), 8 + 4 + 4);
        let ports = 2 * 2 * MAX_PORTS;
        assert_eq!(size_of::<Settings>(), 8 + 8 + 6 * 4 + 16 * MAX_ADDRESSES + ports + 32 * MAX_CIDRS);
        assert_eq!(size_of::<FlowKey>(), 8 + 16 + 16 + 2 + 2 + 4);
        assert_eq!(size_of::<Flow>(), 8 + 4 + 4);
        assert_eq!(size_of::<Counters>(), 2 * 8 * REASONS.len());
    }

    #[test]
    fn addresses_come_back_as_they_went() {
        for text in ["10.0.0.1", "fd00::1"] {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(IpAddr::from(Address::from(address)), address);
        }
    }
}
