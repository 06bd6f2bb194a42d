//! The check over gRPC: `envoy.service.auth.v3.Authorization/Check`, as far as it is used. Numbers of fields
//! are those of Envoy's public API; a field that is not here is skipped.

use super::headers::is_own;
use super::plain::PARTIAL;
use super::{About, Changes, Denial, Response};
use crate::matcher::joined;
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version};
use prost::Message;
use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

pub(super) const PATH: &str = "/envoy.service.auth.v3.Authorization/Check";

#[derive(Clone, PartialEq, Message)]
pub(super) struct CheckRequest {
    #[prost(message, optional, tag = "1")]
    pub(super) attributes: Option<AttributeContext>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct AttributeContext {
    #[prost(message, optional, tag = "1")]
    pub(super) source: Option<Peer>,
    #[prost(message, optional, tag = "2")]
    pub(super) destination: Option<Peer>,
    #[prost(message, optional, tag = "4")]
    pub(super) request: Option<AskedRequest>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Peer {
    #[prost(message, optional, tag = "1")]
    pub(super) address: Option<Address>,
    #[prost(string, tag = "4")]
    pub(super) principal: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Address {
    #[prost(message, optional, tag = "1")]
    pub(super) socket: Option<SocketAddress>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct SocketAddress {
    #[prost(string, tag = "2")]
    pub(super) address: String,
    #[prost(uint32, tag = "3")]
    pub(super) port: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct AskedRequest {
    #[prost(message, optional, tag = "1")]
    pub(super) time: Option<Timestamp>,
    #[prost(message, optional, tag = "2")]
    pub(super) http: Option<HttpRequest>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Timestamp {
    #[prost(int64, tag = "1")]
    pub(super) seconds: i64,
    #[prost(int32, tag = "2")]
    pub(super) nanos: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct HttpRequest {
    #[prost(string, tag = "1")]
    pub(super) id: String,
    #[prost(string, tag = "2")]
    pub(super) method: String,
    #[prost(map = "string, string", tag = "3")]
    pub(super) headers: HashMap<String, String>,
    #[prost(string, tag = "4")]
    pub(super) path: String,
    #[prost(string, tag = "5")]
    pub(super) host: String,
    #[prost(string, tag = "6")]
    pub(super) scheme: String,
    #[prost(int64, tag = "9")]
    pub(super) size: i64,
    #[prost(string, tag = "10")]
    pub(super) protocol: String,
    #[prost(string, tag = "11")]
    pub(super) body: String,
    #[prost(bytes = "vec", tag = "12")]
    pub(super) raw_body: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct CheckResponse {
    #[prost(message, optional, tag = "1")]
    pub(super) status: Option<RpcStatus>,
    #[prost(oneof = "HttpResponse", tags = "2, 3")]
    pub(super) http: Option<HttpResponse>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct RpcStatus {
    #[prost(int32, tag = "1")]
    pub(super) code: i32,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum HttpResponse {
    #[prost(message, tag = "2")]
    Denied(DeniedResponse),
    #[prost(message, tag = "3")]
    Allowed(OkResponse),
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct DeniedResponse {
    #[prost(message, optional, tag = "1")]
    pub(super) status: Option<HttpStatus>,
    #[prost(message, repeated, tag = "2")]
    pub(super) headers: Vec<HeaderOption>,
    #[prost(bytes = "vec", tag = "3")]
    pub(super) body: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct HttpStatus {
    #[prost(int32, tag = "1")]
    pub(super) code: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct OkResponse {
    #[prost(message, repeated, tag = "2")]
    pub(super) headers: Vec<HeaderOption>,
    #[prost(string, repeated, tag = "5")]
    pub(super) headers_to_remove: Vec<String>,
    #[prost(message, repeated, tag = "6")]
    pub(super) response_headers: Vec<HeaderOption>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct HeaderOption {
    #[prost(message, optional, tag = "1")]
    pub(super) header: Option<Header>,
    #[prost(message, optional, tag = "2")]
    pub(super) append: Option<Truth>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Header {
    #[prost(string, tag = "1")]
    pub(super) key: String,
    #[prost(string, tag = "2")]
    pub(super) value: String,
    #[prost(bytes = "vec", tag = "3")]
    pub(super) raw_value: Vec<u8>,
}

/// `google.protobuf.BoolValue`.
#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct Truth {
    #[prost(bool, tag = "1")]
    pub(super) value: bool,
}

/// Of the call.
pub(super) fn headers() -> HeaderMap {
    HeaderMap::from_iter([
        (http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc")),
        (http::header::TE, HeaderValue::from_static("trailers")),
    ])
}

fn peer(ip: IpAddr, port: u16, principal: &str) -> Peer {
    let socket = SocketAddress { address: ip.to_string(), port: port.into() };
    Peer { address: Some(Address { socket: Some(socket) }), principal: principal.to_owned() }
}

/// One message, framed as gRPC frames it.
/// `raw`: of a body.
pub(super) fn question(asked: &About<'_>, raw: bool) -> Bytes {
    let About { admitted, headers, .. } = asked;
    let path = match &admitted.query {
        Some(query) => format!("{}?{query}", admitted.path),
        None => admitted.path.clone(),
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut sent: HashMap<String, String> = headers
        .keys()
        .filter_map(|name| Some((name.as_str().to_owned(), text(&joined(headers, name)?))))
        .collect();
    for (name, value) in [
        (":authority", admitted.authority.as_str()),
        (":method", asked.method.as_str()),
        (":path", &path),
        (":scheme", "http"),
    ] {
        sent.insert(name.to_owned(), value.to_owned());
    }
    let mut http = HttpRequest {
        id: headers.get("x-request-id").map(|id| text(id.as_bytes())).unwrap_or_default(),
        method: asked.method.to_string(),
        path,
        host: admitted.authority.to_string(),
        scheme: "http".to_owned(),
        size: headers
            .get(http::header::CONTENT_LENGTH)
            .and_then(|length| length.to_str().ok()?.parse().ok())
            .unwrap_or(-1),
        protocol: if asked.version == Version::HTTP_2 { "HTTP/2" } else { "HTTP/1.1" }.to_owned(),
        ..HttpRequest::default()
    };
    if let Some((body, partial)) = asked.body {
        sent.insert(PARTIAL.as_str().to_owned(), partial.to_string());
        match raw {
            true => http.raw_body = body.to_vec(),
            false => http.body = text(body),
        }
    }
    http.headers = sent;
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let time = Timestamp { seconds: since.as_secs() as i64, nanos: since.subsec_nanos() as i32 };
    let principal = asked.caller.identity.as_ref().map_or("", |identity| identity.uri());
    framed(&CheckRequest {
        attributes: Some(AttributeContext {
            source: Some(peer(asked.caller.source_ip, 0, principal)),
            destination: Some(peer(asked.destination, asked.port, "")),
            request: Some(AskedRequest { time: Some(time), http: Some(http) }),
        }),
    })
}

fn framed(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(length + 5);
    bytes.put_u8(0);
    bytes.put_u32(length as u32);
    bytes.extend_from_slice(&message.encode_to_vec());
    bytes.freeze()
}

/// `body`: one message. `status`: of the call, from its trailers.
///
/// # Errors
/// A failure of the authorizer's, which is no answer.
pub(super) fn answer(status: Option<u16>, body: &[u8]) -> Result<Response, String> {
    match status {
        Some(0) => {}
        Some(status) => return Err(format!("it answered with grpc-status {status}")),
        None => return Err("its answer has no grpc-status".to_owned()),
    }
    let (head, message) = body.split_at_checked(5).ok_or("its answer is empty")?;
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
    if head[0] != 0 || length != message.len() {
        return Err("its answer is no single message without compression".to_owned());
    }
    let response =
        CheckResponse::decode(message).map_err(|error| format!("its answer cannot be read: {error}"))?;
    let allowed = response.status.as_ref().is_none_or(|status| status.code == 0);
    match (allowed, response.http) {
        (true, Some(HttpResponse::Denied(_))) => Err("its answer both allows and denies".to_owned()),
        (true, Some(HttpResponse::Allowed(allowed))) => Ok(Response::Allowed(changes(&allowed))),
        (true, None) => Ok(Response::Allowed(Changes::default())),
        (false, Some(HttpResponse::Denied(denied))) => Ok(Response::Denied(denial(denied))),
        (false, _) => Ok(Response::Denied(denial(DeniedResponse::default()))),
    }
}

/// Of headers that can be set at all.
fn header(option: &HeaderOption) -> Option<(HeaderName, HeaderValue, bool)> {
    let header = option.header.as_ref()?;
    let name: HeaderName = header.key.parse().ok()?;
    let bytes = if header.raw_value.is_empty() { header.value.as_bytes() } else { &header.raw_value };
    let value = HeaderValue::from_bytes(bytes).ok()?;
    let append = option.append.is_some_and(|append| append.value);
    (!is_own(&name)).then_some((name, value, append))
}

fn changes(response: &OkResponse) -> Changes {
    let mut changes = Changes::default();
    for (name, value, append) in response.headers.iter().filter_map(header) {
        if append { changes.append.push((name, value)) } else { changes.set.push((name, value)) }
    }
    let removed = response.headers_to_remove.iter().filter_map(|name| name.parse().ok());
    changes.remove = removed.filter(|name| !is_own(name)).collect();
    let added = response.response_headers.iter().filter_map(header);
    changes.response = added.map(|(name, value, _)| (name, value)).collect();
    changes
}

fn denial(response: DeniedResponse) -> Denial {
    let code = response.status.as_ref().and_then(|status| u16::try_from(status.code).ok());
    let status =
        code.and_then(|code| StatusCode::from_u16(code).ok()).filter(|status| status.as_u16() >= 200);
    let mut headers = HeaderMap::new();
    for (name, value, append) in response.headers.iter().filter_map(header) {
        if append {
            headers.append(name, value)
        } else {
            headers.insert(name, value).is_some()
        };
    }
    Denial { status: status.unwrap_or(StatusCode::FORBIDDEN), headers, body: response.body.into() }
}
