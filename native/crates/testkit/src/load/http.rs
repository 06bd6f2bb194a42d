//! Requests: as many as possible, or at a fixed rate with latency percentiles.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::BytesMut;
use clap::Args;
use futures::future::join_all;
use http::Uri;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use super::exchange::exchange;
use super::{Outcome, Tally};
use crate::failure::Failure;
use crate::output::line;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// `http://IP:PORT/PATH`
    #[arg(long)]
    url: Uri,
    /// Connections in use at the same time.
    #[arg(long, default_value_t = 1)]
    connections: u64,
    /// Requests per second over all connections; 0 is as many as possible.
    #[arg(long, default_value_t = 0)]
    rate: u64,
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Time before the measurement begins.
    #[arg(long, default_value_t = 0.5)]
    warmup_seconds: f64,
    /// A connection for each request.
    #[arg(long)]
    new_connections: bool,
    #[arg(long, default_value_t = 5000)]
    timeout_ms: u64,
}

#[derive(Debug)]
struct Plan {
    address: SocketAddr,
    request: Vec<u8>,
    workers: usize,
    new_connections: bool,
    limit: Duration,
    /// Time between two requests of the whole run; zero: no pace.
    pace: Duration,
    begin: Instant,
    measured_from: Instant,
    until: Instant,
    /// The next request's number, and with it the time when it is due.
    ticket: AtomicU64,
    /// A permit for each request that has become due.
    due: Semaphore,
}

pub(super) async fn run(options: Options) -> anyhow::Result<bool> {
    let authority = options.url.authority().context("--url: no address")?;
    let address: SocketAddr =
        authority.as_str().parse().with_context(|| format!("--url: {authority} is not IP:PORT"))?;
    let path = options.url.path_and_query().map_or("/", |path| path.as_str());
    let close = if options.new_connections { "connection: close\r\n" } else { "" };
    let begin = Instant::now();
    let measured_from = begin + Duration::from_secs_f64(options.warmup_seconds);
    let plan = Arc::new(Plan {
        address,
        request: format!("GET {path} HTTP/1.1\r\nhost: {authority}\r\n{close}\r\n").into_bytes(),
        workers: options.connections.max(1) as usize,
        new_connections: options.new_connections,
        limit: Duration::from_millis(options.timeout_ms),
        pace: match options.rate {
            0 => Duration::ZERO,
            rate => Duration::from_secs_f64(1.0 / rate as f64),
        },
        begin,
        measured_from,
        until: measured_from + Duration::from_secs_f64(options.seconds),
        ticket: AtomicU64::new(0),
        due: Semaphore::new(0),
    });
    if !plan.pace.is_zero() {
        let plan = Arc::clone(&plan);
        std::thread::spawn(move || pace(&plan));
    }
    let workers = (0..plan.workers).map(|_| tokio::spawn(work(Arc::clone(&plan))));
    let tallies = join_all(workers).await.into_iter().collect::<Result<Vec<_>, _>>()?;
    let outcome = Outcome::of(Tally::sum(tallies), options.seconds);
    line(&outcome);
    Ok(outcome.clean())
}

/// Lets one request after the other become due, on a thread of its own: the runtime's timers are good to
/// a millisecond, which is more than what is measured.
fn pace(plan: &Plan) {
    for number in 0_u64.. {
        let due = plan.begin + plan.pace.mul_f64(number as f64);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        if due >= plan.until {
            // One for each worker: it sees that the time is over when its ticket is due after the end.
            plan.due.add_permits(plan.workers);
            return;
        }
        plan.due.add_permits(1);
    }
}

async fn work(plan: Arc<Plan>) -> Tally {
    let mut tally = Tally::default();
    let mut open: Option<TcpStream> = None;
    let mut buffer = BytesMut::with_capacity(64 << 10);
    loop {
        let due = match plan.pace {
            Duration::ZERO => Instant::now(),
            pace => {
                // Never closed: there is a permit for every request and one more for every worker.
                if let Ok(permit) = plan.due.acquire().await {
                    permit.forget();
                }
                let number = plan.ticket.fetch_add(1, Ordering::Relaxed);
                plan.begin + pace.mul_f64(number as f64)
            }
        };
        if due >= plan.until {
            return tally;
        }
        let outcome = match tokio::time::timeout(plan.limit, one(&plan, &mut open, &mut buffer)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Failure::timeout()),
        };
        let measured = due >= plan.measured_from;
        match outcome {
            Ok(bytes) if measured => {
                tally.done += 1;
                tally.bytes += bytes;
                tally.latencies_us.push(due.elapsed().as_secs_f64() * 1e6);
            }
            Ok(_) => {}
            Err(failure) => {
                open = None;
                if measured {
                    tally.fail(failure);
                }
                // A refused connection costs nothing; without a pause the attempts would eat a core.
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }
}

async fn one(plan: &Plan, open: &mut Option<TcpStream>, buffer: &mut BytesMut) -> Result<u64, Failure> {
    if plan.new_connections {
        let mut stream = crate::client::connect(plan.address, plan.limit).await?;
        return exchange(&mut stream, &plan.request, buffer).await;
    }
    if open.is_none() {
        *open = Some(crate::client::connect(plan.address, plan.limit).await?);
    }
    match open {
        Some(stream) => exchange(stream, &plan.request, buffer).await,
        None => Ok(0),
    }
}
