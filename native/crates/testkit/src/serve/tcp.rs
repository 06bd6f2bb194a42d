//! The TCP server, in the shapes that break careless proxies: server-first, one-way, half-closed.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{Context, SHA256};
use clap::Args;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::failure::kind_of;

const CHUNK_BYTES: usize = 128 << 10;

#[derive(Debug, Args)]
pub(crate) struct Options {
    #[arg(long, value_name = "IP:PORT")]
    listen: SocketAddr,
    #[arg(long, default_value = "server")]
    name: String,
    /// Sent before anything is read.
    #[arg(long, value_name = "TEXT")]
    greeting: Option<String>,
    /// Reads and discards instead of echoing.
    #[arg(long, conflicts_with_all = ["source", "half_close"])]
    sink: bool,
    /// Sends this many bytes (0: until the client leaves), then closes.
    #[arg(long, value_name = "BYTES", conflicts_with = "half_close")]
    source: Option<u64>,
    /// Reads to the client's end, then answers `SHA256 LENGTH` and closes.
    #[arg(long)]
    half_close: bool,
    /// Prints a line for every connection when it ends.
    #[arg(long)]
    log: bool,
    /// Stands in for a data plane: transparent, and with its mark.
    #[arg(long)]
    as_proxy: bool,
}

#[derive(Debug, Default)]
struct Moved {
    received: u64,
    sent: u64,
}

pub(super) async fn serve(options: Options) -> anyhow::Result<()> {
    let listener = super::bind(options.listen, &options.name, options.as_proxy).await?;
    let options = Arc::new(options);
    loop {
        let (stream, client) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                eprintln!("accept: {error}");
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        let options = Arc::clone(&options);
        tokio::spawn(async move {
            let began = Instant::now();
            let mut moved = Moved::default();
            let ended = converse(&options, stream, &mut moved).await;
            if options.log {
                crate::output::line(&serde_json::json!({
                    "server": options.name,
                    "client": client.to_string(),
                    "received": moved.received,
                    "sent": moved.sent,
                    "ended": match &ended { Ok(()) => serde_json::json!("eof"), Err(error) => serde_json::json!(kind_of(error)) },
                    "duration_ms": began.elapsed().as_secs_f64() * 1000.0,
                }));
            }
        });
    }
}

async fn converse(options: &Options, mut stream: TcpStream, moved: &mut Moved) -> io::Result<()> {
    stream.set_nodelay(true)?;
    if let Some(greeting) = &options.greeting {
        stream.write_all(greeting.as_bytes()).await?;
        moved.sent += greeting.len() as u64;
    }
    if let Some(bytes) = options.source {
        return source(&mut stream, bytes, moved).await;
    }
    let mut buffer = vec![0_u8; CHUNK_BYTES];
    let mut digest = Context::new(&SHA256);
    loop {
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            break;
        }
        moved.received += count as u64;
        if options.half_close {
            digest.update(&buffer[..count]);
        } else if !options.sink {
            stream.write_all(&buffer[..count]).await?;
            moved.sent += count as u64;
        }
    }
    if options.half_close {
        let answer = format!("{} {}\n", hex(digest.finish().as_ref()), moved.received);
        stream.write_all(answer.as_bytes()).await?;
        moved.sent += answer.len() as u64;
    }
    stream.shutdown().await
}

async fn source(stream: &mut TcpStream, bytes: u64, moved: &mut Moved) -> io::Result<()> {
    let chunk = vec![b's'; CHUNK_BYTES];
    let mut left = if bytes == 0 { u64::MAX } else { bytes };
    while left > 0 {
        let size = usize::try_from(left).unwrap_or(usize::MAX).min(chunk.len());
        let count = stream.write(&chunk[..size]).await?;
        left -= count as u64;
        moved.sent += count as u64;
    }
    stream.shutdown().await?;
    // Closing with unread data would reset what has been sent.
    let mut rest = [0_u8; 4096];
    while stream.read(&mut rest).await? > 0 {}
    Ok(())
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
