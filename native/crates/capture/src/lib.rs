//! Sockets inside pods' network namespaces.
//!
//! First and last stop of a connection's life in the data plane: listeners that receive what the
//! pod's redirection sends, the destination the application really dialled, and connections that
//! leave from the pod's own namespace with the data plane's mark and, where asked, with the original
//! client's source address.

mod connect;
mod destination;
mod error;
mod listen;
mod memory;
mod netns;
mod options;
mod packets;

pub use connect::{Upstream, UpstreamKind};
pub use destination::{canonical, original_destination};
pub use error::CaptureError;
pub use listen::Listener;
pub use memory::{release_memory, tune_allocator};
pub use netns::{HomeNetns, NetnsId, PodNetns};
pub use options::{Keepalive, reset_on_close, set_access_options};
pub use packets::{Packet, PacketSocket};

/// Mark on every socket of the data plane, for routing only: never proof of anything.
pub const MARK: u32 = 0x539;
/// Outbound capture.
pub const PORT_OUTBOUND: u16 = 15001;
/// Inbound plaintext capture.
pub const PORT_INBOUND_PLAINTEXT: u16 = 15006;
/// Inbound HBONE.
pub const PORT_HBONE: u16 = 15008;
