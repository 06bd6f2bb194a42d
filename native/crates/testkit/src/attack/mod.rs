//! `attack`: what a process with a container's capabilities can try against capture and guard.
//!
//! An attack tells what it attempted and what the kernel let it do; whether anything came through is for
//! a capture on the link to say. Nothing here needs more than the container runtime's default set: the
//! caller drops the rest, and the report holds the capabilities that were in force.

mod connect;
mod frames;
mod listen;
mod option;
mod packet;

use std::collections::BTreeMap;
use std::io;

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(crate) enum Attack {
    /// TCP connections with a mark, a foreign source or an interface of one's own choice.
    Connect(connect::Options),
    /// TCP segments made by hand, sent through raw or packet sockets.
    Frames(frames::Options),
    /// A listener where another one is, or should be.
    Listen(listen::Options),
}

pub(crate) async fn run(command: Attack) -> anyhow::Result<bool> {
    match command {
        Attack::Connect(options) => connect::run(&options),
        Attack::Frames(options) => frames::run(&options),
        Attack::Listen(options) => listen::run(&options).await,
    }
}

/// What came of the attempts, as far as the attacker can tell.
#[derive(Debug, serde::Serialize)]
struct Report {
    attempted: u64,
    /// Connections that were established, frames that the kernel took, listeners that listen.
    succeeded: u64,
    /// Bytes of the marker that the kernel took.
    sent_bytes: u64,
    /// Bytes that came back.
    received_bytes: u64,
    /// Those of them that are what was sent: an application answered.
    echoed_bytes: u64,
    /// System calls that failed, as `CALL: ERROR`.
    errors: BTreeMap<String, u64>,
    /// The effective set, in hexadecimal, as /proc/self/status has it.
    capabilities: String,
}

impl Report {
    fn new() -> io::Result<Self> {
        Ok(Self {
            attempted: 0,
            succeeded: 0,
            sent_bytes: 0,
            received_bytes: 0,
            echoed_bytes: 0,
            errors: BTreeMap::new(),
            capabilities: effective_capabilities()?,
        })
    }

    fn failed(&mut self, call: &str, error: &io::Error) {
        let name = error.raw_os_error().map_or_else(
            || format!("{:?}", error.kind()),
            |number| nix::errno::Errno::from_raw(number).to_string(),
        );
        *self.errors.entry(format!("{call}: {name}")).or_default() += 1;
    }
}

fn effective_capabilities() -> io::Result<String> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    Ok(line.unwrap_or_default().trim().to_owned())
}
