//! `runInNetns`: a program inside a namespace, with its input given, its output bounded and its time
//! limited. It is waited for through a pidfd, so Node's handling of its own children is not touched.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use napi::bindgen_prelude::PromiseRaw;
use napi::{Env, Result};
use napi_derive::napi;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::descriptor::{duplicate, pidfd_of};
use crate::error::AddonError;
use crate::netns::inside;

/// The most that a program may say on each of its two outputs.
const MAX_OUTPUT_BYTES: usize = 1 << 20;

#[napi(object)]
#[derive(Debug)]
pub struct ProgramResult {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

#[napi]
pub fn run_in_netns(
    env: &Env,
    fd: i32,
    command: String,
    args: Vec<String>,
    stdin: String,
    timeout_ms: u32,
) -> Result<PromiseRaw<'_, ProgramResult>> {
    let namespace = duplicate(fd);
    env.spawn_future(async move {
        let namespace = namespace?;
        let limit = Duration::from_millis(u64::from(timeout_ms));
        Ok(inside(namespace, move || run(&command, &args, stdin.as_bytes(), limit)).await?)
    })
}

/// The program is started from a thread that is in the namespace already, and not by a step between fork and
/// exec: without one the C library needs no copy of this process's page tables, which for Node are large.
fn run(
    command: &str,
    args: &[String],
    input: &[u8],
    limit: Duration,
) -> std::result::Result<ProgramResult, AddonError> {
    let mut program = Command::new(command);
    program
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // A group of its own, so that what it starts ends with it.
        .process_group(0);
    let child = program.spawn().map_err(|error| AddonError::system(format!("start {command}"), error))?;
    let mut running = Running { child, ended: false };
    let outcome = converse(&mut running, command, input, limit);
    let status = running.end().map_err(|error| AddonError::system(format!("wait for {command}"), error))?;
    let (stdout, stderr) = outcome?;
    Ok(ProgramResult {
        code: status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)),
        stdout: String::from_utf8_lossy(&stdout).into_owned(),
        stderr: String::from_utf8_lossy(&stderr).into_owned(),
    })
}

/// A child that does not outlive its owner.
#[derive(Debug)]
struct Running {
    child: Child,
    ended: bool,
}

impl Running {
    /// Kills what is left of the group, then reaps the child (in this order: its number, which is the
    /// group's, cannot be taken by another process until it is reaped).
    fn end(&mut self) -> io::Result<std::process::ExitStatus> {
        self.ended = true;
        // SAFETY: the group's leader is our unreaped child.
        unsafe { libc::kill(-(self.child.id() as i32), libc::SIGKILL) };
        self.child.wait()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.ended {
            let _ = self.end();
        }
    }
}

type Outputs = (Vec<u8>, Vec<u8>);

/// Feeds the input and collects the outputs until the program has ended.
fn converse(
    running: &mut Running,
    command: &str,
    mut input: &[u8],
    limit: Duration,
) -> std::result::Result<Outputs, AddonError> {
    let failed = |error: io::Error| AddonError::system(format!("run {command}"), error);
    let deadline = Instant::now() + limit;
    let pidfd = pidfd_of(running.child.id() as i32).map_err(failed)?;
    let mut stdin = running.child.stdin.take();
    let mut stdout = Output::new(running.child.stdout.take());
    let mut stderr = Output::new(running.child.stderr.take());
    for fd in [stdin.as_ref().map(AsFd::as_fd), stdout.fd(), stderr.fd()].into_iter().flatten() {
        set_nonblocking(fd).map_err(failed)?;
    }
    loop {
        if input.is_empty() {
            stdin = None;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(AddonError::Protocol(format!(
                "run {command}: ETIMEDOUT: killed after {} ms",
                limit.as_millis()
            )));
        }
        let mut waits = vec![PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        waits.extend(stdout.fd().map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        waits.extend(stderr.fd().map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        waits.extend(stdin.as_ref().map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLOUT)));
        // Rounded up, so that the last wait is not a busy one.
        let wait_ms = u16::try_from(left.as_millis() + 1).unwrap_or(u16::MAX);
        match poll(&mut waits, PollTimeout::from(wait_ms)) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(failed(error.into())),
        }
        let ended = waits[0].any().unwrap_or(false);
        drop(waits);
        if let Some(pipe) = stdin.as_mut() {
            match pipe.write(input) {
                Ok(written) => input = &input[written..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // It does not read its input to the end, which is its own affair.
                Err(_) => stdin = None,
            }
        }
        if !(stdout.read_available().map_err(failed)? && stderr.read_available().map_err(failed)?) {
            return Err(AddonError::Protocol(format!(
                "run {command}: killed, it wrote more than {MAX_OUTPUT_BYTES} bytes"
            )));
        }
        if ended {
            return Ok((stdout.bytes, stderr.bytes));
        }
    }
}

/// One of the program's outputs, collected up to the bound.
struct Output<P> {
    pipe: Option<P>,
    bytes: Vec<u8>,
}

impl<P: Read + AsFd> Output<P> {
    fn new(pipe: Option<P>) -> Self {
        Self { pipe, bytes: Vec::new() }
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().map(AsFd::as_fd)
    }

    /// Reads what is there; `false` when the bound is passed.
    fn read_available(&mut self) -> io::Result<bool> {
        let mut chunk = [0_u8; 16 * 1024];
        while let Some(pipe) = self.pipe.as_mut() {
            match pipe.read(&mut chunk) {
                Ok(0) => self.pipe = None,
                Ok(count) => {
                    if self.bytes.len() + count > MAX_OUTPUT_BYTES {
                        return Ok(false);
                    }
                    self.bytes.extend_from_slice(&chunk[..count]);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    let flags = OFlag::from_bits_truncate(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}
