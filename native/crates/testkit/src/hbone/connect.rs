//! The steps of one tunnel, and where it ended.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderName, HeaderValue, Method, Request, Uri};
use rustls::pki_types::ServerName;
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{Connect, Misbehaviour, tls};
use crate::failure::{Failure, Kind};
use crate::output::line;

/// How far it came.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Stage {
    #[default]
    Tcp,
    Tls,
    Http2,
    Connect,
    Tunnel,
    Done,
}

#[derive(Debug, Default, Serialize)]
struct Report {
    ok: bool,
    stage: Stage,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer_identity: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    alpn: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_exchange: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    headers: BTreeMap<String, String>,
    received_bytes: usize,
    #[serde(skip_serializing_if = "String::is_empty")]
    received: String,
    /// How the peer ended what we left open: `eof`, or a kind of failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    ended: Option<String>,
    duration_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Kind>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}

/// A misbehaving client is content when the peer ends the connection; a good one when it is answered 200.
pub(super) async fn run(options: Connect) -> anyhow::Result<bool> {
    let config = tls::config(&options)?;
    let request = request(&options)?;
    let began = Instant::now();
    let mut report = Report::default();
    let limit = Duration::from_millis(options.timeout_ms);
    let outcome = match tokio::time::timeout(limit, tunnel(&options, config, request, &mut report)).await {
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

fn request(options: &Connect) -> anyhow::Result<Request<()>> {
    let mut request = Request::new(());
    if options.misbehave == Some(Misbehaviour::WrongMethod) {
        *request.uri_mut() = format!("http://{}/", options.authority).parse().context("--authority")?;
    } else {
        *request.method_mut() = Method::CONNECT;
        let authority = options.authority.parse().with_context(|| {
            format!("--authority {}: cannot be put into an HTTP/2 request", options.authority)
        })?;
        let mut parts = http::uri::Parts::default();
        parts.authority = Some(authority);
        *request.uri_mut() = Uri::from_parts(parts)?;
    }
    for header in &options.header {
        let (name, value) = header.split_once(':').with_context(|| format!("--header {header}: no colon"))?;
        let name = HeaderName::try_from(name.trim()).with_context(|| format!("--header {header}"))?;
        let value = HeaderValue::try_from(value.trim()).with_context(|| format!("--header {header}"))?;
        request.headers_mut().append(name, value);
    }
    Ok(request)
}

async fn tunnel(
    options: &Connect,
    config: rustls::ClientConfig,
    request: Request<()>,
    report: &mut Report,
) -> Result<(), Failure> {
    let mut tcp = crate::client::connect(options.proxy, Duration::from_secs(3600)).await?;
    report.stage = Stage::Tls;
    if let Some(first_words) = before_tls(options.misbehave) {
        tcp.write_all(first_words).await?;
        return wait_for_end(tcp, options.read_bytes, report).await;
    }
    let name = ServerName::IpAddress(options.proxy.ip().into());
    let stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await?;
    describe(&stream, report);
    if let Some(expected) = &options.expect_identity
        && report.peer_identity.as_ref() != Some(expected)
    {
        let shown = report.peer_identity.as_deref().unwrap_or("none");
        return Err(Failure::new(Kind::Wrong, format!("the proxy shows the identity {shown}")));
    }
    report.stage = Stage::Http2;
    if options.misbehave == Some(Misbehaviour::StallHttp2) {
        return wait_for_end(stream, options.read_bytes, report).await;
    }
    // A second handle to the socket, to reset it under the TLS stream.
    let socket = socket2::SockRef::from(stream.get_ref().0).try_clone()?;
    let (mut sender, connection) = h2::client::handshake(stream).await.map_err(failure)?;
    let driver = tokio::spawn(connection);
    report.stage = Stage::Connect;
    sender = sender.ready().await.map_err(failure)?;
    let (response, mut sending) = sender.send_request(request, false).map_err(failure)?;
    let response = response.await.map_err(failure)?;
    report.status = Some(response.status().as_u16());
    for (name, value) in response.headers() {
        report.headers.insert(name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned());
    }
    if response.status() != http::StatusCode::OK {
        return Err(Failure::new(Kind::Wrong, format!("answered {}", response.status())));
    }
    report.stage = Stage::Tunnel;
    tokio::time::sleep(Duration::from_millis(options.hold_ms)).await;
    match options.misbehave {
        Some(Misbehaviour::ResetStream) => {
            sending.send_reset(Reason::CANCEL);
            drop(sender);
            // The connection ends by itself once nothing uses it; the reset is on the wire by then.
            drop((sending, response));
            driver.await.map_err(|error| Failure::new(Kind::Other, error.to_string()))?.map_err(failure)?;
        }
        Some(Misbehaviour::ResetConnection) => {
            driver.abort();
            socket.set_linger(Some(Duration::ZERO))?;
            drop((socket, sending, response, sender));
            // The task owned the last handle.
            let _ = driver.await;
        }
        _ => exchange(options, &mut sending, response.into_body(), report).await?,
    }
    report.stage = Stage::Done;
    Ok(())
}

/// What is sent in the place of TLS.
fn before_tls(misbehave: Option<Misbehaviour>) -> Option<&'static [u8]> {
    match misbehave? {
        Misbehaviour::StallHandshake => Some(b""),
        // A handshake record that promises 512 bytes.
        Misbehaviour::StallInHandshake => Some(&[22, 3, 1, 2, 0, 1, 0, 1]),
        Misbehaviour::Plaintext => Some(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"),
        Misbehaviour::Garbage => Some(&[0xff; 600]),
        _ => None,
    }
}

fn describe(stream: &TlsStream<TcpStream>, report: &mut Report) {
    let (_, session) = stream.get_ref();
    report.peer_identity = session.peer_certificates().and_then(|chain| tls::identity(chain.first()?));
    report.alpn = session.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned());
    report.key_exchange = session.negotiated_key_exchange_group().map(|group| format!("{:?}", group.name()));
}

/// Waits until the peer has had enough of us.
async fn wait_for_end(
    mut stream: impl AsyncReadExt + Unpin,
    most: usize,
    report: &mut Report,
) -> Result<(), Failure> {
    let mut seen = Vec::new();
    let mut buffer = [0_u8; 4096];
    let ended = loop {
        match stream.read(&mut buffer).await {
            Ok(0) => break "eof".to_owned(),
            Ok(count) => {
                report.received_bytes += count;
                seen.extend_from_slice(&buffer[..count.min(most.saturating_sub(seen.len()))]);
            }
            Err(error) => {
                let failure = Failure::from(error);
                report.message = Some(failure.message);
                break serde_json::to_value(failure.kind)
                    .ok()
                    .and_then(|kind| kind.as_str().map(str::to_owned))
                    .unwrap_or_default();
            }
        }
    };
    report.received = String::from_utf8_lossy(&seen).into_owned();
    report.ended = Some(ended);
    Ok(())
}

async fn exchange(
    options: &Connect,
    sending: &mut SendStream<Bytes>,
    mut body: RecvStream,
    report: &mut Report,
) -> Result<(), Failure> {
    let words = if options.http_get {
        format!("GET / HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", options.authority)
    } else {
        options.send.clone()
    };
    let echo_bytes = words.len();
    if !words.is_empty() || options.half_close {
        sending.send_data(Bytes::from(words), options.half_close).map_err(failure)?;
    }
    if echo_bytes == 0 && !options.half_close {
        return Ok(());
    }
    let to_the_end = options.half_close || options.http_get;
    let mut received = Vec::new();
    while received.len() < options.read_bytes {
        let Some(chunk) = body.data().await else {
            report.ended = Some("eof".into());
            break;
        };
        let chunk = chunk.map_err(failure)?;
        body.flow_control().release_capacity(chunk.len()).map_err(failure)?;
        received.extend_from_slice(&chunk);
        // An echo has no other end.
        if !to_the_end && received.len() >= echo_bytes {
            break;
        }
    }
    report.received_bytes = received.len();
    report.received = String::from_utf8_lossy(&received).into_owned();
    Ok(())
}

fn failure(error: h2::Error) -> Failure {
    if error.is_io()
        && let Some(io) = error.get_io()
    {
        return Failure::new(crate::failure::kind_of(io), error.to_string());
    }
    let kind = if error.is_reset() || error.is_go_away() { Kind::Reset } else { Kind::Other };
    Failure::new(kind, error.to_string())
}
