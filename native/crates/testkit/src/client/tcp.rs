//! One exchange over TCP, checked byte by byte.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{Context, SHA256};
use clap::Args;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::failure::{Failure, Kind};
use crate::output::line;
use crate::serve::tcp::hex;

#[derive(Debug, Args)]
pub(crate) struct Options {
    #[arg(long, value_name = "IP:PORT")]
    connect: SocketAddr,
    /// Bytes to send: a pattern, or the marker again and again.
    #[arg(long, default_value_t = 0)]
    send_bytes: u64,
    #[arg(long, value_name = "TEXT")]
    marker: Option<String>,
    /// Text that the server must send first.
    #[arg(long, value_name = "TEXT")]
    expect_greeting: Option<String>,
    /// Ends its own direction after sending, and reads the other to its end.
    #[arg(long)]
    half_close: bool,
    /// The answer must be `SHA256 LENGTH` of what was sent (a server with --half-close).
    #[arg(long, requires = "half_close")]
    expect_sha: bool,
    /// Nothing is expected back (a server with --sink).
    #[arg(long)]
    one_way: bool,
    /// Bytes to be received (a server with --source) instead of an echo.
    #[arg(long, conflicts_with_all = ["expect_sha", "one_way"])]
    expect_bytes: Option<u64>,
    #[arg(long, default_value_t = 10_000)]
    timeout_ms: u64,
}

#[derive(Debug, Default, serde::Serialize)]
struct Report {
    ok: bool,
    sent: u64,
    received: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    sha256: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    greeting: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    local: Option<String>,
    duration_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Kind>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}

pub(super) async fn run(options: Options) -> anyhow::Result<bool> {
    let began = Instant::now();
    let mut report = Report::default();
    let limit = Duration::from_millis(options.timeout_ms);
    let outcome = match tokio::time::timeout(limit, exchange(&options, limit, &mut report)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Failure::timeout()),
    };
    report.duration_ms = began.elapsed().as_secs_f64() * 1000.0;
    report.ok = outcome.is_ok();
    if let Err(failure) = outcome {
        report.error = Some(failure.kind);
        report.message = Some(failure.message);
    }
    line(&report);
    Ok(report.ok)
}

async fn exchange(options: &Options, limit: Duration, report: &mut Report) -> Result<(), Failure> {
    let stream = super::connect(options.connect, limit).await?;
    report.local = Some(stream.local_addr()?.to_string());
    let (mut reader, mut writer) = stream.into_split();
    if let Some(expected) = &options.expect_greeting {
        let mut greeting = vec![0_u8; expected.len()];
        reader.read_exact(&mut greeting).await?;
        let greeting = String::from_utf8_lossy(&greeting).into_owned();
        if greeting != *expected {
            return Err(Failure::new(Kind::Wrong, format!("greeted with {greeting:?}")));
        }
        report.greeting = Some(greeting);
    }
    let pattern = pattern(options.marker.as_deref());
    let (mut sent, mut received) = (0, 0);
    let sending = async {
        let digest = send(&mut writer, &pattern, options.send_bytes, &mut sent).await?;
        if options.half_close || options.one_way {
            writer.shutdown().await?;
        }
        Ok::<_, Failure>(digest)
    };
    let outcome = if options.expect_sha || options.one_way {
        let mut answer = Vec::new();
        let outcome =
            tokio::try_join!(sending, async { reader.read_to_end(&mut answer).await.map_err(Failure::from) });
        received = answer.len() as u64;
        outcome.and_then(|(digest, _)| {
            report.sha256 = digest;
            check_answer(options, &report.sha256, &answer)
        })
    } else {
        let echo = options.expect_bytes.is_none();
        let expected = options.expect_bytes.unwrap_or(options.send_bytes);
        let receiving = receive(&mut reader, echo.then_some(&pattern[..]), expected, &mut received);
        tokio::try_join!(sending, receiving).map(|(digest, ())| report.sha256 = digest)
    };
    report.sent = sent;
    report.received = received;
    outcome?;
    if options.half_close && !options.expect_sha && !options.one_way {
        // An echo server answers our end with its own.
        let mut rest = [0_u8; 1];
        if reader.read(&mut rest).await? != 0 {
            return Err(Failure::new(Kind::Wrong, "more came back than was sent"));
        }
    }
    Ok(())
}

fn check_answer(options: &Options, digest: &str, answer: &[u8]) -> Result<(), Failure> {
    let answer = String::from_utf8_lossy(answer);
    let expected =
        if options.expect_sha { format!("{digest} {}\n", options.send_bytes) } else { String::new() };
    if answer == expected {
        return Ok(());
    }
    Err(Failure::new(Kind::Wrong, format!("answered {answer:?} instead of {expected:?}")))
}

/// A block whose length is prime to every buffer size, so that a lost or doubled buffer shows.
fn pattern(marker: Option<&str>) -> Vec<u8> {
    match marker {
        Some(marker) if !marker.is_empty() => format!("{marker}\n").into_bytes(),
        _ => (0..65_521_u32).map(|index| (index % 251) as u8).collect(),
    }
}

/// The bytes of the endless pattern from `offset`, at most `room` of them.
fn slice(pattern: &[u8], offset: u64, room: u64) -> &[u8] {
    let start = usize::try_from(offset % pattern.len() as u64).unwrap_or(0);
    let rest = &pattern[start..];
    &rest[..rest.len().min(usize::try_from(room).unwrap_or(usize::MAX))]
}

async fn send(
    writer: &mut (impl AsyncWrite + Unpin),
    pattern: &[u8],
    bytes: u64,
    sent: &mut u64,
) -> Result<String, Failure> {
    let mut digest = Context::new(&SHA256);
    while *sent < bytes {
        let part = slice(pattern, *sent, bytes - *sent);
        let count = writer.write(part).await?;
        digest.update(&part[..count]);
        *sent += count as u64;
    }
    writer.flush().await?;
    Ok(hex(digest.finish().as_ref()))
}

async fn receive(
    reader: &mut (impl AsyncRead + Unpin),
    pattern: Option<&[u8]>,
    bytes: u64,
    received: &mut u64,
) -> Result<(), Failure> {
    let mut buffer = vec![0_u8; 128 << 10];
    while *received < bytes {
        let count = reader.read(&mut buffer).await?;
        if count == 0 {
            return Err(Failure::new(Kind::Closed, format!("closed after {received} of {bytes} bytes")));
        }
        if let Some(pattern) = pattern {
            let mut seen = &buffer[..count];
            let mut offset = *received;
            while !seen.is_empty() {
                let expected = slice(pattern, offset, seen.len() as u64);
                if &seen[..expected.len()] != expected {
                    return Err(Failure::new(Kind::Wrong, format!("the echo differs near byte {offset}")));
                }
                seen = &seen[expected.len()..];
                offset += expected.len() as u64;
            }
        }
        *received += count as u64;
    }
    if *received > bytes {
        return Err(Failure::new(Kind::Wrong, format!("{received} bytes came, {bytes} were expected")));
    }
    Ok(())
}
