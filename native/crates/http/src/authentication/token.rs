//! One token: what it shows of itself, and whether that is true.

use super::claims::Claims;
use super::keys::Keys;
use super::rule::Rule;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Header, Validation, dangerous};
use serde::Deserialize;
use serde_json::{Map, Value};

/// A token is part of a header; what is longer than this is none.
const MOST_BYTES: usize = 32 << 10;
/// By which clocks may differ.
pub(super) const SKEW_S: u64 = 60;

/// Why a token is not accepted: for the record, never with anything of the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    #[error("the token is no signed JWT that can be read")]
    Malformed,
    #[error("the token's header has extensions that are not understood")]
    Critical,
    #[error("no rule is for the token's issuer, or for where the token was found")]
    UnknownIssuer,
    #[error("the keys of the token's issuer are not known")]
    NoKeys,
    #[error("no key of the issuer is for the token's algorithm and key id")]
    NoKey,
    #[error("the token's signature is wrong")]
    Signature,
    #[error("the token has expired")]
    Expired,
    #[error("the token is not valid yet")]
    Early,
    #[error("the token is for another audience")]
    Audience,
    #[error("a claim of the token has the wrong form")]
    Claim,
}

/// What an unverified token says of itself: enough to find who could verify it.
#[derive(Debug)]
pub(super) struct Shown<'a> {
    text: &'a str,
    payload: &'a str,
    header: Header,
    pub(super) issuer: String,
}

#[derive(Deserialize)]
struct Issued {
    iss: String,
}

impl<'a> Shown<'a> {
    pub(super) fn read(text: &'a str) -> Result<Self, Refused> {
        let mut parts = text.split('.');
        let (Some(_), Some(payload), Some(_), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Refused::Malformed);
        };
        if text.len() > MOST_BYTES {
            return Err(Refused::Malformed);
        }
        let header = jsonwebtoken::decode_header(text).map_err(|_| Refused::Malformed)?;
        // RFC 7515, 4.1.11: whoever does not understand one must refuse the token.
        if header.crit.is_some() || header.enc.is_some() || header.zip.is_some() {
            return Err(Refused::Critical);
        }
        let issued = dangerous::insecure_decode_claims::<Issued>(text).map_err(|_| Refused::Malformed)?;
        Ok(Self { text, payload, header, issuer: issued.iss })
    }

    pub(super) fn verify(&self, keys: &Keys, rule: &Rule) -> Result<Claims, Refused> {
        let mut validation = Validation::new(self.header.alg);
        validation.leeway = SKEW_S;
        // `exp` may be absent, as in Istio; where it is there, it counts.
        validation.required_spec_claims.clear();
        validation.validate_nbf = true;
        validation.set_issuer(&[&rule.issuer]);
        if rule.audiences.is_empty() {
            validation.validate_aud = false;
        } else {
            validation.set_audience(&rule.audiences);
            validation.required_spec_claims.insert("aud".to_owned());
        }
        let mut refused = Refused::NoKey;
        for key in keys.candidates(self.header.kid.as_deref(), self.header.alg) {
            match jsonwebtoken::decode::<Map<String, Value>>(self.text, key, &validation) {
                Ok(token) => {
                    // The library also takes a list with the issuer in it.
                    let exact = token.claims.get("iss").and_then(Value::as_str) == Some(&*rule.issuer);
                    return match exact {
                        true => Ok(Claims::new(token.claims, self.payload)),
                        false => Err(Refused::Claim),
                    };
                }
                Err(error) => match reason(error.kind()) {
                    // Another key of the same id, or without one, may have signed it.
                    Refused::Signature => refused = Refused::Signature,
                    refused => return Err(refused),
                },
            }
        }
        Err(refused)
    }
}

fn reason(kind: &ErrorKind) -> Refused {
    match kind {
        ErrorKind::ExpiredSignature => Refused::Expired,
        ErrorKind::ImmatureSignature => Refused::Early,
        ErrorKind::InvalidAudience => Refused::Audience,
        ErrorKind::MissingRequiredClaim(_) => Refused::Audience,
        ErrorKind::InvalidClaimFormat(_) | ErrorKind::InvalidIssuer => Refused::Claim,
        ErrorKind::InvalidToken | ErrorKind::Base64(_) | ErrorKind::Json(_) | ErrorKind::Utf8(_) => {
            Refused::Malformed
        }
        // What remains is about keys and signatures.
        _ => Refused::Signature,
    }
}
