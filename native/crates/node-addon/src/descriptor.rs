//! Descriptors as numbers in JavaScript: duplicate, close, inspect.

use std::fs;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};

use napi::Result;
use napi::bindgen_prelude::within_runtime_if_available;
use napi_derive::napi;
use tokio::io::unix::AsyncFd;

use crate::error::AddonError;

/// A close-on-exec duplicate of a descriptor that JavaScript named.
pub(crate) fn duplicate(fd: i32) -> std::result::Result<OwnedFd, AddonError> {
    // SAFETY: fcntl checks the number; the result is a new descriptor that nobody else knows.
    unsafe {
        let copy = libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3);
        if copy < 0 {
            return Err(AddonError::last_os(format!("duplicate descriptor {fd}")));
        }
        Ok(OwnedFd::from_raw_fd(copy))
    }
}

/// Registers a non-blocking descriptor with the addon's tokio runtime, from whatever thread.
pub(crate) fn watch_descriptor(fd: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    within_runtime_if_available(|| {
        // SAFETY: an OwnedFd names the same open descriptor until it is dropped, after the AsyncFd has
        // deregistered it.
        unsafe { AsyncFd::register(fd) }.map_err(Into::into)
    })
}

/// A pidfd of a process that has not been reaped.
pub(crate) fn pidfd_of(pid: i32) -> std::io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes two integers and makes a new close-on-exec descriptor.
    unsafe {
        let opened = libc::syscall(libc::SYS_pidfd_open, pid, 0_u32);
        if opened < 0 {
            return Err(std::io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(opened as i32))
    }
}

#[napi]
pub fn duplicate_fd(fd: i32) -> Result<i32> {
    Ok(duplicate(fd)?.into_raw_fd())
}

#[napi]
pub fn close_fd(fd: i32) -> Result<()> {
    if fd < 3 {
        return Err(AddonError::BadArgument(format!("close descriptor {fd}: not one of ours")).into());
    }
    // SAFETY: close checks the number. That JavaScript owns it is the interface's contract.
    if unsafe { libc::close(fd) } != 0 {
        return Err(AddonError::last_os(format!("close descriptor {fd}")).into());
    }
    Ok(())
}

#[napi]
pub fn memfd_seals(fd: i32) -> Result<i32> {
    // SAFETY: fcntl checks the number and takes no pointer here.
    let seals = unsafe { libc::fcntl(fd, libc::F_GET_SEALS) };
    if seals < 0 {
        return Err(AddonError::last_os(format!("read the seals of descriptor {fd}")).into());
    }
    // A file on a tmpfs has seals too; only a memfd has no name anyone else could open it by.
    let target = fs::read_link(format!("/proc/self/fd/{fd}"))
        .map_err(|error| AddonError::system(format!("look up descriptor {fd}"), error))?;
    if !target.to_string_lossy().starts_with("/memfd:") {
        return Err(AddonError::BadArgument(format!("descriptor {fd} is not a memfd")).into());
    }
    Ok(seals)
}

#[napi]
pub fn die_with_parent(signal: i32) -> Result<()> {
    // SAFETY: prctl checks the signal's number; it concerns only this process.
    if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::c_ulong::from(signal as u32)) } != 0 {
        return Err(AddonError::last_os(format!("ask for signal {signal} at the parent's death")).into());
    }
    Ok(())
}
