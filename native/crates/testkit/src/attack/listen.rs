//! A listener on a port that is the data plane's.

use std::io;
use std::net::SocketAddr;

use clap::Args;
use socket2::{Domain, Protocol, Socket, Type};

use super::{Report, option};
use crate::signal::Termination;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// May be repeated.
    #[arg(long, value_name = "IP:PORT", required = true)]
    listen: Vec<SocketAddr>,
    /// SO_REUSEPORT: joins a listener that allows it.
    #[arg(long)]
    reuse_port: bool,
    /// IP_TRANSPARENT, so that the address need not be the pod's.
    #[arg(long)]
    transparent: bool,
    /// SO_BINDTODEVICE: another device is no conflict.
    #[arg(long, value_name = "NAME")]
    device: Option<String>,
    /// Keeps listening until a signal.
    #[arg(long)]
    hold: bool,
}

pub(super) async fn run(options: &Options) -> anyhow::Result<bool> {
    let mut termination = Termination::watch()?;
    let mut report = Report::new()?;
    let mut held = Vec::new();
    for address in &options.listen {
        report.attempted += 1;
        match listener(options, *address) {
            Ok(socket) => {
                report.succeeded += 1;
                held.push(socket);
            }
            Err(error) => report.failed(&address.to_string(), &error),
        }
    }
    if options.hold {
        crate::output::line(&serde_json::json!({ "ready": true, "listening": held.len() }));
        termination.wait().await;
    }
    crate::output::line(&report);
    Ok(true)
}

fn listener(options: &Options, address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if options.reuse_port {
        socket.set_reuse_port(true)?;
    }
    if options.transparent {
        match address {
            SocketAddr::V4(_) => socket.set_ip_transparent_v4(true)?,
            SocketAddr::V6(_) => option::set(&socket, libc::IPPROTO_IPV6, libc::IPV6_TRANSPARENT, 1)?,
        }
    }
    if let Some(device) = &options.device {
        socket.bind_device(Some(device.as_bytes()))?;
    }
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(16)?;
    Ok(socket)
}
