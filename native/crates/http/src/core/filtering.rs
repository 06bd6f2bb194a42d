//! What a rule makes of a request before it is sent on.

use crate::authorization::Caller;
use crate::filters::{self, Fault, Filter, Outgoing, Seen, Step};
use crate::hygiene::Admitted;
use crate::matcher::PathMatch;
use crate::reply::{Cause, Reply};
use crate::settings::Settings;
use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue, LOCATION};
use http::uri::PathAndQuery;
use http::{Method, Response};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// A request on its way through the filters.
pub(super) struct Filtered<'a> {
    pub(super) method: Method,
    pub(super) headers: HeaderMap,
    pub(super) outgoing: Outgoing,
    pub(super) upgrade: Option<HeaderValue>,
    pub(super) query: Option<&'a str>,
    seen: Seen<'a>,
}

impl<'a> Filtered<'a> {
    pub(super) fn begin(parts: http::request::Parts, admitted: &'a Admitted) -> Result<Self, Reply> {
        let query = admitted.query.as_deref();
        let seen = Seen {
            scheme: "http",
            host: &admitted.host,
            port: admitted.authority.port_u16().unwrap_or(80),
            path: &admitted.path,
            query,
        };
        let outgoing = Outgoing { target: target(admitted)?, authority: admitted.authority.clone() };
        let headers = parts.headers;
        Ok(Self { method: parts.method, headers, outgoing, upgrade: admitted.upgrade.clone(), query, seen })
    }

    /// Filters of a rule or of a backend; an answer where one of them gives it.
    pub(super) fn apply(
        &mut self,
        list: &[Filter],
        matched: &PathMatch,
    ) -> Result<Option<Response<Bytes>>, Reply> {
        match filters::on_request(list, &self.seen, matched, &mut self.headers, &mut self.outgoing) {
            Step::Go => Ok(None),
            Step::Broken(problem) => Err(Reply::new(Cause::InvalidRoute, problem)),
            Step::Refused(problem) => Err(Reply::new(Cause::BadRequest, problem)),
            Step::Answer { status, location, body, content_type } => {
                let mut response = Response::new(body);
                *response.status_mut() = status;
                if let Some(location) = location {
                    response.headers_mut().insert(LOCATION, location);
                }
                if let Some(content_type) = content_type {
                    response.headers_mut().insert(http::header::CONTENT_TYPE, content_type.clone());
                }
                filters::on_response(list, response.headers_mut());
                Ok(Some(response))
            }
        }
    }
}

/// The normalised path: what policy judged is what the backend is asked for.
fn target(admitted: &Admitted) -> Result<PathAndQuery, Reply> {
    let target = match &admitted.query {
        Some(query) => format!("{}?{query}", admitted.path).parse(),
        None => admitted.path.parse(),
    };
    target.map_err(|_| Reply::new(Cause::BadRequest, "the path cannot be sent on"))
}

/// Who asked, as far as this proxy knows: before anybody judges the request by it.
pub(super) fn forwarded(headers: &mut HeaderMap, caller: &Caller, settings: &Settings) {
    let before = crate::matcher::joined(headers, &FORWARDED_FOR);
    let mut chain = before.map(|value| value.into_owned()).unwrap_or_default();
    if !chain.is_empty() {
        chain.extend_from_slice(b", ");
    }
    chain.extend_from_slice(caller.source_ip.to_string().as_bytes());
    if let Ok(value) = HeaderValue::from_bytes(&chain) {
        headers.insert(FORWARDED_FOR, value);
    }
    headers.entry(FORWARDED_PROTO).or_insert(HeaderValue::from_static("http"));
    if !headers.contains_key(REQUEST_ID)
        && let Ok(id) = HeaderValue::from_str(&format!("{:032x}", rand::random::<u128>()))
    {
        headers.insert(REQUEST_ID, id);
    }
    said_of_caller(headers, caller, settings);
}

/// The caller's identity, whatever the client, a token's claims or an authorizer's answer say in its place.
pub(super) fn said_of_caller(headers: &mut HeaderMap, caller: &Caller, settings: &Settings) {
    if let Some(name) = &settings.caller_header {
        headers.remove(name);
        let uri = caller.identity.as_ref().and_then(|identity| HeaderValue::from_str(identity.uri()).ok());
        if let Some(uri) = uri {
            headers.insert(name.clone(), uri);
        }
    }
}

/// A fault that the rule asks for: waits, then answers, as chance has it.
pub(super) async fn befall(fault: &Fault, headers: &mut HeaderMap) -> Result<(), Reply> {
    let drawn = fault.draw(headers, &mut rand::rng());
    if let Some(delay) = drawn.delay {
        tokio::time::sleep(delay).await;
    }
    match drawn.abort {
        None => Ok(()),
        Some(abort) => Err(Reply {
            status: Some(abort.status),
            grpc_status: abort.grpc_status,
            ..Reply::new(Cause::FaultInjected, "the route asks for this fault")
        }),
    }
}
