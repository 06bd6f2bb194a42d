//! Clients that check what they get, and tell how it failed.

mod hold;
mod http;
mod summary;

mod tcp;

use std::net::SocketAddr;
use std::time::Duration;

use clap::Subcommand;
use tokio::net::TcpStream;

use crate::failure::Failure;

pub(crate) use self::summary::Latencies;

#[derive(Debug, Subcommand)]
pub(crate) enum Client {
    /// Requests over HTTP/1.1.
    Http(http::Options),
    /// One exchange over TCP.
    Tcp(tcp::Options),
    /// Opens connections and leaves them idle until a signal.
    Idle(hold::IdleOptions),
    /// Keeps one connection busy, and tells when and how it ended.
    Hold(hold::HoldOptions),
}

/// `false` when something that was expected did not happen.
pub(crate) async fn run(command: Client) -> anyhow::Result<bool> {
    match command {
        Client::Http(options) => http::run(options).await,
        Client::Tcp(options) => tcp::run(options).await,
        Client::Idle(options) => hold::idle(options).await,
        Client::Hold(options) => hold::hold(options).await,
    }
}

/// Connects, without Nagle's delay.
pub(crate) async fn connect(address: SocketAddr, limit: Duration) -> Result<TcpStream, Failure> {
    match tokio::time::timeout(limit, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => {
            stream.set_nodelay(true)?;
            Ok(stream)
        }
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Err(Failure::timeout()),
    }
}
