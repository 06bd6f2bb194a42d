//! The HTTP client: a number of requests, or attempts without end through a fault.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use clap::{ArgAction, Args};
use futures::future::join_all;
use http::{Method, Request, Uri};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;

use super::summary::{Attempt, Summary};
use crate::failure::{Failure, Kind};
use crate::output::{epoch_ms, line};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// `http://IP:PORT/PATH`: addresses only, nothing is resolved.
    #[arg(long)]
    url: Uri,
    #[arg(long, default_value = "GET")]
    method: Method,
    /// `name: value`, may be repeated.
    #[arg(long, value_name = "HEADER")]
    header: Vec<String>,
    /// The request's body; with --body-bytes it is repeated to that length.
    #[arg(long, default_value = "")]
    body: String,
    #[arg(long)]
    body_bytes: Option<usize>,
    #[arg(long, default_value_t = 1)]
    requests: u64,
    #[arg(long, default_value_t = 1)]
    concurrency: u64,
    /// Each worker's pause after a request.
    #[arg(long, default_value_t = 0)]
    interval_ms: u64,
    /// For connecting and for the answer together.
    #[arg(long, default_value_t = 5000)]
    timeout_ms: u64,
    /// One connection for many requests, or one for each.
    #[arg(long, default_value_t = true, action = ArgAction::Set)]
    keepalive: bool,
    /// Prints each attempt.
    #[arg(long)]
    lines: bool,
    /// Goes on until SIGTERM, whatever happens, instead of --requests.
    #[arg(long)]
    until_signal: bool,
}

/// What every worker needs to know.
struct Plan {
    address: SocketAddr,
    options: Options,
    body: Bytes,
    headers: Vec<(String, String)>,
    started: AtomicU64,
    summary: Mutex<Summary>,
}

pub(super) async fn run(options: Options) -> anyhow::Result<bool> {
    let plan = Arc::new(plan(options)?);
    let workers = join_all((0..plan.options.concurrency.max(1)).map(|_| work(Arc::clone(&plan))));
    if plan.options.until_signal {
        let mut termination = crate::signal::Termination::watch()?;
        line(&serde_json::json!({ "ready": true }));
        tokio::select! {
            _ = workers => {}
            () = termination.wait() => {}
        }
    } else {
        workers.await;
    }
    let mut summary = plan.summary.lock().unwrap_or_else(PoisonError::into_inner);
    let summary = std::mem::replace(&mut *summary, Summary::start()).finish();
    line(&summary);
    Ok(summary.all_ok())
}

fn plan(options: Options) -> anyhow::Result<Plan> {
    anyhow::ensure!(options.url.scheme_str() == Some("http"), "--url: only http:// is spoken here");
    let authority = options.url.authority().context("--url: no address")?;
    let address = match authority.port_u16() {
        Some(_) => authority.as_str().parse(),
        None => format!("{authority}:80").parse(),
    }
    .with_context(|| format!("--url: {authority} is not IP:PORT"))?;
    let headers = options
        .header
        .iter()
        .map(|header| {
            let (name, value) =
                header.split_once(':').with_context(|| format!("--header {header}: no colon"))?;
            Ok((name.trim().to_owned(), value.trim().to_owned()))
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    let seed = if options.body.is_empty() { "b" } else { &options.body };
    let body = match options.body_bytes {
        Some(size) => seed.bytes().cycle().take(size).collect(),
        None => Bytes::from(options.body.clone()),
    };
    Ok(Plan {
        address,
        body,
        headers,
        started: AtomicU64::new(0),
        summary: Mutex::new(Summary::start()),
        options,
    })
}

/// An open connection, and its local address.
struct Open {
    sender: SendRequest<Full<Bytes>>,
    local: SocketAddr,
}

async fn work(plan: Arc<Plan>) {
    let options = &plan.options;
    let limit = Duration::from_millis(options.timeout_ms);
    let mut open: Option<Open> = None;
    while options.until_signal || plan.started.fetch_add(1, Ordering::Relaxed) < options.requests {
        let at_ms = epoch_ms();
        let began = Instant::now();
        let outcome = match tokio::time::timeout(limit, exchange(&plan, &mut open)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Failure::timeout()),
        };
        let latency_ms = began.elapsed().as_secs_f64() * 1000.0;
        let attempt = match outcome {
            Ok(answer) => answer.into_attempt(at_ms, latency_ms),
            Err(failure) => {
                open = None;
                Attempt {
                    at_ms,
                    latency_ms,
                    status: None,
                    server: None,
                    client: None,
                    local: None,
                    error: Some(failure.kind),
                    message: Some(failure.message),
                }
            }
        };
        if !options.keepalive {
            open = None;
        }
        if options.lines {
            line(&attempt);
        }
        plan.summary.lock().unwrap_or_else(PoisonError::into_inner).add(&attempt);
        if options.interval_ms > 0 {
            tokio::time::sleep(Duration::from_millis(options.interval_ms)).await;
        } else if attempt.error.is_some() {
            // A refused connection costs nothing; without a pause the attempts would eat a core.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

struct Answer {
    status: u16,
    server: Option<String>,
    client: Option<String>,
    local: SocketAddr,
}

impl Answer {
    fn into_attempt(self, at_ms: u64, latency_ms: f64) -> Attempt {
        Attempt {
            at_ms,
            latency_ms,
            status: Some(self.status),
            server: self.server,
            client: self.client,
            local: Some(self.local.to_string()),
            error: None,
            message: None,
        }
    }
}

async fn exchange(plan: &Plan, open: &mut Option<Open>) -> Result<Answer, Failure> {
    // A kept connection that the server has closed meanwhile is not a failure of this request.
    if open.as_ref().is_none_or(|open| open.sender.is_closed()) {
        *open = Some(connect(plan.address).await?);
    }
    let Some(Open { sender, local }) = open else { return Err(Failure::new(Kind::Other, "not connected")) };
    let local = *local;
    sender.ready().await?;
    let response = sender.send_request(request(plan)?).await?;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await?.to_bytes();
    let told: Option<serde_json::Value> = serde_json::from_slice(&body).ok();
    let field = |name: &str| Some(told.as_ref()?.get(name)?.as_str()?.to_owned());
    Ok(Answer { status, server: field("server"), client: field("client"), local })
}

async fn connect(address: SocketAddr) -> Result<Open, Failure> {
    // The caller's time limit holds for this too.
    let stream = super::connect(address, Duration::from_secs(3600)).await?;
    let local = stream.local_addr()?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        // Its error reaches the request.
        let _ = connection.await;
    });
    Ok(Open { sender, local })
}

fn request(plan: &Plan) -> Result<Request<Full<Bytes>>, Failure> {
    let url = &plan.options.url;
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    let mut builder = Request::builder().method(plan.options.method.clone()).uri(path);
    if !plan.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        builder = builder.header("host", url.authority().map_or("", |authority| authority.as_str()));
    }
    if !plan.options.keepalive {
        builder = builder.header("connection", "close");
    }
    for (name, value) in &plan.headers {
        builder = builder.header(name, value);
    }
    builder
        .body(Full::new(plan.body.clone()))
        .map_err(|error| Failure::new(Kind::Wrong, format!("the request is not valid: {error}")))
}
