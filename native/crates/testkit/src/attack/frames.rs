//! Segments sent past the kernel's TCP: raw sockets (the kernel routes the packet), packet sockets (it
//! does not look at it at all), and packet sockets that go past the queueing discipline.

use std::io;
use std::net::SocketAddr;

use anyhow::Context;
use clap::{Args, ValueEnum};
use nix::sys::socket::{AddressFamily, SockaddrLike, SockaddrStorage};
use socket2::{Domain, Protocol, Socket, Type};

use super::packet::{Segment, Shape, frame};
use super::{Report, option};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Through {
    Raw,
    Packet,
    /// With PACKET_QDISC_BYPASS.
    PacketBypass,
}

#[derive(Debug, Args)]
pub(crate) struct Options {
    #[arg(long, value_enum)]
    through: Through,
    #[arg(long, value_enum, default_value = "segment")]
    shape: Shape,
    /// Anybody's address.
    #[arg(long, value_name = "IP:PORT")]
    from: SocketAddr,
    #[arg(long, value_name = "IP:PORT")]
    to: SocketAddr,
    /// SO_MARK, for raw sockets.
    #[arg(long)]
    mark: Option<u32>,
    /// The interface, for packet sockets.
    #[arg(long, default_value = "eth0")]
    device: String,
    /// The next hop's address, for packet sockets.
    #[arg(long, value_name = "MAC", value_parser = parse_mac)]
    next_hop: Option<Mac>,
    #[arg(long, value_name = "TEXT")]
    marker: String,
    #[arg(long, default_value_t = 4)]
    attempts: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mac([u8; 6]);

fn parse_mac(text: &str) -> Result<Mac, String> {
    let parts: Option<Vec<u8>> = text.split(':').map(|part| u8::from_str_radix(part, 16).ok()).collect();
    let octets = parts.and_then(|parts| <[u8; 6]>::try_from(parts).ok());
    octets.map(Mac).ok_or_else(|| format!("{text}: expected six octets, as 02:00:00:00:00:01"))
}

/// Sends one IP packet.
type Way = Box<dyn Fn(&[u8]) -> io::Result<()>>;

pub(super) fn run(options: &Options) -> anyhow::Result<bool> {
    anyhow::ensure!(
        options.from.is_ipv4() == options.to.is_ipv4(),
        "--from {} and --to {} are of two families",
        options.from,
        options.to
    );
    let mut report = Report::new()?;
    let way: Way = match options.through {
        Through::Raw => raw(options)?,
        Through::Packet | Through::PacketBypass => packet(options)?,
    };
    for attempt in 0..options.attempts {
        report.attempted += 1;
        let segment = Segment {
            source: options.from,
            destination: options.to,
            sequence: 1_000 + attempt as u32 * 2_000,
            shape: options.shape,
            // The marker lies in the second fragment, whichever way the segment is cut.
            payload: format!("....{}", options.marker).into_bytes(),
        };
        // One outcome an attempt: a fragment that is refused has refused the packet.
        match segment.packets(attempt as u16 + 1).iter().try_for_each(|packet| way(packet)) {
            Ok(()) => {
                report.succeeded += 1;
                report.sent_bytes += options.marker.len() as u64;
            }
            Err(error) => report.failed("send", &error),
        }
    }
    crate::output::line(&report);
    Ok(true)
}

fn raw(options: &Options) -> anyhow::Result<Way> {
    anyhow::ensure!(options.shape != Shape::Vlan, "a raw socket sends no tags");
    let domain = Domain::for_address(options.to);
    // IPPROTO_RAW: the header is the sender's own (raw(7)).
    let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))
        .context("a raw socket (needs CAP_NET_RAW)")?;
    if let Some(mark) = options.mark {
        socket.set_mark(mark).context("SO_MARK")?;
    }
    let to = SocketAddr::new(options.to.ip(), 0).into();
    Ok(Box::new(move |packet| socket.send_to(packet, &to).map(drop)))
}

fn packet(options: &Options) -> anyhow::Result<Way> {
    let Mac(next_hop) = options.next_hop.context("--next-hop is needed for packet sockets")?;
    // Protocol 0 receives nothing; the kernel takes a sent frame's own.
    let socket = Socket::new(Domain::PACKET, Type::RAW, None).context("a packet socket")?;
    let address = link_address(&options.device)?;
    let own = address.as_link_addr().and_then(nix::sys::socket::LinkAddr::addr).context("no MAC address")?;
    nix::sys::socket::bind(std::os::fd::AsRawFd::as_raw_fd(&socket), &address)
        .with_context(|| format!("bind to {}", options.device))?;
    if options.through == Through::PacketBypass {
        option::set(&socket, libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, 1)
            .context("PACKET_QDISC_BYPASS")?;
    }
    let tag = (options.shape == Shape::Vlan).then_some(7);
    Ok(Box::new(move |packet| socket.send(&frame(own, next_hop, tag, packet)).map(drop)))
}

/// The interface's own link address: what a packet socket is bound to.
fn link_address(device: &str) -> anyhow::Result<SockaddrStorage> {
    nix::ifaddrs::getifaddrs()?
        .filter(|found| found.interface_name == device)
        .filter_map(|found| found.address)
        .find(|address| address.family() == Some(AddressFamily::Packet))
        .with_context(|| format!("no interface {device}"))
}

#[cfg(test)]
mod tests {
    use super::{Mac, parse_mac};

    #[test]
    fn macs_are_six_octets() {
        assert_eq!(parse_mac("02:00:00:00:00:fF"), Ok(Mac([2, 0, 0, 0, 0, 0xff])));
        for wrong in ["", "02:00:00:00:00", "02:00:00:00:00:01:02", "02:00:00:00:00:100"] {
            assert!(parse_mac(wrong).is_err(), "{wrong}");
        }
    }
}
