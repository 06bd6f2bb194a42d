//! From `meltemi.v1.RequestAuthentication` and `meltemi.v1.KeySet`.

use super::keys::Keys;
use super::place::{Place, Places};
use super::rule::{KeySource, Rule};
use crate::decode::{RouteError, check_requires};
use http::HeaderName;
use meltemi_types::meltemi::{self as wire, jwt_rule, token_place};
use prost::Message;
use std::sync::Arc;

type Result<T> = std::result::Result<T, RouteError>;

pub(super) fn rules(message: &wire::RequestAuthentication) -> Result<Arc<[Arc<Rule>]>> {
    check_requires(&message.requires)?;
    crate::authorization::check_targets(&message.targets)?;
    let rules = message.rules.iter().enumerate();
    rules.map(|(index, message)| Ok(Arc::new(rule(&format!("rules[{index}]"), message)?))).collect()
}

fn rule(field: &str, message: &wire::JwtRule) -> Result<Rule> {
    let error = |name: &str, problem: String| RouteError::new(format!("{field}.{name}"), problem);
    if message.issuer.is_empty() {
        return Err(error("issuer", "is empty".to_owned()));
    }
    let keys = match &message.keys {
        Some(jwt_rule::Keys::Jwks(json)) => {
            KeySource::Inline(Arc::new(Keys::read(json).map_err(|problem| error("jwks", problem))?))
        }
        Some(jwt_rule::Keys::KeySet(name)) if !name.is_empty() => KeySource::Set(name.as_str().into()),
        _ => return Err(error("keys", "neither keys nor the name of a set of them".to_owned())),
    };
    let places = message.places.iter().enumerate();
    let places = places.map(|(index, message)| place(&format!("{field}.places[{index}]"), message));
    let outputs = message.outputs.iter().enumerate().map(|(index, output)| {
        let field = format!("{field}.outputs[{index}]");
        if output.claim.is_empty() {
            return Err(RouteError::new(format!("{field}.claim"), "is empty"));
        }
        Ok((output_header(&format!("{field}.header"), &output.header)?, output.claim.as_str().into()))
    });
    let payload = message.output_payload_to_header.as_str();
    Ok(Rule {
        issuer: message.issuer.as_str().into(),
        audiences: message.audiences.clone().into(),
        places: Places::new(places.collect::<Result<_>>()?),
        keys,
        payload_header: match payload {
            "" => None,
            name => Some(output_header(&format!("{field}.output_payload_to_header"), name)?),
        },
        forward: message.forward_original_token,
        outputs: outputs.collect::<Result<_>>()?,
    })
}

fn place(field: &str, message: &wire::TokenPlace) -> Result<Place> {
    let named = |name: &str| match name {
        "" => Err(RouteError::new(field, "has no name")),
        name => Ok(name.into()),
    };
    match &message.kind {
        Some(token_place::Kind::Header(header)) => {
            let name = header_name(field, &header.name)?;
            Ok(Place::Header { name, prefix: header.prefix.as_str().into() })
        }
        Some(token_place::Kind::Parameter(name)) => Ok(Place::Parameter(named(name)?)),
        Some(token_place::Kind::Cookie(name)) => Ok(Place::Cookie(named(name)?)),
        None => Err(RouteError::new(field, "is of no kind that is known")),
    }
}

fn header_name(field: &str, name: &str) -> Result<HeaderName> {
    name.parse().map_err(|_| RouteError::new(field, format!("{name:?} is no header's name")))
}

/// Not one by which messages are framed or connections kept.
fn output_header(field: &str, name: &str) -> Result<HeaderName> {
    use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TE, TRANSFER_ENCODING, UPGRADE};
    let header = header_name(field, name)?;
    if [HOST, CONTENT_LENGTH, TRANSFER_ENCODING, CONNECTION, TE, UPGRADE].contains(&header) {
        return Err(RouteError::new(field, format!("{name:?} is not a token's to say")));
    }
    Ok(header)
}

pub(super) fn key_set(body: &[u8]) -> std::result::Result<Keys, String> {
    let message = wire::KeySet::decode(body).map_err(|error| format!("it is no KeySet: {error}"))?;
    check_requires(&message.requires).map_err(|error| error.to_string())?;
    Keys::read(&message.jwks).map_err(|problem| format!("jwks: {problem}"))
}
