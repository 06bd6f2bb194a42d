//! TCP segments as bytes, in the shapes that careless filters take for something else.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use clap::ValueEnum;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Shape {
    /// One segment, pushed and acknowledged, that nobody asked for.
    Segment,
    /// A SYN that carries data.
    Syn,
    /// The segment's head, then its payload, as two fragments.
    Fragments,
    /// Ports and sequence number in the first fragment, the rest of the head in the second (RFC 1858).
    TinyFragments,
    /// The payload's fragment alone, of a packet whose first fragment never comes.
    LoneFragment,
    /// IPv4 options, or IPv6 hop-by-hop and destination options, before the segment.
    Options,
    /// A tag of IEEE 802.1Q before the packet; through packet sockets only.
    Vlan,
}

/// One segment.
#[derive(Debug, Clone)]
pub(super) struct Segment {
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
    pub(super) sequence: u32,
    pub(super) shape: Shape,
    pub(super) payload: Vec<u8>,
}

const TCP: u8 = 6;
const HOP_BY_HOP: u8 = 0;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;
const SYN: u8 = 0x02;
const PSH_ACK: u8 = 0x18;
const HOPS: u8 = 64;
/// PadN over the six bytes that follow next header and length.
const PADDING: [u8; 6] = [1, 4, 0, 0, 0, 0];

impl Segment {
    /// The IP packets that carry it, in order. `identification` tells its fragments from others'.
    pub(super) fn packets(&self, identification: u16) -> Vec<Vec<u8>> {
        let segment = self.bytes();
        let whole = |options: bool| vec![self.packet(&segment, None, options)];
        match self.shape {
            Shape::Segment | Shape::Syn | Shape::Vlan => whole(false),
            Shape::Options => whole(true),
            Shape::Fragments => self.cut(&segment, 24, identification),
            Shape::TinyFragments => self.cut(&segment, 8, identification),
            Shape::LoneFragment => self.cut(&segment, 24, identification).split_off(1),
        }
    }

    /// Cut at a multiple of eight bytes.
    fn cut(&self, segment: &[u8], at: usize, identification: u16) -> Vec<Vec<u8>> {
        let (first, second) = segment.split_at(at);
        let part = |bytes: &[u8], offset: usize, more: bool| {
            self.packet(bytes, Some(Part { identification, offset, more }), false)
        };
        vec![part(first, 0, true), part(second, at, false)]
    }

