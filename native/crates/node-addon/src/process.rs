//! `ProcessHandle`: a process held by pidfd, so that a signal never reaches another one that was given
//! its number, and so that the end of a process that is not our child can be awaited.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex};

use napi::bindgen_prelude::PromiseRaw;
use napi::{Env, Result};
use napi_derive::napi;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use crate::descriptor::{pidfd_of, watch_descriptor};
use crate::error::AddonError;
use crate::stream::{held, take};

#[derive(Debug)]
struct Held {
    pidfd: AsyncFd<OwnedFd>,
    closed: watch::Sender<bool>,
}

#[napi]
#[derive(Debug)]
pub struct ProcessHandle {
    held: Mutex<Option<Arc<Held>>>,
    pid: i32,
    start_ticks: f64,
}

#[napi]
impl ProcessHandle {
    #[napi(factory)]
    pub fn open(pid: i32) -> Result<Self> {
        if pid < 1 {
            return Err(AddonError::BadArgument(format!("{pid} is not the number of a process")).into());
        }
        let failed = |error: std::io::Error| AddonError::system(format!("open process {pid}"), error);
        let pidfd = pidfd_of(pid).map_err(failed)?;
        // Read after the pidfd: if the process still lives afterwards, the time is its own.
        let start_ticks = start_ticks(pid).map_err(failed)?;
        // SAFETY: signal 0 only asks whether the process is there.
        if unsafe { send(&pidfd, 0) } != 0 {
            return Err(failed(std::io::Error::last_os_error()).into());
        }
        let pidfd = watch_descriptor(pidfd).map_err(failed)?;
        let held = Arc::new(Held { pidfd, closed: watch::channel(false).0 });
        Ok(Self { held: Mutex::new(Some(held)), pid, start_ticks })
    }

    #[napi(getter)]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    #[napi(getter)]
    pub fn start_ticks(&self) -> f64 {
        self.start_ticks
    }

    #[napi]
    pub fn signal(&self, signal: i32) -> Result<bool> {
        let Some(held) = held(&self.held) else { return Ok(false) };
        // SAFETY: the pidfd is open, and names the process that `open` was asked for and no other.
        if unsafe { send(held.pidfd.get_ref(), signal) } == 0 {
            return Ok(true);
        }
        let error = std::io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::ESRCH) => Ok(false),
            _ => {
                Err(AddonError::system(format!("send signal {signal} to process {}", self.pid), error).into())
            }
        }
    }

    #[napi]
    pub fn exited<'env>(&self, env: &'env Env) -> Result<PromiseRaw<'env, bool>> {
        let held = held(&self.held);
        env.spawn_future(async move {
            let Some(held) = held else { return Ok(false) };
            let mut closed = held.closed.subscribe();
            tokio::select! {
                biased;
                _ = closed.wait_for(|closed| *closed) => Ok(false),
                ready = held.pidfd.ready(Interest::READABLE) => {
                    // A pidfd stays readable, so its readiness is left as it is.
                    ready.map_err(|error| AddonError::system("wait for a process", error))?.retain_ready();
                    Ok(true)
                }
            }
        })
    }

    #[napi]
    pub fn close(&self) {
        if let Some(held) = take(&self.held) {
            held.closed.send_replace(true);
        }
    }
}

/// # Safety
/// `signal` is delivered to the process of `pidfd`: the caller must mean it.
unsafe fn send(pidfd: &OwnedFd, signal: i32) -> libc::c_long {
    // SAFETY: no siginfo is given; the kernel checks the rest.
    unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0_u32,
        )
    }
}

/// Field 22 of /proc/PID/stat (proc(5)): clock ticks after boot at which the process began.
fn start_ticks(pid: i32) -> std::io::Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name, in parentheses, may itself contain spaces and parentheses.
    stat.rsplit_once(')')
        .and_then(|(_, rest)| rest.split_ascii_whitespace().nth(19))
        .and_then(|field| field.parse::<f64>().ok())
        .ok_or_else(|| std::io::Error::from(std::io::ErrorKind::InvalidData))
}
