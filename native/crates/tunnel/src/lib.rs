//! HBONE: TCP connections carried as `CONNECT` streams of HTTP/2 over mutual TLS.
//!
//! The client side keeps a [`Pool`] of tunnels, the server side [`serve`]s one; both hand out a
//! [`TunnelStream`] per connection, and [`relay`] moves its bytes to and from a TCP socket.
//! TLS, identities and sockets belong to the caller: this crate sees an encrypted byte stream.

mod budget;
mod buffers;
mod client;
mod error;
mod headers;
mod io;
mod keepalive;
mod limits;
mod pool;
mod relay;
mod server;
mod stream;

pub use budget::Budget;
pub use buffers::{reads, release_spare};
pub use client::{ClientTunnel, OpenRequest};
pub use error::{ConnectFailure, ConnectFailureKind, OpenError, TunnelError};
pub use headers::{Baggage, Refusal, TraceParent, forwarded, parse_forwarded_client, parse_forwarded_host};
pub use io::TunnelIo;
pub use limits::Limits;
pub use pool::{Connector, Pool, PoolKey};
pub use relay::{Cause, Meter, Patience, Quiet, RelayEnd, relay_tcp, relay_tunnel};
pub use server::{Incoming, serve};
pub use stream::TunnelStream;

/// ALPN of HBONE.
pub const ALPN_H2: &[u8] = b"h2";
