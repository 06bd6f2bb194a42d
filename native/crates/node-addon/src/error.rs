//! The addon's errors. Each reads `ACTION: ERRNO: the system's words`, because it ends in a log line or
//! in front of a person.

use std::io;

/// Everything that can go wrong in the addon.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AddonError {
    #[error("{action}: {}{cause}", name_of(.cause))]
    System { action: String, cause: io::Error },
    #[error("bind {path}: EADDRINUSE: another process serves this socket")]
    Served { path: String },
    #[error("bind {path}: EEXIST: a file that is not a socket is in the way")]
    NotASocket { path: String },
    #[error("{path}: ENAMETOOLONG: the path of a Unix socket has at most 107 bytes")]
    PathTooLong { path: String },
    #[error("{0}")]
    Protocol(String),
    #[error("{0}")]
    BadArgument(String),
}

impl AddonError {
    pub(crate) fn system(action: impl Into<String>, cause: impl Into<io::Error>) -> Self {
        Self::System { action: action.into(), cause: cause.into() }
    }

    /// The calling thread's `errno`, as the failure of `action`.
    pub(crate) fn last_os(action: impl Into<String>) -> Self {
        Self::system(action, io::Error::last_os_error())
    }
}

fn name_of(cause: &io::Error) -> String {
    match cause.raw_os_error() {
        Some(raw) => format!("{:?}: ", nix::errno::Errno::from_raw(raw)),
        None => String::new(),
    }
}

impl From<AddonError> for napi::Error {
    fn from(error: AddonError) -> Self {
        Self::from_reason(error.to_string())
    }
}
