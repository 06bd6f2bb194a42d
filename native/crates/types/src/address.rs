//! Addresses: of the mesh's networks, and of a connection's ends.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use ipnet::IpNet;

/// Bytes or a text that are no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    #[error("an IP address has {0} bytes: want 4 or 16")]
    Length(usize),
    #[error("prefix length {length} is too long for {ip}: want at most {max}")]
    Prefix { ip: IpAddr, length: u32, max: u8 },
    #[error("`{0}` is no address of a network: want NETWORK/IP, for instance /10.0.0.5")]
    Text(String),
}

/// An IP address of 4 or 16 bytes; an IPv4-mapped IPv6 address becomes the IPv4 address it stands for.
pub fn ip_from_bytes(bytes: &[u8]) -> Result<IpAddr, AddressError> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Ok(Ipv4Addr::from(v4).into());
    }
    match <[u8; 16]>::try_from(bytes) {
        Ok(v6) => Ok(IpAddr::from(Ipv6Addr::from(v6)).to_canonical()),
        Err(_) => Err(AddressError::Length(bytes.len())),
    }
}

/// An address within a named network of the mesh; the empty name is the only or default one.
/// Its text form is the name that on-demand discovery asks for: `NETWORK/IP`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NetworkAddress {
    network: Arc<str>,
    ip: IpAddr,
}

impl NetworkAddress {
    /// The address is made canonical: an IPv4-mapped IPv6 address is the IPv4 address.
    pub fn new(network: impl Into<Arc<str>>, ip: IpAddr) -> Self {
        Self { network: network.into(), ip: ip.to_canonical() }
    }

    pub fn network(&self) -> &str {
        &self.network
    }

    pub fn ip(&self) -> IpAddr {
        self.ip
    }
}

impl fmt::Display for NetworkAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.ip)
    }
}

impl fmt::Debug for NetworkAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for NetworkAddress {
    type Err = AddressError;
    fn from_str(text: &str) -> Result<Self, AddressError> {
        let fail = || AddressError::Text(text.chars().take(256).collect());
        let (network, ip) = text.split_once('/').ok_or_else(fail)?;
        Ok(Self::new(network, ip.parse().map_err(|_| fail())?))
    }
}

impl serde::Serialize for NetworkAddress {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A range of addresses. Ranges inside `::ffff:0:0/96` are kept as the IPv4 ranges they stand for,
/// as connections' addresses are; a rule must not miss because of notation.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cidr(IpNet);

impl Cidr {
    /// `length` in bits; host bits of `ip` are ignored.
    pub fn new(ip: IpAddr, length: u32) -> Result<Self, AddressError> {
        let (max, mapped) = match ip {
            IpAddr::V4(_) => (32, None),
            IpAddr::V6(v6) => (128, v6.to_ipv4_mapped()),
        };
        if length > u32::from(max) {
            return Err(AddressError::Prefix { ip, length, max });
        }
        let (ip, length) = match mapped {
            Some(v4) if length >= 96 => (IpAddr::V4(v4), length - 96),
            _ => (ip, length),
        };
        match IpNet::new(ip, length as u8) {
            Ok(net) => Ok(Self(net.trunc())),
            Err(_) => Err(AddressError::Prefix { ip, length, max }),
        }
    }

    /// As protobuf carries it: 4 or 16 bytes and a length in bits.
    pub fn from_bytes(bytes: &[u8], length: u32) -> Result<Self, AddressError> {
        match <[u8; 16]>::try_from(bytes) {
            Ok(v6) => Self::new(IpAddr::V6(Ipv6Addr::from(v6)), length),
            Err(_) => Self::new(ip_from_bytes(bytes)?, length),
        }
    }

    /// Whether the range holds the address, which must be canonical.
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.0.contains(&ip)
    }

    pub fn prefix_length(&self) -> u8 {
        self.0.prefix_len()
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl serde::Serialize for Cidr {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

macro_rules! socket_address_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(SocketAddr);

        impl $name {
            /// The IP is made canonical: an IPv4-mapped IPv6 address is the IPv4 address.
            pub fn new(address: SocketAddr) -> Self {
                Self(SocketAddr::new(address.ip().to_canonical(), address.port()))
            }
            pub fn get(self) -> SocketAddr {
                self.0
            }
            pub fn ip(self) -> IpAddr {
                self.0.ip()
            }
            pub fn port(self) -> u16 {
                self.0.port()
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

socket_address_type!(
    /// Where the application dialled, before any capture or translation.
    OriginalDestination
);
socket_address_type!(
    /// Where a connection came from, as the application behind it would see it.
    ClientAddress
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_addresses_round_trip() {
        for text in ["/10.0.0.5", "net-1/10.0.0.5", "/fd00::1"] {
            assert_eq!(text.parse::<NetworkAddress>().unwrap().to_string(), text);
        }
        for bad in ["", "10.0.0.5", "/", "/x", "a/b/10.0.0.5", "/10.0.0.5/32"] {
            assert!(bad.parse::<NetworkAddress>().is_err(), "accepted {bad:?}");
        }
        assert_eq!("/::ffff:10.0.0.5".parse::<NetworkAddress>().unwrap().to_string(), "/10.0.0.5");
    }

    #[test]
    fn only_4_or_16_bytes_are_an_address() {
        assert_eq!(ip_from_bytes(&[10, 0, 0, 5]), Ok("10.0.0.5".parse().unwrap()));
        for length in [0, 1, 3, 5, 8, 15, 17] {
            assert_eq!(ip_from_bytes(&vec![1; length]), Err(AddressError::Length(length)));
        }
    }

    #[test]
    fn a_range_has_at_most_the_bits_of_its_family() {
        assert!(Cidr::from_bytes(&[10, 0, 0, 0], 32).is_ok());
        assert!(Cidr::from_bytes(&[10, 0, 0, 0], 33).is_err());
        assert!(Cidr::from_bytes(&[0; 16], 128).is_ok());
        assert!(Cidr::from_bytes(&[0; 16], 129).is_err());
        assert!(Cidr::from_bytes(&[0; 16], u32::MAX).is_err());
        assert!(Cidr::from_bytes(&[], 0).is_err());
    }

    #[test]
    fn a_mapped_range_matches_the_ipv4_address() {
        let mapped: Ipv6Addr = "::ffff:10.1.0.0".parse().unwrap();
        let range = Cidr::from_bytes(&mapped.octets(), 112).unwrap();
        assert!(range.contains("10.1.2.3".parse().unwrap()));
        assert!(!range.contains("10.2.2.3".parse().unwrap()));
        assert_eq!(range.to_string(), "10.1.0.0/16");
    }

    #[test]
    fn ends_of_a_connection_are_canonical() {
        let address: SocketAddr = "[::ffff:10.0.0.5]:80".parse().unwrap();
        assert_eq!(OriginalDestination::new(address).to_string(), "10.0.0.5:80");
        assert_eq!(ClientAddress::new(address).to_string(), "10.0.0.5:80");
    }
}
