//! Bytes per second in one direction, and new connections per second.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use futures::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Outcome, Tally};
use crate::failure::{Failure, Kind};
use crate::output::line;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// Towards a server with --sink.
    Up,
    /// From a server with --source 0.
    Down,
    /// One byte there and back on a new connection each time, with an echo server.
    Connections,
}

#[derive(Debug, Args)]
pub(crate) struct Options {
    #[arg(long, value_name = "IP:PORT")]
    connect: SocketAddr,
    #[arg(long, value_enum)]
    mode: Mode,
    /// At the same time.
    #[arg(long, default_value_t = 1)]
    streams: usize,
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    #[arg(long, default_value_t = 0.5)]
    warmup_seconds: f64,
    #[arg(long, default_value_t = 131_072)]
    block_bytes: usize,
    #[arg(long, default_value_t = 5000)]
    timeout_ms: u64,
}

#[derive(Debug, Clone, Copy)]
struct Plan {
    address: SocketAddr,
    mode: Mode,
    block_bytes: usize,
    limit: Duration,
    measured_from: Instant,
    until: Instant,
}

pub(super) async fn run(options: Options) -> anyhow::Result<bool> {
    let measured_from = Instant::now() + Duration::from_secs_f64(options.warmup_seconds);
    let plan = Plan {
        address: options.connect,
        mode: options.mode,
        block_bytes: options.block_bytes.clamp(1, 16 << 20),
        limit: Duration::from_millis(options.timeout_ms),
        measured_from,
        until: measured_from + Duration::from_secs_f64(options.seconds),
    };
    let workers = (0..options.streams.max(1)).map(|_| tokio::spawn(work(plan)));
    let tallies = join_all(workers).await.into_iter().collect::<Result<Vec<_>, _>>()?;
    let outcome = Outcome::of(Tally::sum(tallies), options.seconds);
    line(&outcome);
    Ok(outcome.clean())
}

async fn work(plan: Plan) -> Tally {
    let mut tally = Tally::default();
    let ended = match plan.mode {
        Mode::Up | Mode::Down => flow(&plan, &mut tally).await,
        Mode::Connections => {
            connections(&plan, &mut tally).await;
            Ok(())
        }
    };
    if let Err(failure) = ended {
        tally.fail(failure);
    }
    tally
}

/// Moves bytes in one direction until the time is over; a stream that stalls beyond the limit has failed.
async fn flow(plan: &Plan, tally: &mut Tally) -> Result<(), Failure> {
    let mut stream = crate::client::connect(plan.address, plan.limit).await?;
    let mut block = vec![b'l'; plan.block_bytes];
    loop {
        let now = Instant::now();
        if now >= plan.until {
            return Ok(());
        }
        let moving = async {
            match plan.mode {
                Mode::Down => stream.read(&mut block).await,
                Mode::Up | Mode::Connections => stream.write(&block).await,
            }
        };
        let count = match tokio::time::timeout(plan.limit, moving).await {
            Ok(count) => count?,
            Err(_) => return Err(Failure::timeout()),
        };
        if count == 0 {
            return Err(Failure::new(Kind::Closed, "the server ended the stream"));
        }
        // Bytes are counted when they have moved, so one block at most is on the wrong side of a limit.
        if now >= plan.measured_from {
            tally.bytes += count as u64;
        }
    }
}

async fn connections(plan: &Plan, tally: &mut Tally) {
    loop {
        let began = Instant::now();
        if began >= plan.until {
            return;
        }
        let outcome = match tokio::time::timeout(plan.limit, echo_once(plan)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Failure::timeout()),
        };
        if began < plan.measured_from {
            continue;
        }
        match outcome {
            Ok(()) => {
                tally.done += 1;
                tally.latencies_us.push(began.elapsed().as_secs_f64() * 1e6);
            }
            Err(failure) => {
                tally.fail(failure);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }
}

async fn echo_once(plan: &Plan) -> Result<(), Failure> {
    let mut stream = crate::client::connect(plan.address, plan.limit).await?;
    let mut byte = *b"c";
    stream.write_all(&byte).await?;
    stream.read_exact(&mut byte).await?;
    Ok(())
}
