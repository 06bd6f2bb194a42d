//! Filters of rules and of backends.

use super::{Result, RouteError, each, header_name, host, port, text_match};
use crate::filters::{
    Abort, Cors, Fault, Filter, HeaderChange, Listed, PathChange, Redirect, RegexChange, Rewrite,
};
use crate::matcher::Host;
use crate::route::Mirror;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};
use meltemi_types::meltemi as wire;
use std::time::Duration;

/// Bytes of a direct response.
const LARGEST_BODY: usize = 64 << 10;

/// A rule's or a backend's filters, by when they act.
#[derive(Default)]
pub(super) struct Filters {
    pub(super) cors: Option<Box<Cors>>,
    pub(super) fault: Option<Box<Fault>>,
    pub(super) filters: Box<[Filter]>,
    pub(super) mirrors: Box<[Mirror]>,
}

pub(super) fn filters(field: &str, messages: &[wire::HttpFilter]) -> Result<Filters> {
    use wire::http_filter::Kind;
    let mut all = Filters::default();
    let (mut filters, mut mirrors) = (Vec::new(), Vec::new());
    for (index, message) in messages.iter().enumerate() {
        let field = format!("{field}[{index}]");
        let twice = || RouteError::new(field.as_str(), "it is there twice");
        match &message.kind {
            Some(Kind::Mirror(message)) => mirrors.push(super::mirror(&field, message)?),
            Some(Kind::Cors(message)) => {
                let cors = Box::new(cors(&field, message)?);
                all.cors.replace(cors).map_or(Ok(()), |_| Err(twice()))?;
            }
            Some(Kind::Fault(message)) => {
                let fault = Box::new(fault(&field, message)?);
                all.fault.replace(fault).map_or(Ok(()), |_| Err(twice()))?;
            }
            Some(kind) => filters.push(filter(&field, kind)?),
            None => return Err(RouteError::new(field, "an unknown filter")),
        }
    }
    (all.filters, all.mirrors) = (filters.into(), mirrors.into());
    Ok(all)
}

pub(super) fn answers(filter: &Filter) -> bool {
    matches!(filter, Filter::Redirect(_) | Filter::DirectResponse { .. })
}

fn filter(field: &str, kind: &wire::http_filter::Kind) -> Result<Filter> {
    use wire::http_filter::Kind;
    match kind {
        Kind::RequestHeaders(change) => Ok(Filter::RequestHeaders(header_change(field, change)?)),
        Kind::ResponseHeaders(change) => Ok(Filter::ResponseHeaders(header_change(field, change)?)),
        Kind::Redirect(message) => redirect(field, message),
        Kind::Rewrite(message) => {
            let authority = match message.authority.as_str() {
                "" => None,
                text => Some(text.parse().map_err(|_| {
                    RouteError::new(format!("{field}.authority"), format!("{text:?} is no authority"))
                })?),
            };
            Ok(Filter::Rewrite(Rewrite { authority, path: path_change(field, message.path.as_ref())? }))
        }
        Kind::DirectResponse(message) => {
            if message.body.len() > LARGEST_BODY {
                return Err(RouteError::new(format!("{field}.body"), "more than 64 KiB"));
            }
            let content_type = match message.content_type.as_str() {
                "" => None,
                text => Some(header_value(&format!("{field}.content_type"), text)?),
            };
            let body = Bytes::copy_from_slice(&message.body);
            Ok(Filter::DirectResponse { status: status(field, message.status)?, body, content_type })
        }
        Kind::Mirror(_) | Kind::Fault(_) | Kind::Cors(_) => {
            Err(RouteError::new(field, "it is no filter of its own"))
        }
    }
}

fn status(field: &str, status: u32) -> Result<StatusCode> {
    let code = u16::try_from(status).ok().and_then(|status| StatusCode::from_u16(status).ok());
    code.filter(|code| (200..600).contains(&code.as_u16()))
        .ok_or_else(|| RouteError::new(format!("{field}.status"), format!("{status} is no final status")))
}

fn redirect(field: &str, message: &wire::Redirect) -> Result<Filter> {
    let scheme = match message.scheme.as_str() {
        "" => None,
        known @ ("http" | "https") => Some(known.into()),
        other => {
            return Err(RouteError::new(
                format!("{field}.scheme"),
                format!("{other:?} is not http or https"),
            ));
        }
    };
    let hostname = match message.hostname.as_str() {
        "" => None,
        text => match host(&format!("{field}.hostname"), text)? {
            Host::Exact(name) => Some(name),
            _ => return Err(RouteError::new(format!("{field}.hostname"), "a wildcard")),
        },
    };
    Ok(Filter::Redirect(Redirect {
        scheme,
        hostname,
        port: port(&format!("{field}.port"), message.port)?,
        path: path_change(field, message.path.as_ref())?,
        status: match message.status {
            0 => StatusCode::FOUND,
            code @ (301 | 302 | 303 | 307 | 308) => status(field, code)?,
            code => return Err(RouteError::new(format!("{field}.status"), format!("{code} is no redirect"))),
        },
        drop_port: message.drop_port,
    }))
}

