//! Connections that try to go past the redirection.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use clap::Args;
use socket2::{Domain, Protocol, Socket, Type};

use super::{Report, option};

#[derive(Debug, Args)]
pub(crate) struct Options {
    #[arg(long, value_name = "IP:PORT")]
    to: SocketAddr,
    /// SO_MARK.
    #[arg(long, value_parser = parse_mark)]
    mark: Option<u32>,
    /// IP_TRANSPARENT, so that --from may be anybody's address.
    #[arg(long)]
    transparent: bool,
    /// The source's address.
    #[arg(long, value_name = "IP")]
    from: Option<IpAddr>,
    /// SO_BINDTODEVICE: routes through other interfaces do not count.
    #[arg(long, value_name = "NAME")]
    device: Option<String>,
    /// SO_DONTROUTE: gateways do not count.
    #[arg(long)]
    dont_route: bool,
    #[arg(long, value_name = "TEXT")]
    marker: String,
    /// How often the marker is written on each connection.
    #[arg(long, default_value_t = 16)]
    times: usize,
    #[arg(long, default_value_t = 1)]
    attempts: u64,
    /// For connecting, and for the answer.
    #[arg(long, default_value_t = 500)]
    timeout_ms: u64,
}

/// Decimal, or hexadecimal after `0x`.
fn parse_mark(text: &str) -> Result<u32, std::num::ParseIntError> {
    match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => text.parse(),
    }
}

pub(super) fn run(options: &Options) -> anyhow::Result<bool> {
    let mut report = Report::new()?;
    for _ in 0..options.attempts {
        report.attempted += 1;
        if let Err((call, error)) = attempt(options, &mut report) {
            report.failed(call, &error);
        }
    }
    crate::output::line(&report);
    Ok(true)
}

type Step = Result<(), (&'static str, io::Error)>;

fn attempt(options: &Options, report: &mut Report) -> Step {
    let mut socket = prepared(options).map_err(|error| ("prepare", error))?;
    let limit = Duration::from_millis(options.timeout_ms);
    socket.connect_timeout(&options.to.into(), limit).map_err(|error| ("connect", error))?;
    report.succeeded += 1;
    let text = options.marker.repeat(options.times);
    socket.set_write_timeout(Some(limit)).map_err(|error| ("prepare", error))?;
    socket.write_all(text.as_bytes()).map_err(|error| ("write", error))?;
    report.sent_bytes += text.len() as u64;
    socket.set_read_timeout(Some(limit)).map_err(|error| ("prepare", error))?;
    let mut answer = [0_u8; 4096];
    let count = socket.read(&mut answer).map_err(|error| ("read", error))?;
    report.received_bytes += count as u64;
    let echoed = answer[..count].iter().zip(text.as_bytes()).take_while(|(back, sent)| back == sent);
    report.echoed_bytes += echoed.count() as u64;
    Ok(())
}

fn prepared(options: &Options) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(options.to), Type::STREAM, Some(Protocol::TCP))?;
    if let Some(mark) = options.mark {
        socket.set_mark(mark)?;
    }
    if options.transparent {
        match options.to {
            SocketAddr::V4(_) => socket.set_ip_transparent_v4(true)?,
            SocketAddr::V6(_) => option::set(&socket, libc::IPPROTO_IPV6, libc::IPV6_TRANSPARENT, 1)?,
        }
    }
    if let Some(device) = &options.device {
        socket.bind_device(Some(device.as_bytes()))?;
    }
    if options.dont_route {
        option::set(&socket, libc::SOL_SOCKET, libc::SO_DONTROUTE, 1)?;
    }
    if let Some(from) = options.from {
        socket.bind(&SocketAddr::new(from, 0).into())?;
    }
    Ok(socket)
}
