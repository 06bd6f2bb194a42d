//! What can go wrong with a pod's namespace or a socket inside it.
use std::io;
use std::net::SocketAddr;

#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The descriptor is not of a network namespace.
    #[error("descriptor is not a network namespace: {0}")]
    NotANamespace(io::Error),
    /// The descriptor names the namespace that the data plane itself lives in.
    #[error("network namespace {inode} is the data plane's own; host-network pods cannot be captured")]
    OwnNamespace { inode: u64 },
    /// Entering the pod's namespace failed.
    #[error("entering network namespace {inode}: {source}")]
    Enter { inode: u64, source: io::Error },
    /// A listener could not be opened; something in the pod may hold the port.
    #[error("listening on {address} in the pod: {source}")]
    Listen { address: SocketAddr, source: io::Error },
    /// A socket option was refused by the kernel (missing NET_ADMIN or NET_RAW in the pod's namespace).
    #[error("socket option {option}: {source}")]
    Option { option: &'static str, source: io::Error },
    #[error("connecting to {address}: {source}")]
    Connect { address: SocketAddr, source: io::Error },
    #[error("connecting to {address}: no answer within {timeout_ms} ms")]
    ConnectTimeout { address: SocketAddr, timeout_ms: u128 },
    /// A socket could not be registered with the guard, which would drop all it sends.
    #[error("guard: {0}")]
    Guard(#[from] meltemi_bpf::BpfError),
    #[error("socket: {0}")]
    Socket(#[from] io::Error),
}

impl CaptureError {
    /// True when another endpoint may be tried: nothing was sent on this one.
    pub fn is_connect(&self) -> bool {
        matches!(self, Self::Connect { .. } | Self::ConnectTimeout { .. })
    }
}
