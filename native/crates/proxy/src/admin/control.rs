//! `proxy-control.sock`: what can be changed.

use std::time::SystemTime;

use http::{Method, StatusCode};
use meltemi_telemetry::parse_rfc3339;
use serde::Deserialize;
use serde_json::json;

use super::Views;
use super::reply::{Reply, json_reply, problem, wrong_method};

const PATHS: &str = "/logging, /drain, /connections/ID/close, /certificates/renew";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Logging {
    level: String,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Renew {
    not_before_until: Option<String>,
}

pub(super) fn answer(views: &Views, method: &Method, path: &str, body: &[u8]) -> Reply {
    let connection = path.strip_prefix("/connections/").and_then(|rest| rest.strip_suffix("/close"));
    let act: &dyn Fn() -> Reply = match (path, connection) {
        ("/logging", _) => &|| logging(views, body),
        ("/drain", _) => &|| {
            views.drain.drain();
            json_reply(StatusCode::ACCEPTED, &json!({ "draining": true }))
        },
        ("/certificates/renew", _) => &|| renew(views, body),
        (_, Some(id)) => &|| close(views, id),
        _ => return problem(StatusCode::NOT_FOUND, &format!("no such action; there are {PATHS}")),
    };
    if method == Method::POST { act() } else { wrong_method("POST") }
}

fn logging(views: &Views, body: &[u8]) -> Reply {
    let Logging { level } = match serde_json::from_slice(body) {
        Ok(wanted) => wanted,
        Err(error) => return bad(&format!("want {{\"level\":\"info\"}}: {error}")),
    };
    match views.logging.set(&level) {
        Ok(()) => {
            tracing::info!(level, "log level changed");
            json_reply(StatusCode::OK, &json!({ "level": level }))
        }
        Err(error) => bad(&error.to_string()),
    }
}

fn renew(views: &Views, body: &[u8]) -> Reply {
    let wanted = if body.is_empty() { Ok(Renew::default()) } else { serde_json::from_slice(body) };
    let until: Option<SystemTime> = match wanted {
        Ok(Renew { not_before_until: None }) => None,
        Ok(Renew { not_before_until: Some(text) }) => match parse_rfc3339(&text) {
            Some(time) => Some(time),
            None => {
                return bad(&format!("not_before_until {text:?}: want RFC 3339, as 2026-01-31T12:00:00Z"));
            }
        },
        Err(error) => return bad(&format!("want {{\"not_before_until\":\"RFC 3339\"}} or nothing: {error}")),
    };
    json_reply(StatusCode::ACCEPTED, &json!({ "renewing": views.certificates.renew(until) }))
}

fn close(views: &Views, id: &str) -> Reply {
    match id.parse() {
        Ok(number) if views.connections.close(number) => {
            json_reply(StatusCode::ACCEPTED, &json!({ "closing": number }))
        }
        Ok(number) => problem(StatusCode::NOT_FOUND, &format!("no open connection has the id {number}")),
        Err(_) => bad(&format!("connection id {id:?}: want a number from GET /connections")),
    }
}

fn bad(message: &str) -> Reply {
    problem(StatusCode::BAD_REQUEST, message)
}
