//! The node's data plane.
//!
//! A connection passes: [`outbound`] (captured, routed, tunnelled) on its client's node, [`inbound`] (peer
//! proved, judged, connected as the client) on its server's. [`zds`] says which pods there are, [`pods`] and
//! [`pod`] serve them, [`run`] puts everything together. [`waypoint`] is the other role.

mod admin;
mod admission;
mod config;
mod connections;
mod dial;
mod failure;
mod inbound;
mod labels;
mod listeners;
mod node;
mod outbound;
mod pod;
mod pods;
mod run;
mod views;
mod waypoint;
mod zds;

use crate::config::Command;
use anyhow::Context;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::process::ExitCode;

fn main() -> ExitCode {
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "data plane failed");
            ExitCode::FAILURE
        }
    }
}

fn start() -> anyhow::Result<()> {
    meltemi_identity::harden_process()?;
    let command = Command::from_process();
    let (workers, log_level, log_format) = command.process();
    let logging = meltemi_telemetry::logging::init(log_level, log_format)?;
    raise_descriptor_limit();
    meltemi_capture::tune_allocator();
    // Before there is another thread: each has the privileges of the one that starts it.
    let narrowed = match command {
        Command::Ztunnel(_) => meltemi_confine::narrow_data_plane()?,
        Command::Waypoint(_) => meltemi_confine::narrow_waypoint()?,
    };
    tracing::info!(capabilities = narrowed.capabilities.join(","), "privileges narrowed");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .thread_name("worker")
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let result = match command {
        Command::Ztunnel(config) => runtime.block_on(run::run(*config, logging)),
        Command::Waypoint(config) => runtime.block_on(waypoint::run(*config, logging)),
    };
    runtime.shutdown_background();
    result
}

/// Every connection takes two descriptors: as many as may be had.
fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "descriptor limit stays as it is");
    }
}
