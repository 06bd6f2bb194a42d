//! Answers that the proxy gives by itself, and the words that explain them.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use std::sync::Arc;

/// Why the proxy answered by itself, or a request ended early.
pub const REFUSED: HeaderName = HeaderName::from_static("x-meltemi-refused");

macro_rules! causes {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $status:literal;)+) => {
        /// The closed set of causes; the same words in records and in `x-meltemi-refused`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Cause { $($(#[$doc])* $name,)+ }

        impl Cause {
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }

            /// What the client is answered, where no answer has begun.
            pub const fn status(self) -> u16 {
                match self { $(Self::$name => $status,)+ }
            }
        }
    };
}

causes! {
    /// The request has no single reading.
    BadRequest = "bad_request", 400;
    /// A token that no RequestAuthentication accepts.
    InvalidToken = "invalid_token", 401;
    /// An AuthorizationPolicy, or the lack of an ALLOW.
    PolicyDenied = "policy_denied", 403;
    /// The external authorizer of a CUSTOM policy said no.
    ExternalDenied = "external_denied", 403;
    /// It could not be asked, or gave no answer that can be read.
    ExternalFailed = "external_failed", 403;
    /// Routes are attached, none is for the request.
    NoRoute = "no_route", 404;
    BodyTooLarge = "body_too_large", 413;
    /// The rule, its backend or a filter of it cannot be carried out.
    InvalidRoute = "invalid_route", 500;
    NotImplemented = "not_implemented", 501;
    NoEndpoint = "no_endpoint", 503;
    UpstreamConnectFailed = "upstream_connect_failed", 503;
    /// The connection ended before the response's first header.
    UpstreamReset = "upstream_reset", 503;
    /// The endpoint's node refused this waypoint.
    PeerRefused = "peer_refused", 503;
    /// Neither the response's headers nor a connection within the time for one attempt.
    UpstreamTimeout = "upstream_timeout", 504;
    /// The whole exchange took too long.
    RequestTimeout = "request_timeout", 504;
    /// Too many requests are under way, or wait for a connection.
    Overloaded = "overloaded", 503;
    /// A fault that the route asks for; it says with which status.
    FaultInjected = "fault_injected", 503;
    /// The client went away, or its request broke off.
    ClientGone = "client_gone", 499;
    /// The response broke off, or nothing came for too long.
    ResponseBroken = "response_broken", 502;
}

/// An answer of the proxy's own.
#[derive(Debug, Clone)]
pub struct Reply {
    pub cause: Cause,
    /// "NAMESPACE/NAME" of what decided.
    pub policy: Option<Arc<str>>,
    /// For the record and the answer's body.
    pub message: String,
    /// Instead of the cause's own.
    pub status: Option<StatusCode>,
    pub grpc_status: Option<u16>,
}

impl Reply {
    pub fn new(cause: Cause, message: impl Into<String>) -> Self {
        Self { cause, policy: None, message: message.into(), status: None, grpc_status: None }
    }

    /// `grpc`: as a gRPC client understands it, headers only.
    pub fn response(&self, grpc: bool) -> Response<Bytes> {
        let own = || StatusCode::from_u16(self.cause.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let status = self.status.unwrap_or_else(own);
        let mut response = Response::new(Bytes::new());
        let headers = response.headers_mut();
        let explained = match &self.policy {
            Some(policy) => format!("{}; policy={policy}", self.cause.as_str()),
            None => self.cause.as_str().to_owned(),
        };
        if let Ok(value) = HeaderValue::from_str(&explained) {
            headers.insert(REFUSED, value);
        }
        if self.cause == Cause::InvalidToken {
            // RFC 6750, 3.1. Nothing of why: the record has it.
            let challenge = HeaderValue::from_static(r#"Bearer error="invalid_token""#);
            headers.insert(http::header::WWW_AUTHENTICATE, challenge);
        }
        if grpc {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            headers.insert(
                "grpc-status",
                HeaderValue::from(self.grpc_status.unwrap_or_else(|| grpc_status(status.as_u16()))),
            );
            if let Ok(value) = HeaderValue::from_str(&percent_encoded(&explained)) {
                headers.insert("grpc-message", value);
            }
        } else {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
            *response.status_mut() = status;
            *response.body_mut() = Bytes::from(format!("{explained}\n"));
        }
        response
    }
}

/// gRPC's own mapping of HTTP statuses (doc/http-grpc-status-mapping.md), and the codes that say more.
fn grpc_status(status: u16) -> u16 {
    match status {
        400 => 13,
        403 => 7,
        404 | 501 => 12,
        401 => 16,
        413 => 8,
        504 => 4,
        429 | 502 | 503 => 14,
        _ => 2,
    }
}

fn percent_encoded(text: &str) -> String {
    let encoded = text.bytes().map(|byte| match byte {
        b'%' => "%25".to_owned(),
        0x20..=0x7e => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    });
    encoded.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_its_policy() {
        let reply = Reply { policy: Some("shop/p".into()), ..Reply::new(Cause::PolicyDenied, "no") };
        let response = reply.response(false);
        assert_eq!(response.status(), 403);
        assert_eq!(response.headers()[REFUSED], "policy_denied; policy=shop/p");
        let response = reply.response(true);
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["grpc-status"], "7");
        assert_eq!(response.headers()["grpc-message"], "policy_denied; policy=shop/p");
    }

    #[test]
    fn a_refused_token_is_challenged() {
        let reply = Reply::new(Cause::InvalidToken, "the token has expired");
        let response = reply.response(false);
        assert_eq!(response.status(), 401);
        assert_eq!(response.headers()[REFUSED], "invalid_token");
        assert_eq!(response.headers()["www-authenticate"], "Bearer error=\"invalid_token\"");
        assert_eq!(reply.response(true).headers()["grpc-status"], "16");
    }

    #[test]
    fn words_are_unique() {
        let words: std::collections::HashSet<_> = Cause::ALL.iter().map(|cause| cause.as_str()).collect();
        assert_eq!(words.len(), Cause::ALL.len());
    }
}
