//! The sealed key descriptor: what lets a restarted data plane go on while the CA is away.
//!
//! A memfd with every key, chain and root, sealed so that nobody can change it any more, is deposited with the
//! node agent, which keeps the descriptor and never reads it. `proto/meltemi/v1/keys.proto`.

mod format;
mod keeper;
mod memfd;
#[cfg(test)]
mod tests;

pub use keeper::KeyKeeper;

pub(crate) use format::{Contents, SealedEntry};
pub(crate) use memfd::{open, seal};

/// Why keys could not be deposited or taken back. Never fatal: without them, certificates are requested.
#[derive(Debug, thiserror::Error)]
pub enum SealedError {
    /// The bytes are no key descriptor of this version, or damaged.
    #[error("key descriptor: at byte {at}: {problem}")]
    Format { at: usize, problem: &'static str },
    /// The descriptor is not a sealed memfd of a plausible size.
    #[error("key descriptor: {0}")]
    NotSealed(String),
    /// A system call failed.
    #[error("key descriptor: {step}: {source}")]
    System { step: &'static str, source: std::io::Error },
    /// The socket's other end is not the agent's user.
    #[error("keys socket {path}: its server runs as uid {uid}; keys are not handed over")]
    WrongPeer { path: String, uid: u32 },
    /// The agent answered with an error, or not at all.
    #[error("keys socket {path}: {problem}")]
    Agent { path: String, problem: String },
    /// A key could not be read out.
    #[error(transparent)]
    Key(#[from] crate::CertificateError),
}

impl SealedError {
    pub(crate) fn system(step: &'static str) -> impl Fn(rustix::io::Errno) -> Self {
        move |errno| Self::System { step, source: errno.into() }
    }
}
