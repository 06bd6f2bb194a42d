//! From a frame to a TCP segment. Anything malformed is `None`: it is counted, never trusted.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// A frame as the kernel gave it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Captured<'a> {
    pub(super) seconds: u32,
    pub(super) nanoseconds: u32,
    pub(super) wire_bytes: u32,
    pub(super) data: &'a [u8],
}

/// What a frame carries.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Carried<'a> {
    Tcp(Segment<'a>),
    Udp { payload_bytes: usize, source: SocketAddr, destination: SocketAddr },
    Other,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Segment<'a> {
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
    pub(super) sequence: u32,
    pub(super) flags: u8,
    pub(super) payload: &'a [u8],
    /// The part of the payload that the capture did not hold.
    pub(super) missing: usize,
}

pub(super) const FIN: u8 = 1;
pub(super) const SYN: u8 = 2;
pub(super) const RST: u8 = 4;
pub(super) const ACK: u8 = 16;

/// Parses an Ethernet frame.
pub(super) fn parse(frame: &[u8]) -> Carried<'_> {
    parse_frame(frame).unwrap_or(Carried::Other)
}

fn parse_frame(frame: &[u8]) -> Option<Carried<'_>> {
    let mut kind = be16(frame, 12)?;
    let mut at = 14;
    // VLAN tags, one or two.
    while matches!(kind, 0x8100 | 0x88a8) && at <= 18 {
        kind = be16(frame, at + 2)?;
        at += 4;
    }
    let packet = frame.get(at..)?;
    match kind {
        0x0800 => ipv4(packet),
        0x86dd => ipv6(packet),
        _ => None,
    }
}

fn ipv4(packet: &[u8]) -> Option<Carried<'_>> {
    let header = usize::from(packet.first()? & 0x0f) * 4;
    let total = usize::from(be16(packet, 2)?);
    let fragment = be16(packet, 6)? & 0x1fff;
    if header < 20 || fragment != 0 {
        return None;
    }
    let address = |at: usize| -> Option<IpAddr> {
        Some(Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?).into())
    };
    // Segments that the card would have cut may have a total length of 0 here.
    let body = if total == 0 { packet.len().checked_sub(header)? } else { total.checked_sub(header)? };
    transport(*packet.get(9)?, address(12)?, address(16)?, packet.get(header..)?, body)
}

fn ipv6(packet: &[u8]) -> Option<Carried<'_>> {
    let length = usize::from(be16(packet, 4)?);
    let address = |at: usize| -> Option<IpAddr> {
        Some(Ipv6Addr::from(<[u8; 16]>::try_from(packet.get(at..at + 16)?).ok()?).into())
    };
    let body = if length == 0 { packet.len().checked_sub(40)? } else { length };
    transport(*packet.get(6)?, address(8)?, address(24)?, packet.get(40..)?, body)
}

fn transport(
    protocol: u8,
    source: IpAddr,
    destination: IpAddr,
    data: &[u8],
    bytes: usize,
) -> Option<Carried<'_>> {
    let source = SocketAddr::new(source, be16(data, 0)?);
    let destination = SocketAddr::new(destination, be16(data, 2)?);
    match protocol {
        6 => {
            let header = usize::from(*data.get(12)? >> 4) * 4;
            let payload_bytes = bytes.checked_sub(header)?;
            // Short frames are padded, long ones may be cut.
            let held = data.len().min(bytes);
            let payload = data.get(header..held.max(header))?;
            Some(Carried::Tcp(Segment {
                source,
                destination,
                sequence: u32::from_be_bytes(data.get(4..8)?.try_into().ok()?),
                flags: *data.get(13)?,
                payload,
                missing: payload_bytes - payload.len(),
            }))
        }
        17 => Some(Carried::Udp { payload_bytes: bytes.checked_sub(8)?, source, destination }),
        _ => None,
    }
}

fn be16(data: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(data.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// An Ethernet frame with IPv4 and TCP, padded to Ethernet's 60 bytes.
    pub(in crate::capture) fn tcp_frame(
        from: u16,
        to: u16,
        sequence: u32,
        flags: u8,
        payload: &[u8],
    ) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([0x08, 0x00]);
        frame.extend([0x45, 0]);
        frame.extend(((40 + payload.len()) as u16).to_be_bytes());
        frame.extend([0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        frame.extend(from.to_be_bytes());
        frame.extend(to.to_be_bytes());
        frame.extend(sequence.to_be_bytes());
        frame.extend([0, 0, 0, 0, 0x50, flags, 1, 0, 0, 0, 0, 0]);
        frame.extend(payload);
        frame.resize(frame.len().max(60), 0);
        frame
    }

    #[test]
    fn reads_a_segment_without_the_padding() {
        let frame = tcp_frame(4000, 80, 7, SYN | ACK, b"hi");
        let Carried::Tcp(segment) = parse(&frame) else { panic!("not TCP") };
        assert_eq!(segment.source, "10.0.0.1:4000".parse().expect("address"));
        assert_eq!(segment.destination, "10.0.0.2:80".parse().expect("address"));
        assert_eq!(
            (segment.sequence, segment.flags, segment.payload, segment.missing),
            (7, SYN | ACK, &b"hi"[..], 0)
        );
    }

    #[test]
    fn tells_what_the_capture_has_cut() {
        let mut frame = tcp_frame(1, 2, 3, ACK, &[b'x'; 100]);
        frame.truncate(frame.len() - 40);
        let Carried::Tcp(segment) = parse(&frame) else { panic!("not TCP") };
        assert_eq!((segment.payload.len(), segment.missing), (60, 40));
    }

    #[test]
    fn reads_ipv6_behind_a_vlan_tag() {
        let mut frame = vec![0; 12];
        frame.extend([0x81, 0, 0, 5, 0x86, 0xdd]);
        frame.extend([0x60, 0, 0, 0, 0, 23, 6, 64]);
        frame.extend([[0; 15].as_slice(), &[1], &[0; 15], &[2]].concat());
        frame.extend([0, 9, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, ACK, 0, 0, 0, 0, 0, 0]);
        frame.extend(b"abc");
        let Carried::Tcp(segment) = parse(&frame) else { panic!("not TCP") };
        assert_eq!(
            (segment.destination, segment.payload),
            ("[::2]:80".parse().expect("address"), &b"abc"[..])
        );
    }

    #[test]
    fn survives_every_cut_and_every_changed_byte() {
        let frame = tcp_frame(4000, 80, 7, ACK, b"payload");
        for cut in 0..frame.len() {
            parse(&frame[..cut]);
        }
        for at in 0..frame.len() {
            for value in [0, 1, 0x0f, 0x7f, 0xff] {
                let mut changed = frame.clone();
                changed[at] = value;
                parse(&changed);
            }
        }
    }
}
