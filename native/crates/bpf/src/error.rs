//! What can go wrong, as a person reads it.

use std::io;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum BpfError {
    /// A system call failed; `action` says what it was for.
    #[error("{action}: {}{cause}", name_of(.cause))]
    System { action: String, cause: io::Error },
    /// The kernel's verifier refused a program, or a compiled object is not what this build expects.
    #[error("load program {program}: {}{cause}; the verifier's last words: {log:?}", name_of(.cause))]
    Verifier { program: String, cause: io::Error, log: String },
    #[error("compiled object {object}: {problem}; run node scripts/check-bpf.mjs")]
    Object { object: &'static str, problem: String },
    #[error("{}: not on a BPF file system: mount one there (mount -t bpf bpf {})", .0.display(), .0.display())]
    NotBpffs(PathBuf),
    #[error("pod settings: {field}: {problem}")]
    Settings { field: &'static str, problem: String },
    #[error("network namespace {inode}: {problem}")]
    Namespace { inode: u64, problem: String },
    #[error("network namespace {inode}: nothing of it is attached here; call attachGuard first")]
    Unknown { inode: u64 },
}

impl BpfError {
    /// The kernel's code, where it was a system call that failed.
    #[cfg(feature = "programs")]
    pub(crate) fn code(&self) -> Option<i32> {
        match self {
            Self::System { cause, .. } => cause.raw_os_error(),
            _ => None,
        }
    }

    pub(crate) fn system(action: impl Into<String>, cause: impl Into<io::Error>) -> Self {
        Self::System { action: action.into(), cause: cause.into() }
    }
}

/// For `map_err`: the failure of `action`.
pub(crate) fn failed(action: impl Into<String>) -> impl FnOnce(io::Error) -> BpfError {
    move |cause| BpfError::system(action, cause)
}

fn name_of(cause: &io::Error) -> String {
    match cause.raw_os_error() {
        Some(raw) => format!("{:?}: ", nix::errno::Errno::from_raw(raw)),
        None => String::new(),
    }
}
