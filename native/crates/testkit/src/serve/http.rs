//! The HTTP server: every answer tells who answered, whom it saw as its client, and what it was asked.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};

const MAX_ECHO_BYTES: usize = 256 << 20;

#[derive(Debug, Args)]
pub(crate) struct Options {
    #[arg(long, value_name = "IP:PORT")]
    listen: SocketAddr,
    /// The `server` of every answer.
    #[arg(long, default_value = "server")]
    name: String,
    /// Answers every Nth request with 503, whatever it asks; the first is number 1.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    fail_every: Option<u64>,
}

pub(super) async fn serve(options: Options) -> anyhow::Result<()> {
    let listener = super::bind(options.listen, &options.name, false).await?;
    let name: Arc<str> = options.name.into();
    let answered = Arc::new(AtomicU64::new(0));
    loop {
        let (stream, client) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                eprintln!("accept: {error}");
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        let name = Arc::clone(&name);
        let answered = Arc::clone(&answered);
        // A listener for both families names IPv4 clients as mapped addresses.
        let client = SocketAddr::new(client.ip().to_canonical(), client.port());
        tokio::spawn(async move {
            let _ = stream.set_nodelay(true);
            let service = service_fn(move |request| {
                let name = Arc::clone(&name);
                let number = answered.fetch_add(1, Ordering::Relaxed) + 1;
                let fails = options.fail_every.is_some_and(|every| number.is_multiple_of(every));
                async move {
                    Ok::<_, Infallible>(match fails {
                        true => plain(StatusCode::SERVICE_UNAVAILABLE, "not this time"),
                        false => answer(&name, client, request).await,
                    })
                }
            });
            // How a client leaves is its own affair.
            let _ = http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn answer(name: &str, client: SocketAddr, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let Ok(body) = body.collect().await else { return plain(StatusCode::BAD_REQUEST, "unfinished body") };
    let body = body.to_bytes();
    let number = |key: &str| query_number(head.uri.query().unwrap_or(""), key);
    let mut status = StatusCode::OK;
    match head.uri.path() {
        "/echo" => {
            let Some(size) = number("size") else {
                let mut response = Response::new(Full::new(body));
                response.headers_mut().insert("content-type", OCTETS);
                return response;
            };
            let size = usize::try_from(size).unwrap_or(usize::MAX);
            if size > MAX_ECHO_BYTES {
                return plain(StatusCode::BAD_REQUEST, "size is too large");
            }
            let mut response = Response::new(Full::new(Bytes::from(vec![b'x'; size])));
            response.headers_mut().insert("content-type", OCTETS);
            return response;
        }
        "/slow" => tokio::time::sleep(Duration::from_millis(number("ms").unwrap_or(1000))).await,
        "/status" => {
            let asked = number("code").and_then(|code| u16::try_from(code).ok());
            match asked.and_then(|code| StatusCode::from_u16(code).ok()) {
                Some(code) => status = code,
                None => return plain(StatusCode::BAD_REQUEST, "code is not a status"),
            }
        }
        _ => {}
    }
    let headers: serde_json::Map<_, _> = head
        .headers
        .iter()
        .map(|(key, value)| (key.to_string(), String::from_utf8_lossy(value.as_bytes()).into()))
        .collect();
    let told = serde_json::json!({
        "server": name,
        "client": client.to_string(),
        "method": head.method.as_str(),
        "path": head.uri.path_and_query().map_or("/", |path| path.as_str()),
        "bytes": body.len(),
        "headers": headers,
    });
    let mut response = Response::new(Full::new(Bytes::from(told.to_string())));
    *response.status_mut() = status;
    response.headers_mut().insert("content-type", JSON);
    response
}

const OCTETS: http::HeaderValue = http::HeaderValue::from_static("application/octet-stream");
const JSON: http::HeaderValue = http::HeaderValue::from_static("application/json");

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    response
}

pub(super) fn query_number(query: &str, key: &str) -> Option<u64> {
    query.split('&').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('=')?.parse().ok())
}
