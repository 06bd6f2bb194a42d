//! `meltemi-testkit`: servers, clients, captures and misbehaving peers for tests, the demo and the
//! benchmarks. It knows nothing of the mesh but HBONE's outside.
//!
//! Every command talks JSON on standard output, one object a line. Commands that go on until a signal
//! print a line with `"ready":true` once they are, and their result when SIGTERM or SIGINT comes.

mod attack;
mod capture;
mod client;
mod failure;
mod hbone;
mod kernel;
mod load;
mod output;
mod serve;
mod signal;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "meltemi-testkit", version, about = "Servers, clients and captures for Meltemi's tests")]
struct Options {
    /// Worker threads; 1 runs everything on the main thread.
    #[arg(long, global = true, default_value_t = 1)]
    threads: usize,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Servers.
    #[command(subcommand)]
    Serve(serve::Serve),
    /// Clients that check what they get.
    #[command(subcommand)]
    Client(client::Client),
    /// Records an interface's packets and says what is readable in them.
    Capture(capture::Capture),
    /// A raw HBONE client.
    #[command(subcommand)]
    Hbone(hbone::Hbone),
    /// Load for benchmarks.
    #[command(subcommand)]
    Load(load::Load),
    /// What is attached to interfaces.
    #[command(subcommand)]
    Kernel(kernel::Kernel),
    /// Attempts to get past capture and guard.
    #[command(subcommand)]
    Attack(attack::Attack),
}

fn main() -> std::process::ExitCode {
    let options = Options::parse();
    match run(options) {
        Ok(true) => std::process::ExitCode::SUCCESS,
        Ok(false) => std::process::ExitCode::FAILURE,
        Err(error) => {
            eprintln!("meltemi-testkit: {error:#}");
            std::process::ExitCode::from(2)
        }
    }
}

/// `false`: the command ran, and what it checks did not hold.
fn run(options: Options) -> anyhow::Result<bool> {
    let mut builder = if options.threads > 1 {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(options.threads);
        builder
    } else {
        tokio::runtime::Builder::new_current_thread()
    };
    let runtime = builder.enable_all().build()?;
    runtime.block_on(async {
        match options.command {
            Command::Serve(command) => serve::run(command).await.map(|()| true),
            Command::Client(command) => client::run(command).await,
            Command::Capture(command) => capture::run(command).await.map(|()| true),
            Command::Hbone(command) => hbone::run(command).await,
            Command::Load(command) => load::run(command).await,
            Command::Kernel(command) => kernel::run(&command),
            Command::Attack(command) => attack::run(command).await,
        }
    })
}
