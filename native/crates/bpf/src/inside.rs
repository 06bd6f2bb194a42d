//! Work inside a network namespace, on a thread that ends with it.

use crate::error::BpfError;
use nix::sched::{CloneFlags, setns};
use std::os::fd::BorrowedFd;

/// Runs `work` on a thread of its own that has entered `namespace`; waits for it.
pub(crate) fn inside<T: Send>(
    namespace: BorrowedFd<'_>,
    work: impl FnOnce() -> Result<T, BpfError> + Send,
) -> Result<T, BpfError> {
    on_thread(|| {
        setns(namespace, CloneFlags::CLONE_NEWNET)
            .map_err(|errno| BpfError::system("enter the pod's network namespace", errno))?;
        work()
    })
}

/// The same in the namespace that the process's main thread was started in, on a thread of its own.
pub(crate) fn on_thread<T: Send>(work: impl FnOnce() -> Result<T, BpfError> + Send) -> Result<T, BpfError> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("meltemi-bpf".into())
            .stack_size(256 * 1024)
            .spawn_scoped(scope, work)
            .map_err(|error| BpfError::system("start a thread", error))?;
        match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}