    fn bytes(&self) -> Vec<u8> {
        let flags = if self.shape == Shape::Syn { SYN } else { PSH_ACK };
        let mut bytes = Vec::with_capacity(20 + self.payload.len());
        bytes.extend(self.source.port().to_be_bytes());
        bytes.extend(self.destination.port().to_be_bytes());
        bytes.extend(self.sequence.to_be_bytes());
        bytes.extend(if flags == SYN { 0 } else { 1_u32 }.to_be_bytes());
        bytes.extend([5 << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
        bytes.extend(&self.payload);
        let mut sum = pseudo_header(self.source.ip(), self.destination.ip(), bytes.len());
        sum = sum16(sum, &bytes);
        bytes[16..18].copy_from_slice(&folded(sum).to_be_bytes());
        bytes
    }

    fn packet(&self, body: &[u8], part: Option<Part>, options: bool) -> Vec<u8> {
        match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V6(source), IpAddr::V6(destination)) => ipv6(source, destination, body, part, options),
            (source, destination) => ipv4(as_v4(source), as_v4(destination), body, part, options),
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Part {
    identification: u16,
    offset: usize,
    more: bool,
}

fn as_v4(address: IpAddr) -> Ipv4Addr {
    match address {
        IpAddr::V4(address) => address,
        IpAddr::V6(address) => address.to_ipv4_mapped().unwrap_or(Ipv4Addr::UNSPECIFIED),
    }
}

fn ipv4(source: Ipv4Addr, destination: Ipv4Addr, body: &[u8], part: Option<Part>, options: bool) -> Vec<u8> {
    let head_bytes: usize = if options { 24 } else { 20 };
    let total = (head_bytes + body.len()) as u16;
    let cut = part.map_or(0, |part| (part.offset / 8) as u16 | if part.more { 0x2000 } else { 0 });
    let mut packet = Vec::with_capacity(usize::from(total));
    packet.extend([0x40 | (head_bytes / 4) as u8, 0]);
    packet.extend(total.to_be_bytes());
    packet.extend(part.map_or(1, |part| part.identification).to_be_bytes());
    packet.extend(cut.to_be_bytes());
    packet.extend([HOPS, TCP, 0, 0]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    if options {
        packet.extend([1, 1, 1, 0]); // no operation, thrice, and the end
    }
    let sum = folded(sum16(0, &packet));
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(body);
    packet
}

fn ipv6(source: Ipv6Addr, destination: Ipv6Addr, body: &[u8], part: Option<Part>, options: bool) -> Vec<u8> {
    let mut extensions = Vec::new();
    let mut first = TCP;
    if let Some(part) = part {
        first = FRAGMENT;
        extensions.extend([TCP, 0]);
        extensions.extend((part.offset as u16 | u16::from(part.more)).to_be_bytes());
        extensions.extend(u32::from(part.identification).to_be_bytes());
    } else if options {
        first = HOP_BY_HOP;
        extensions.extend([DESTINATION_OPTIONS, 0]);
        extensions.extend(PADDING);
        extensions.extend([TCP, 0]);
        extensions.extend(PADDING);
    }
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(((extensions.len() + body.len()) as u16).to_be_bytes());
    packet.extend([first, HOPS]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(extensions);
    packet.extend(body);
    packet
}

/// An Ethernet frame around a packet.
pub(super) fn frame(source: [u8; 6], destination: [u8; 6], tag: Option<u16>, packet: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(18 + packet.len());
    frame.extend(destination);
    frame.extend(source);
    if let Some(tag) = tag {
        frame.extend(0x8100_u16.to_be_bytes());
        frame.extend(tag.to_be_bytes());
    }
    let kind: u16 = if packet[0] >> 4 == 6 { 0x86dd } else { 0x0800 };
    frame.extend(kind.to_be_bytes());
    frame.extend(packet);
    frame
}

fn pseudo_header(source: IpAddr, destination: IpAddr, length: usize) -> u32 {
    let mut sum = u32::from(TCP) + length as u32;
    for address in [source, destination] {
        sum = match address {
            IpAddr::V4(address) => sum16(sum, &address.octets()),
            IpAddr::V6(address) => sum16(sum, &address.octets()),
        };
    }
    sum
}

fn sum16(mut sum: u32, bytes: &[u8]) -> u32 {
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    }
    sum
}

fn folded(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(version: u8, shape: Shape) -> Segment {
        let (source, destination) = match version {
            4 => ("10.0.0.1:4000", "10.0.0.2:80"),
            _ => ("[fd00::1]:4000", "[fd00::2]:80"),
        };
        Segment {
            source: source.parse().expect("an address"),
            destination: destination.parse().expect("an address"),
            sequence: 7,
            shape,
            payload: b"padding needle".to_vec(),
        }
    }

    #[test]
    fn sums_are_right() {
        for version in [4, 6] {
            let segment = segment(version, Shape::Segment);
            let bytes = segment.bytes();
            let sum = pseudo_header(segment.source.ip(), segment.destination.ip(), bytes.len());
            assert_eq!(folded(sum16(sum, &bytes)), 0);
        }
        let packet = segment(4, Shape::Options).packets(9).remove(0);
        assert_eq!((packet[0], folded(sum16(0, &packet[..24]))), (0x46, 0));
    }

    #[test]
    fn fragments_come_to_the_same_segment() {
        for (version, head) in [(4, 20), (6, 48)] {
            for shape in [Shape::Fragments, Shape::TinyFragments] {
                let segment = segment(version, shape);
                let packets = segment.packets(9);
                let joined: Vec<u8> = packets.iter().flat_map(|packet| packet[head..].to_vec()).collect();
                assert_eq!(joined, segment.bytes());
                assert_eq!(packets[0].len() - head, if shape == Shape::Fragments { 24 } else { 8 });
            }
            let lone = segment(version, Shape::LoneFragment).packets(9);
            assert_eq!((lone.len(), &lone[0][head..]), (1, &b"ing needle"[..]));
        }
    }

    #[test]
    fn extension_headers_lead_to_the_segment() {
        let packet = segment(6, Shape::Options).packets(9).remove(0);
        assert_eq!((packet[6], packet[40], packet[48]), (HOP_BY_HOP, DESTINATION_OPTIONS, TCP));
        assert_eq!(packet[56..58], 4000_u16.to_be_bytes());
        assert_eq!(usize::from(u16::from_be_bytes([packet[4], packet[5]])), packet.len() - 40);
    }

    #[test]
    fn frames_name_what_they_carry() {
        let packet = segment(6, Shape::Vlan).packets(9).remove(0);
        let frame = frame([1; 6], [2; 6], Some(5), &packet);
        assert_eq!(frame[..6], [2; 6]);
        assert_eq!(frame[12..18], [0x81, 0, 0, 5, 0x86, 0xdd]);
    }
}
