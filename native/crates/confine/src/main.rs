//! `meltemi-confine`: becomes a program that may do what a container of the node may, and nothing else.

use anyhow::Context;
use clap::Parser;
use meltemi_confine::Container;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

/// Runs a program with the privileges of one of the node's containers, as a container runtime would.
#[derive(Debug, Parser)]
#[command(version)]
struct Options {
    /// The container's description (daemonset/agent.json, daemonset/data-plane.json).
    #[arg(long, value_name = "FILE")]
    container: PathBuf,
    /// A path that the container mounts for writing; everything else is read-only.
    #[arg(long, value_name = "PATH")]
    writable: Vec<PathBuf>,
    /// The program and its arguments.
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

fn main() -> anyhow::Result<()> {
    let Options { container: file, writable, command } = Options::parse();
    let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let container = Container::parse(&file.display().to_string(), &text)?;
    let (program, arguments) = command.split_first().context("no program is named")?;
    container.confine(&file, &writable)?;
    let error = Command::new(program).args(arguments).exec();
    Err(error).with_context(|| format!("cannot run {program}"))
}
