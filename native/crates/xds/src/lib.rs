//! Delta ADS client: keeps a [`ResourceSink`] filled with what the node needs, by name or all of it.
//!
//! [`Client::run`] owns the stream to the node agent (or to any server of ambient's types): it
//! connects, subscribes, hands every response to the sink, answers with ACK or NACK, and reconnects
//! with what is still held. [`Asker`] is the demanding side, to be given to the sink.
//!
//! One concept each: [`options`] and `transport` say where to and how, `subscriptions` what is asked
//! for and held (pure), `stream` one stream, `client` their succession.
//!
//! [`ResourceSink`]: meltemi_types::discovery::ResourceSink

mod asker;
mod client;
mod options;
mod stream;
mod subscriptions;
mod transport;

pub use asker::Asker;
pub use client::{Client, Status};
pub use options::{Backoff, ClientOptions, Metrics, NoMetrics, NodeInfo, Server};
pub use transport::{TransportError, channel};

/// Largest response taken, as a ztunnel does.
pub const MAX_RESPONSE_BYTES: usize = 200 * 1024 * 1024;
