//! Answers, in one place, so that all paths look alike.

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;
use serde::Serialize;
use serde_json::json;

pub(super) type Reply = Response<Full<Bytes>>;

fn reply(status: StatusCode, content_type: &'static str, body: Vec<u8>) -> Reply {
    let mut reply = Response::new(Full::new(Bytes::from(body)));
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    reply.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    reply
}

pub(super) fn json_reply(status: StatusCode, value: &impl Serialize) -> Reply {
    match serde_json::to_vec(value) {
        Ok(body) => reply(status, "application/json", body),
        Err(error) => {
            tracing::error!(error = %error, "admin answer not encodable");
            problem(StatusCode::INTERNAL_SERVER_ERROR, "the answer cannot be encoded")
        }
    }
}

pub(super) fn text_reply(content_type: &'static str, text: String) -> Reply {
    reply(StatusCode::OK, content_type, text.into_bytes())
}

/// `{"error": ...}` with what to do.
pub(super) fn problem(status: StatusCode, message: &str) -> Reply {
    reply(status, "application/json", json!({ "error": message }).to_string().into_bytes())
}

pub(super) fn wrong_method(allowed: &'static str) -> Reply {
    let mut reply = problem(StatusCode::METHOD_NOT_ALLOWED, &format!("this path takes {allowed}"));
    reply.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    reply
}
