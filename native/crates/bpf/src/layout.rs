//! What the programs and the agent agree upon: the mirror of `native/bpf/abi.h`.

use crate::abi::{REASONS, SOCKETS};
use crate::sys::Plain;
use std::net::{IpAddr, Ipv6Addr};

/// The pinned names of the node's maps, with the versions of their layouts. A map of another version is
/// left to the programs that use it, until the last of them is replaced.
pub(crate) const MAPS: [(&str, &str); 4] =
    [("sockets", SOCKETS), ("flows", FLOWS), ("settings", SETTINGS), ("counters", COUNTERS)];
pub(crate) const FLOWS: &str = "flows-1";
pub(crate) const SETTINGS: &str = "settings-1";
pub(crate) const COUNTERS: &str = "counters-1";

pub(crate) const MAX_ADDRESSES: usize = 16;
pub(crate) const MAX_PORTS: usize = 64;
pub(crate) const MAX_CIDRS: usize = 64;

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

/// `struct counters`: from the pod, then to it.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counters {
    pub(crate) packets: [[u64; REASONS.len()]; 2],
}

// SAFETY: C structures of numbers, laid out without padding; the test below adds up their members.
unsafe impl Plain for Place {}
// SAFETY: as above.
unsafe impl Plain for Settings {}
// SAFETY: as above.
unsafe impl Plain for FlowKey {}
// SAFETY: as above.
unsafe impl Plain for Counters {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::SocketTag;
    use std::mem::size_of;

    #[test]
    fn no_structure_has_padding() {
        assert_eq!(size_of::<SocketTag>(), 4);
        assert_eq!(size_of::<Place>(), 8 + 4 + 4);
        let ports = 2 * 2 * MAX_PORTS;
        assert_eq!(size_of::<Settings>(), 8 + 8 + 6 * 4 + 16 * MAX_ADDRESSES + ports + 32 * MAX_CIDRS);
        assert_eq!(size_of::<FlowKey>(), 8 + 16 + 16 + 2 + 2 + 4);
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
