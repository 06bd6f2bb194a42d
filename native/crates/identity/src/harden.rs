//! What keeps other processes of the same user, and core files, from the keys in this process's memory.

use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};

/// Hardening that the kernel refused.
#[derive(Debug, thiserror::Error)]
#[error("cannot harden the process: {step}: {source}")]
pub struct HardenError {
    step: &'static str,
    source: nix::Error,
}

/// Forbids core files and attaching (ptrace, /proc/PID/mem) by other processes of the same user. To be called
/// first in `main`, before a key exists. It also makes /proc/PID of this process root's: whoever needs the
/// process's namespaces must be root in its user namespace.
///
/// # Errors
/// If the kernel refuses, which it has no reason to: do not go on.
pub fn harden_process() -> Result<(), HardenError> {
    prctl::set_dumpable(false).map_err(|source| HardenError { step: "PR_SET_DUMPABLE 0", source })?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(|source| HardenError { step: "RLIMIT_CORE 0", source })
}
