//! Who is asked about a request: the external authorizers of CUSTOM policies, over gRPC
//! (`envoy.service.auth.v3.Authorization`) or plain HTTP. Here is what they are asked and how their answers are
//! read; `core::externally` asks.
//!
//! They are asked before any other policy is judged, one after the other by their names, each once for a
//! request. A provider that is not known refuses. One that fails lets through only where its user has chosen so.

mod authorizer;
mod grpc;
mod headers;
mod plain;

pub(crate) use authorizer::Authorizer;
pub(crate) use authorizer::authorizer;

use crate::authorization::Caller;
use crate::hygiene::Admitted;
use bytes::Bytes;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version};
use std::net::IpAddr;

/// What is asked about.
#[derive(Debug)]
pub(crate) struct About<'a> {
    pub(crate) caller: &'a Caller,
    pub(crate) destination: IpAddr,
    pub(crate) port: u16,
    pub(crate) method: &'a Method,
    pub(crate) version: Version,
    pub(crate) admitted: &'a Admitted,
    pub(crate) headers: &'a HeaderMap,
    /// What is sent of the body, and whether there is more.
    pub(crate) body: Option<&'a (Bytes, bool)>,
}

/// A request to an authorizer.
#[derive(Debug)]
pub(crate) struct Question {
    pub(crate) method: Method,
    pub(crate) headers: HeaderMap,
    pub(crate) target: PathAndQuery,
    pub(crate) authority: Authority,
    pub(crate) body: Bytes,
    /// It must be.
    pub(crate) http2: bool,
}

/// What an authorizer has answered.
#[derive(Debug)]
pub(crate) enum Response {
    Allowed(Changes),
    Denied(Denial),
}

/// How a request and its response are changed by who allowed it.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    set: Vec<(HeaderName, HeaderValue)>,
    append: Vec<(HeaderName, HeaderValue)>,
    remove: Vec<HeaderName>,
    pub(crate) response: Vec<(HeaderName, HeaderValue)>,
}

#[derive(Debug)]
pub(crate) struct Denial {
    pub(crate) status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Changes {
    pub(crate) fn apply(self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        // Several values of one name take the place of those before, together.
        for (name, _) in &self.set {
            headers.remove(name);
        }
        for (name, value) in self.set.into_iter().chain(self.append) {
            headers.append(name, value);
        }
    }
}

impl Denial {
    /// The proxy's own answer, as the authorizer would have it. One for gRPC has no body, and its own type.
    pub(crate) fn onto(self, mut answer: http::Response<Bytes>, grpc: bool) -> http::Response<Bytes> {
        let headers = answer.headers_mut();
        if !grpc {
            headers.remove(http::header::CONTENT_TYPE);
        }
        for name in self.headers.keys() {
            if !(grpc && name == http::header::CONTENT_TYPE) {
                headers.remove(name);
                for value in self.headers.get_all(name) {
                    headers.append(name, value.clone());
                }
            }
        }
        if !grpc {
            *answer.body_mut() = self.body;
        }
        answer
    }
}

#[cfg(test)]
mod tests;