fn path_change(field: &str, message: Option<&wire::PathChange>) -> Result<Option<PathChange>> {
    use wire::path_change::Kind;
    let Some(message) = message else { return Ok(None) };
    let field = format!("{field}.path");
    match &message.kind {
        Some(Kind::Full(text)) if text.starts_with('/') => Ok(Some(PathChange::Full(text.as_str().into()))),
        Some(Kind::Full(text)) => {
            Err(RouteError::new(field, format!("{text:?} does not begin with a slash")))
        }
        Some(Kind::Prefix(text)) => Ok(Some(PathChange::Prefix(text.as_str().into()))),
        Some(Kind::Regex(message)) => {
            let change = RegexChange::new(&message.pattern, &message.substitution);
            let change = change.map_err(|error| RouteError::new(format!("{field}.regex"), error))?;
            Ok(Some(PathChange::Regex(Box::new(change))))
        }
        None => Err(RouteError::new(field, "an unknown change")),
    }
}

/// Names that only the proxy itself may set: they frame the message.
const FRAMING: [HeaderName; 6] = [
    http::header::CONNECTION,
    http::header::CONTENT_LENGTH,
    http::header::TRANSFER_ENCODING,
    http::header::UPGRADE,
    http::header::TE,
    http::header::TRAILER,
];

fn header_change(field: &str, message: &wire::HeaderChange) -> Result<HeaderChange> {
    let name = |field: &str, text: &str| {
        let name = header_name(field, text)?;
        match FRAMING.contains(&name) {
            true => Err(RouteError::new(field, format!("{name} belongs to the message's framing"))),
            false => Ok(name),
        }
    };
    let pairs = |list: &str, pairs: &[wire::HeaderValue]| {
        each(&format!("{field}.{list}"), pairs, |field, pair| {
            Ok((name(field, &pair.name)?, header_value(field, &pair.value)?))
        })
    };
    Ok(HeaderChange {
        set: pairs("set", &message.set)?.into(),
        add: pairs("add", &message.add)?.into(),
        remove: each(&format!("{field}.remove"), &message.remove, |field, text| name(field, text))?.into(),
    })
}

fn header_value(field: &str, text: &str) -> Result<HeaderValue> {
    HeaderValue::from_str(text).map_err(|_| RouteError::new(field, "a value that no header can have"))
}

fn fault(field: &str, message: &wire::Fault) -> Result<Fault> {
    let share = |name: &str, value: u32| super::share(field, name, value);
    let grpc_status = match message.abort_grpc_status.map(u16::try_from) {
        None => None,
        Some(Ok(code @ 0..=16)) => Some(code),
        Some(_) => return Err(RouteError::new(format!("{field}.abort_grpc_status"), "no status of gRPC")),
    };
    let abort = match (message.abort_status, grpc_status) {
        (0, None) => None,
        (0, Some(_)) => Some(StatusCode::SERVICE_UNAVAILABLE),
        (code, _) => Some(
            status(field, code)
                .map_err(|error| RouteError { field: format!("{field}.abort_status"), ..error })?,
        ),
    };
    let fault = Fault {
        delay: Duration::from_millis(message.delay_ms.into()),
        delay_per_million: share("delay_per_million", message.delay_per_million)?,
        abort: abort.map(|status| Abort { status, grpc_status }),
        abort_per_million: share("abort_per_million", message.abort_per_million)?,
        by_header: message.by_header,
    };
    if fault.delay.is_zero() && fault.abort.is_none() && !fault.by_header {
        return Err(RouteError::new(field, "a fault that is none: want delay_ms, or abort_status"));
    }
    Ok(fault)
}

fn cors(field: &str, message: &wire::Cors) -> Result<Cors> {
    let listed = |name: &str, texts: &[String]| {
        let any = texts.iter().any(|text| text == "*");
        let joined = if any { "*".to_owned() } else { texts.join(", ") };
        let text = match joined.as_str() {
            "" => None,
            text => Some(header_value(&format!("{field}.{name}"), text)?),
        };
        Ok(Listed { text, any })
    };
    Ok(Cors {
        origins: each(&format!("{field}.allow_origins"), &message.allow_origins, text_match)?.into(),
        methods: listed("allow_methods", &message.allow_methods)?,
        headers: listed("allow_headers", &message.allow_headers)?,
        expose: listed("expose_headers", &message.expose_headers)?,
        max_age: (message.max_age_s > 0).then(|| message.max_age_s.into()),
        credentials: message.allow_credentials,
        forward_unmatched: message.forward_unmatched,
    })
}
