//! An external authorizer, as its extension provider describes it.

use super::headers::{Names, is_own};
use super::{About, Question, Response, grpc, plain};
use crate::decode::RouteError;
use bytes::Bytes;
use http::response::Parts;
use http::{HeaderMap, Method};
use http::{HeaderName, HeaderValue, StatusCode};
use meltemi_types::ServiceKey;
use meltemi_types::meltemi::{self as wire, external_authorizer};
use std::time::Duration;

type Decoded<T> = Result<T, RouteError>;

/// Of a body that is sent to an authorizer.
const LARGEST_BODY: u32 = 1 << 20;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Authorizer {
    /// The extension provider's name.
    pub(super) provider: Box<str>,
    pub(super) service: ServiceKey,
    pub(super) port: u16,
    pub(super) timeout: Duration,
    pub(super) fail_open: bool,
    pub(super) status_on_error: StatusCode,
    pub(super) protocol: Protocol,
    pub(super) body: Option<Body>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Protocol {
    Grpc,
    Plain(Plain),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plain {
    pub(super) prefix: Box<str>,
    pub(super) request_headers: Names,
    pub(super) further: Box<[(HeaderName, HeaderValue)]>,
    pub(super) to_upstream: Names,
    pub(super) on_deny: Names,
    pub(super) on_allow: Names,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Body {
    pub(super) bytes: usize,
    pub(super) partial: bool,
    pub(super) raw: bool,
}

impl Authorizer {
    pub(crate) fn provider(&self) -> &str {
        &self.provider
    }

    pub(crate) fn service(&self) -> (&ServiceKey, u16) {
        (&self.service, self.port)
    }

    /// Of the whole exchange with it.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    pub(crate) fn fails_open(&self) -> bool {
        self.fail_open
    }

    pub(crate) fn status_on_error(&self) -> StatusCode {
        self.status_on_error
    }

    /// Bytes of a body that it is sent, and whether a part will do.
    pub(crate) fn body_limit(&self) -> Option<(usize, bool)> {
        self.body.map(|body| (body.bytes, body.partial))
    }

    /// # Errors
    /// Why the request cannot be asked about.
    pub(crate) fn question(&self, about: &About<'_>) -> Result<Question, String> {
        match &self.protocol {
            Protocol::Plain(plain) => plain::question(plain, about),
            Protocol::Grpc => {
                let host = self.service.as_str().rsplit('/').next().unwrap_or_default();
                let authority = format!("{host}:{}", self.port).parse();
                Ok(Question {
                    method: Method::POST,
                    headers: grpc::headers(),
                    target: http::uri::PathAndQuery::from_static(grpc::PATH),
                    authority: authority.map_err(|_| format!("{host} is no host"))?,
                    body: grpc::question(about, self.body.is_some_and(|body| body.raw)),
                    http2: true,
                })
            }
        }
    }

    /// # Errors
    /// A failure of the authorizer's, which is no answer.
    pub(crate) fn answer(
        &self,
        parts: &Parts,
        trailers: Option<&HeaderMap>,
        body: Bytes,
    ) -> Result<Response, String> {
        match &self.protocol {
            Protocol::Plain(plain) => plain::answer(plain, parts, body),
            Protocol::Grpc if parts.status != StatusCode::OK => {
                Err(format!("it answered {}", parts.status.as_u16()))
            }
            Protocol::Grpc => {
                let status = trailers.and_then(crate::body::grpc_status);
                grpc::answer(status.or_else(|| crate::body::grpc_status(&parts.headers)), &body)
            }
        }
    }
}

pub(crate) fn authorizer(provider: &str, message: &wire::ExternalAuthorizer) -> Decoded<Authorizer> {
    let error = |field: &str, problem: &str| RouteError::new(format!("external.{field}"), problem);
    let service = ServiceKey::new(message.service.as_str());
    let port = u16::try_from(message.port).ok().filter(|port| *port > 0);
    let status = match message.status_on_error {
        0 => Some(StatusCode::FORBIDDEN),
        status => u16::try_from(status).ok().and_then(|status| StatusCode::from_u16(status).ok()),
    };
    let status = status.filter(|status| status.as_u16() >= 400);
    let protocol = match &message.protocol {
        Some(external_authorizer::Protocol::Grpc(_)) => Protocol::Grpc,
        Some(external_authorizer::Protocol::Http(http)) => Protocol::Plain(decode_plain(http)?),
        None => return Err(error("protocol", "is none that is known")),
    };
    let body = match &message.body {
        None => None,
        Some(body) if (1..=LARGEST_BODY).contains(&body.max_bytes) => {
            Some(Body { bytes: body.max_bytes as usize, partial: body.allow_partial, raw: body.as_bytes })
        }
        Some(_) => return Err(error("body.max_bytes", "want 1 to 1048576")),
    };
    Ok(Authorizer {
        provider: provider.into(),
        service: service.map_err(|problem| error("service", &problem.to_string()))?,
        port: port.ok_or_else(|| error("port", "is no port"))?,
        timeout: match message.timeout_ms {
            0 => return Err(error("timeout_ms", "is 0")),
            millis => Duration::from_millis(millis.into()),
        },
        fail_open: message.fail_open,
        status_on_error: status.ok_or_else(|| error("status_on_error", "want 400 to 599"))?,
        protocol,
        body,
    })
}

fn decode_plain(message: &wire::HttpCheck) -> Decoded<Plain> {
    let prefix = message.path_prefix.as_str();
    if !prefix.is_empty() && (!prefix.starts_with('/') || prefix.parse::<http::uri::PathAndQuery>().is_err())
    {
        return Err(RouteError::new("external.http.path_prefix", "is no path"));
    }
    let names = |field: &str, list: &[String]| -> Decoded<Names> {
        let field = format!("external.http.{field}");
        let read = list.iter().map(|text| crate::authorization::text(&field, &text.to_ascii_lowercase()));
        read.collect::<Decoded<_>>().map(Names)
    };
    let further = message.further_headers.iter().map(|header| {
        let name = header.name.parse::<HeaderName>().ok().filter(|name| !is_own(name));
        let value = HeaderValue::from_str(&header.value).ok();
        let problem = || format!("{:?} cannot be sent", header.name);
        name.zip(value).ok_or_else(|| RouteError::new("external.http.further_headers", problem()))
    });
    Ok(Plain {
        prefix: prefix.trim_end_matches('/').into(),
        request_headers: names("request_headers", &message.request_headers)?,
        further: further.collect::<Decoded<_>>()?,
        to_upstream: names("to_upstream", &message.to_upstream)?,
        on_deny: names("to_downstream_on_deny", &message.to_downstream_on_deny)?,
        on_allow: names("to_downstream_on_allow", &message.to_downstream_on_allow)?,
    })
}
