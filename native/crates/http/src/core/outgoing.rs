//! A request as it leaves.

use crate::body::RequestBody;
use crate::filters::Outgoing;
use http::header::{CONNECTION, HOST, HeaderMap, HeaderValue, UPGRADE};
use http::{Method, Request, Uri, Version};

/// A request before it is written for one protocol or the other.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) method: Method,
    pub(super) headers: HeaderMap,
    pub(super) outgoing: Outgoing,
    pub(super) body: RequestBody,
    pub(super) upgrade: Option<HeaderValue>,
}

/// The request as the endpoint's protocol has it.
pub(super) fn written(
    method: &Method,
    headers: HeaderMap,
    body: RequestBody,
    outgoing: &Outgoing,
    http2: bool,
    upgrade: Option<&HeaderValue>,
) -> Request<RequestBody> {
    let mut request = with(headers, body);
    *request.method_mut() = method.clone();
    let mut uri = http::uri::Parts::default();
    uri.path_and_query = Some(outgoing.target.clone());
    if http2 {
        uri.scheme = Some(http::uri::Scheme::HTTP);
        uri.authority = Some(outgoing.authority.clone());
        *request.version_mut() = Version::HTTP_2;
    } else {
        let headers = request.headers_mut();
        if let Ok(host) = HeaderValue::from_str(outgoing.authority.as_str()) {
            headers.insert(HOST, host);
        }
        if let Some(protocol) = upgrade {
            headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(UPGRADE, protocol.clone());
        }
    }
    // A target and an authority that were parsed make a URI.
    *request.uri_mut() = Uri::from_parts(uri).unwrap_or_default();
    request
}

pub(super) fn with(headers: HeaderMap, body: RequestBody) -> Request<RequestBody> {
    let mut request = Request::new(body);
    *request.headers_mut() = headers;
    request
}

/// What `written` was given, of a request that was not sent.
pub(super) fn unwritten(request: Request<RequestBody>) -> (HeaderMap, RequestBody) {
    let (mut parts, body) = request.into_parts();
    for own in [HOST, CONNECTION, UPGRADE] {
        parts.headers.remove(own);
    }
    (parts.headers, body)
}
