//! Servers that play the applications.

mod http;
mod misbehaving;
pub(crate) mod tcp;

use std::net::SocketAddr;

use anyhow::Context;
use clap::Subcommand;
use tokio::net::TcpListener;

#[derive(Debug, Subcommand)]
pub(crate) enum Serve {
    /// HTTP/1.1: answers who asked; /echo?size=N, /slow?ms=N, /status?code=N.
    Http(http::Options),
    /// HTTP/1.1 broken as the path says: /reset, /reset-in-header, /half, /half-chunk, /garbage, /silent?ms=N,
    /// /drip?bytes=N&ms=N, /huge-headers?bytes=N, /many-headers?count=N, /burst?bad=N&good=N.
    Misbehaving(misbehaving::Options),
    /// TCP: echo, or sink, source, greeting, half-close.
    Tcp(tcp::Options),
}

pub(crate) async fn run(command: Serve) -> anyhow::Result<()> {
    let mut termination = crate::signal::Termination::watch()?;
    tokio::select! {
        ended = async { match command {
            Serve::Http(options) => http::serve(options).await,
            Serve::Misbehaving(options) => misbehaving::serve(options).await,
            Serve::Tcp(options) => tcp::serve(options).await,
        } } => ended,
        () = termination.wait() => Ok(()),
    }
}

/// What a data plane's sockets carry.
const PROXY_MARK: u32 = 0x539;

/// Binds with a backlog fit for load, and tells the port.
async fn bind(address: SocketAddr, name: &str, as_proxy: bool) -> anyhow::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4(),
        SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6(),
    }?;
    socket.set_reuseaddr(true)?;
    if as_proxy {
        let socket = socket2::SockRef::from(&socket);
        socket.set_mark(PROXY_MARK)?;
        // Of an IPv6 socket too: the option is the socket's, for both families.
        socket.set_ip_transparent_v4(true)?;
    }
    socket.bind(address).with_context(|| format!("bind {address}"))?;
    let listener = socket.listen(4096)?;
    let listening = listener.local_addr()?.to_string();
    crate::output::line(&serde_json::json!({ "ready": true, "name": name, "listening": listening }));
    Ok(listener)
}
