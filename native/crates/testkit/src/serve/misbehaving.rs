//! A backend that breaks HTTP as its path says, so that proxies can be tried: what is well-formed is written by
//! hand, too.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use clap::Args;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Of a request's headers.
const HEAD_BYTES: usize = 64 << 10;
const MOST_HEADER_BYTES: u64 = 16 << 20;

#[derive(Debug, Args)]
pub(crate) struct Options {
    #[arg(long, value_name = "IP:PORT")]
    listen: SocketAddr,
    #[arg(long, default_value = "misbehaving")]
    name: String,
}

pub(super) async fn serve(options: Options) -> anyhow::Result<()> {
    let listener = super::bind(options.listen, &options.name, false).await?;
    let requests = Arc::new(AtomicU64::new(0));
    loop {
        let (stream, _) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                eprintln!("accept: {error}");
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        let requests = Arc::clone(&requests);
        tokio::spawn(async move {
            // How a client takes it is its own affair.
            let _ = converse(stream, &requests).await;
        });
    }
}

/// One request and what it asks for; then the connection ends.
async fn converse(mut stream: TcpStream, requests: &AtomicU64) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let Some(head) = read_head(&mut stream).await? else { return Ok(()) };
    let number = requests.fetch_add(1, Relaxed);
    let target = head.split(' ').nth(1).unwrap_or("/");
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let asked = |key: &str, default: u64| super::http::query_number(query, key).unwrap_or(default);
    match path {
        // The connection is reset, without a word or after half a header.
        "/reset" => return reset(stream),
        "/reset-in-header" => {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-le").await?;
            return reset(stream);
        }
        // Less than was promised.
        "/half" => stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf").await?,
        "/half-chunk" => {
            stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n64\r\nhalf").await?;
        }
        "/garbage" => stream.write_all(b"\x16\x03\x01\x02\x00 no http\r\n\r\n").await?,
        "/silent" => tokio::time::sleep(Duration::from_millis(asked("ms", 60_000))).await,
        // A byte at a time.
        "/drip" => {
            let (bytes, ms) = (asked("bytes", 10), asked("ms", 100));
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {bytes}\r\nconnection: close\r\n\r\n");
            stream.write_all(head.as_bytes()).await?;
            for _ in 0..bytes {
                tokio::time::sleep(Duration::from_millis(ms)).await;
                stream.write_all(b".").await?;
            }
        }
        "/huge-headers" => {
            let bytes = asked("bytes", 1 << 20).min(MOST_HEADER_BYTES) as usize;
            let head =
                format!("HTTP/1.1 200 OK\r\nx-huge: {}\r\ncontent-length: 0\r\n\r\n", "h".repeat(bytes));
            stream.write_all(head.as_bytes()).await?;
        }
        "/many-headers" => {
            let headers: String = (0..asked("count", 1_000)).map(|i| format!("x-{i}: 1\r\n")).collect();
            let head = format!("HTTP/1.1 200 OK\r\n{headers}content-length: 0\r\n\r\n");
            stream.write_all(head.as_bytes()).await?;
        }
        // So many bad answers, then so many good ones, over and over; all connections count.
        "/burst" => {
            let (bad, good) = (asked("bad", 1), asked("good", 1));
            let status = match number % (bad + good).max(1) < bad {
                true => "503 Service Unavailable",
                false => "200 OK",
            };
            answer(&mut stream, status).await?;
        }
        _ => answer(&mut stream, "200 OK").await?,
    }
    stream.shutdown().await
}

async fn answer(stream: &mut TcpStream, status: &str) -> std::io::Result<()> {
    let text = format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok");
    stream.write_all(text.as_bytes()).await
}

/// Up to the empty line; `None` where the client leaves before.
async fn read_head(stream: &mut TcpStream) -> std::io::Result<Option<String>> {
    let mut head = Vec::new();
    let mut buffer = [0; 4096];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let count = stream.read(&mut buffer).await?;
        if count == 0 || head.len() > HEAD_BYTES {
            return Ok(None);
        }
        head.extend_from_slice(&buffer[..count]);
    }
    Ok(Some(String::from_utf8_lossy(&head).into_owned()))
}

fn reset(stream: TcpStream) -> std::io::Result<()> {
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))
}
