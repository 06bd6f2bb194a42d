//! A raw HBONE client: one CONNECT through mutual TLS and HTTP/2, or one of the ways to do it wrong.

mod connect;
mod tls;

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

#[derive(Debug, Subcommand)]
pub(crate) enum Hbone {
    /// Opens a tunnel, sends, and tells what came back and where it ended.
    Connect(Box<Connect>),
}

#[derive(Debug, Args)]
pub(crate) struct Connect {
    #[arg(long, value_name = "IP:15008")]
    proxy: SocketAddr,
    /// The chain to show (PEM); none at all when absent.
    #[arg(long, requires = "key")]
    cert: Option<PathBuf>,
    #[arg(long, requires = "cert")]
    key: Option<PathBuf>,
    /// The roots to trust (PEM); anything is trusted when absent.
    #[arg(long)]
    root: Option<PathBuf>,
    /// The CONNECT's authority, `IP:PORT` or `HOST:PORT`.
    #[arg(long)]
    authority: String,
    /// `name: value` of the CONNECT request, may be repeated.
    #[arg(long, value_name = "HEADER")]
    header: Vec<String>,
    /// The identity that the proxy must show, `spiffe://…`.
    #[arg(long)]
    expect_identity: Option<String>,
    /// Sent through the tunnel once it is open.
    #[arg(long, default_value = "")]
    send: String,
    /// Sends `GET / HTTP/1.1` through the tunnel.
    #[arg(long, conflicts_with = "send")]
    http_get: bool,
    /// Ends our direction after sending.
    #[arg(long)]
    half_close: bool,
    /// Reads at most this much.
    #[arg(long, default_value_t = 65_536)]
    read_bytes: usize,
    /// Waits after the tunnel is open, before sending.
    #[arg(long, default_value_t = 0)]
    hold_ms: u64,
    #[arg(long, default_value_t = 10_000)]
    timeout_ms: u64,
    /// What to do wrong.
    #[arg(long, value_enum)]
    misbehave: Option<Misbehaviour>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Misbehaviour {
    /// Connects and never says a word.
    StallHandshake,
    /// Sends the first bytes of a handshake, then nothing.
    StallInHandshake,
    /// Speaks HTTP/1.1 without TLS.
    Plaintext,
    /// Sends bytes that are no protocol.
    Garbage,
    /// Finishes TLS, and never says a word of HTTP/2.
    StallHttp2,
    /// Sends a GET instead of a CONNECT.
    WrongMethod,
    /// Resets the stream once it is open.
    ResetStream,
    /// Resets the TCP connection once the stream is open.
    ResetConnection,
    /// Offers no ALPN.
    NoAlpn,
}

pub(crate) async fn run(command: Hbone) -> anyhow::Result<bool> {
    let Hbone::Connect(options) = command;
    connect::run(*options).await
}
