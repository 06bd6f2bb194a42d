//! `proxy-admin.sock`: what can be seen. Nothing here changes anything.

use http::{Method, StatusCode};
use meltemi_telemetry::Metrics;
use serde_json::json;

use super::Views;
use super::reply::{Reply, json_reply, problem, text_reply, wrong_method};

const PATHS: &str = "/ready, /metrics, /config_dump, /certificates, /connections, /logging";

pub(super) fn answer(views: &Views, method: &Method, path: &str) -> Reply {
    let show: fn(&Views) -> Reply = match path {
        "/ready" => ready,
        "/metrics" => |views| text_reply(Metrics::CONTENT_TYPE, views.metrics.text()),
        "/config_dump" => |views| json_reply(StatusCode::OK, &views.config.config_dump()),
        "/certificates" => |views| json_reply(StatusCode::OK, &views.certificates.certificates()),
        "/connections" => |views| json_reply(StatusCode::OK, &views.connections.connections()),
        "/logging" => |views| json_reply(StatusCode::OK, &json!({ "level": views.logging.current() })),
        _ => return problem(StatusCode::NOT_FOUND, &format!("no such page; there are {PATHS}")),
    };
    if method == Method::GET || method == Method::HEAD { show(views) } else { wrong_method("GET") }
}

fn ready(views: &Views) -> Reply {
    let waiting = views.readiness.readiness().waiting;
    if waiting.is_empty() {
        json_reply(StatusCode::OK, &json!({ "ready": true }))
    } else {
        json_reply(StatusCode::SERVICE_UNAVAILABLE, &json!({ "ready": false, "waiting": waiting }))
    }
}
