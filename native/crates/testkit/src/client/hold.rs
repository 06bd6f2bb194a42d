//! Connections that stay: many idle ones, or one that shows when and how it ends.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use clap::Args;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::failure::{Failure, kind_of};
use crate::output::{epoch_ms, line};
use crate::signal::Termination;

#[derive(Debug, Args)]
pub(crate) struct IdleOptions {
    #[arg(long, value_name = "IP:PORT")]
    connect: SocketAddr,
    #[arg(long, default_value_t = 1)]
    connections: usize,
    /// One byte there and back on each first, so that it is open all the way.
    #[arg(long)]
    probe: bool,
    #[arg(long, default_value_t = 10_000)]
    timeout_ms: u64,
}

#[derive(Debug, Args)]
pub(crate) struct HoldOptions {
    #[arg(long, value_name = "IP:PORT")]
    connect: SocketAddr,
    /// Time between two bytes, each of which must come back before the next.
    #[arg(long, default_value_t = 100)]
    interval_ms: u64,
    /// How long an echo may take.
    #[arg(long, default_value_t = 10_000)]
    timeout_ms: u64,
    /// Bytes to send each time, all of which must come back: many and without a pause are bulk.
    #[arg(long, default_value_t = 1)]
    bytes: usize,
    /// Only waits for the end, and sends nothing after the first time.
    #[arg(long)]
    silent: bool,
}

pub(super) async fn idle(options: IdleOptions) -> anyhow::Result<bool> {
    let limit = Duration::from_millis(options.timeout_ms);
    let mut termination = Termination::watch()?;
    let mut open = Vec::with_capacity(options.connections);
    let mut failed = Vec::new();
    // Some at a time: a backlog is finite.
    let mut started = 0;
    let mut opening = FuturesUnordered::new();
    loop {
        while started < options.connections && opening.len() < 64 {
            opening.push(open_one(&options, limit));
            started += 1;
        }
        match opening.next().await {
            Some(Ok(stream)) => open.push(stream),
            Some(Err(failure)) => failed.push(failure),
            None => break,
        }
    }
    let first = failed.first().map(|failure| failure.message.clone());
    line(
        &serde_json::json!({ "ready": true, "open": open.len(), "failed": failed.len(), "first_failure": first }),
    );
    termination.wait().await;
    let still_open = open.iter().filter(|stream| is_open(stream)).count();
    line(&serde_json::json!({ "opened": open.len(), "failed": failed.len(), "still_open": still_open }));
    Ok(failed.is_empty() && still_open == open.len())
}

async fn open_one(options: &IdleOptions, limit: Duration) -> Result<TcpStream, Failure> {
    let mut stream = super::connect(options.connect, limit).await?;
    if options.probe {
        tokio::time::timeout(limit, echo(&mut stream, b"h")).await.map_err(|_| Failure::timeout())??;
    }
    Ok(stream)
}

fn is_open(stream: &TcpStream) -> bool {
    let mut byte = [0_u8; 1];
    matches!(stream.try_read(&mut byte), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
}

/// Sends some bytes and reads as many back, at the same time: both ends' buffers may be smaller.
async fn echo(stream: &mut TcpStream, bytes: &[u8]) -> std::io::Result<()> {
    let (mut reader, mut writer) = stream.split();
    let mut back = vec![0_u8; bytes.len()];
    tokio::try_join!(writer.write_all(bytes), reader.read_exact(&mut back))?;
    if back != bytes {
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, "the echo differs"));
    }
    Ok(())
}

pub(super) async fn hold(options: HoldOptions) -> anyhow::Result<bool> {
    let limit = Duration::from_millis(options.timeout_ms);
    let mut termination = Termination::watch()?;
    let began = Instant::now();
    let mut stream = match super::connect(options.connect, limit).await {
        Ok(stream) => stream,
        Err(failure) => {
            line(&serde_json::json!({ "open": false, "error": failure.kind, "message": failure.message }));
            return Ok(false);
        }
    };
    let mut echoed = 0_u64;
    let ended = keep(&options, limit, &mut stream, &mut echoed, &mut termination).await;
    line(&serde_json::json!({
        "ended": ended,
        "echoed": echoed,
        "after_ms": began.elapsed().as_secs_f64() * 1000.0,
        "at_ms": epoch_ms(),
    }));
    Ok(ended == "signal")
}

/// How the connection ended: `eof`, a kind of failure, or `signal`, where it still echoed after the signal.
async fn keep(
    options: &HoldOptions,
    limit: Duration,
    stream: &mut TcpStream,
    echoed: &mut u64,
    termination: &mut Termination,
) -> serde_json::Value {
    let mut told = false;
    let bytes: Vec<u8> = (0..options.bytes.max(1)).map(|index| (index % 251) as u8).collect();
    loop {
        match tokio::time::timeout(limit, echo(stream, &bytes)).await {
            Ok(Ok(())) => *echoed += 1,
            Ok(Err(error)) => return how(&error),
            Err(_) => return serde_json::json!("timeout"),
        }
        if told {
            return serde_json::json!("signal");
        }
        if *echoed == 1 {
            let local = stream.local_addr().map(|address| address.to_string()).ok();
            line(&serde_json::json!({ "ready": true, "open": true, "local": local, "at_ms": epoch_ms() }));
        }
        // The end must be seen when it comes, not at the next byte.
        let mut byte = [0_u8; 1];
        let pause = async {
            match options.silent {
                true => std::future::pending().await,
                false => tokio::time::sleep(Duration::from_millis(options.interval_ms)).await,
            }
        };
        tokio::select! {
            read = stream.read(&mut byte) => match read {
                Ok(0) => return serde_json::json!("eof"),
                Ok(_) => return serde_json::json!("wrong"),
                Err(error) => return how(&error),
            },
            () = termination.wait() => told = true,
            () = pause => {}
        }
    }
}

fn how(error: &std::io::Error) -> serde_json::Value {
    match error.kind() {
        std::io::ErrorKind::UnexpectedEof => serde_json::json!("eof"),
        std::io::ErrorKind::InvalidData => serde_json::json!("wrong"),
        _ => serde_json::json!(kind_of(error)),
    }
}
