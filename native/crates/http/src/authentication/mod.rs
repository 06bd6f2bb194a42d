//! Whose request it is, by its tokens: RequestAuthentication.
//!
//! A request without a token passes; one with a token that no rule accepts is refused (401). Every token is
//! looked at that lies in a place where some rule looks: none that was not verified goes on. What was verified
//! is known to [`crate::authorization`] as the request's principal and claims. Headers that tell endpoints of
//! claims are taken from every request first, so that only this stage ever writes them.
//!
//! Algorithms are those of the key that the issuer has published, never what a token asks for; symmetric keys
//! are not read. Where several rules accept a token each, the first in the order of places decides who it is.

mod cache;
mod claims;
mod decode;
mod keys;
mod place;
mod rule;
mod token;

pub use claims::Claims;

use crate::authorization::Scope;
use crate::hygiene::Admitted;
use crate::reply::{Cause, Reply};
use cache::Cache;
use hashbrown::{HashMap, HashSet};
use http::HeaderMap;
use keys::Keys;
use meltemi_types::meltemi as wire;
use parking_lot::RwLock;
use place::Places;
use prost::Message;
use rule::{KeySource, Rule};
use std::sync::Arc;
use std::time::SystemTime;

/// Rules of one scope, in order of their objects' names.
#[derive(Debug, Default)]
struct Set {
    rules: Vec<Arc<Verifier>>,
    /// An object for it that was refused and never good: nobody knows what it would have stopped.
    broken: Option<Arc<str>>,
}

/// A rule and the keys that it has now.
#[derive(Debug)]
struct Verifier {
    rule: Arc<Rule>,
    keys: Option<Arc<Keys>>,
    /// Of this rule with these keys: what was verified by others counts for nothing.
    id: u64,
}

#[derive(Debug)]
enum Held {
    Good(Arc<[Arc<Rule>]>, Vec<Scope>),
    Refused(Vec<Scope>),
}

#[derive(Debug, Default)]
struct Known {
    held: HashMap<Arc<str>, Held>,
    key_sets: HashMap<Arc<str>, Arc<Keys>>,
    /// Key sets that discovery has taken back.
    gone: HashSet<Arc<str>>,
    sets: HashMap<Scope, Arc<Set>>,
    synced: bool,
    last_id: u64,
}

/// The RequestAuthentications in force, and the keys they need.
#[derive(Debug, Default)]
pub struct Authentication {
    known: RwLock<Known>,
    verified: Cache,
}

impl Authentication {
    /// As [`crate::table::RouteTable::apply`].
    pub fn apply<'a>(
        &self,
        updates: impl IntoIterator<Item = (&'a str, &'a [u8])>,
        removed: &[String],
    ) -> Vec<(String, String)> {
        let mut refused = Vec::new();
        let mut known = self.known.write();
        for name in removed {
            known.held.remove(name.as_str());
        }
        for (name, body) in updates {
            match wire::RequestAuthentication::decode(body) {
                Err(error) => {
                    refused.push((name.to_owned(), format!("it is no RequestAuthentication: {error}")));
                    known.refuse(name, vec![Scope::Waypoint]);
                }
                Ok(message) => match decode::rules(&message) {
                    Ok(rules) => {
                        let held = Held::Good(rules, crate::authorization::scopes(&message.targets));
                        known.held.insert(name.into(), held);
                    }
                    Err(error) => {
                        refused.push((name.to_owned(), error.to_string()));
                        known.refuse(name, crate::authorization::scopes(&message.targets));
                    }
                },
            }
        }
        known.rebuild();
        refused
    }

    /// Keys by their set's name. A set that cannot be read leaves the last good one; so does one that is gone while
    /// rules name it, as after a control plane's start, which has to fetch it first.
    pub fn apply_keys<'a>(
        &self,
        updates: impl IntoIterator<Item = (&'a str, &'a [u8])>,
        removed: &[String],
    ) -> Vec<(String, String)> {
        let mut refused = Vec::new();
        let mut known = self.known.write();
        known.gone.extend(removed.iter().map(|name| Arc::from(name.as_str())));
        for (name, body) in updates {
            match decode::key_set(body) {
                Ok(keys) => {
                    known.gone.remove(name);
                    known.key_sets.insert(name.into(), Arc::new(keys));
                }
                Err(problem) => refused.push((name.to_owned(), problem)),
            }
        }
        known.rebuild();
        refused
    }

    /// Discovery has answered: what is absent does not exist.
    pub fn synced(&self) {
        self.known.write().synced = true;
    }

    /// Verifies the request's tokens, and leaves in it what endpoints are to see of them.
    ///
    /// # Errors
    /// The answer to a request with a token that is not accepted.
    pub fn authenticate(
        &self,
        scopes: &[Scope],
        headers: &mut HeaderMap,
        admitted: &mut Admitted,
    ) -> Result<Option<Arc<Claims>>, Reply> {
        let sets: smallvec::SmallVec<[Arc<Set>; 3]> = {
            let known = self.known.read();
            if !known.synced {
                return Err(Reply::new(
                    Cause::NoEndpoint,
                    "the request authentications have not been received yet",
                ));
            }
            if known.sets.is_empty() {
                return Ok(None);
            }
            scopes.iter().filter_map(|scope| known.sets.get(scope).cloned()).collect()
        };
        let verifiers: Vec<&Arc<Verifier>> = sets.iter().flat_map(|set| &set.rules).collect();
        if let Some(name) = sets.iter().find_map(|set| set.broken.clone()) {
            let refused = Reply::new(Cause::PolicyDenied, "a request authentication is not understood");
            return Err(Reply { policy: Some(name), ..refused });
        }
        if verifiers.is_empty() {
            return Ok(None);
        }
        let places = Places::of(verifiers.iter().map(|verifier| &verifier.rule.places));
        let tokens = places.tokens(headers, admitted.query.as_deref());
        for verifier in &verifiers {
            verifier.rule.remove_outputs(headers);
        }
        let mut accepted = Vec::new();
        for (place, text) in tokens {
            let candidates = verifiers.iter().filter(|verifier| verifier.rule.places.has(&place));
            let (verifier, claims) = self.verify(candidates, &text).map_err(refusal)?;
            if !verifier.rule.forward {
                place.remove(&text, headers, &mut admitted.query);
            }
            accepted.push((verifier, claims));
        }
        // The first one's are written last: they are the principal's.
        for (verifier, claims) in accepted.iter().rev() {
            verifier.rule.write_outputs(headers, claims);
        }
        Ok(accepted.into_iter().next().map(|(_, claims)| claims))
    }

    /// The first rule that accepts the token.
    fn verify<'a>(
        &self,
        candidates: impl Iterator<Item = &'a &'a Arc<Verifier>>,
        text: &str,
    ) -> Result<(&'a Verifier, Arc<Claims>), token::Refused> {
        let now = SystemTime::now();
        let shown = token::Shown::read(text)?;
        let mut refused = token::Refused::UnknownIssuer;
        for verifier in candidates.filter(|verifier| *verifier.rule.issuer == *shown.issuer) {
            if let Some(claims) = self.verified.get(verifier.id, text, now) {
                return Ok((verifier, claims));
            }
            let Some(keys) = &verifier.keys else {
                refused = token::Refused::NoKeys;
                continue;
            };
            match shown.verify(keys, &verifier.rule) {
                Ok(claims) => {
                    let claims = Arc::new(claims);
                    self.verified.put(verifier.id, text, claims.clone());
                    return Ok((verifier, claims));
                }
                Err(error) => refused = error,
            }
        }
        Err(refused)
    }
}

fn refusal(refused: token::Refused) -> Reply {
    Reply::new(Cause::InvalidToken, refused.to_string())
}

impl Known {
    /// The last good version stays in force; where there is none, the scopes are closed.
    fn refuse(&mut self, name: &str, scopes: Vec<Scope>) {
        if !matches!(self.held.get(name), Some(Held::Good(..))) {
            self.held.insert(name.into(), Held::Refused(scopes));
        }
    }

    /// Drops keys that were taken back and that no rule names.
    fn forget_keys(&mut self) {
        let rules = self.held.values().filter_map(|held| match held {
            Held::Good(rules, _) => Some(&**rules),
            Held::Refused(_) => None,
        });
        let named: HashSet<&str> = rules
            .flatten()
            .filter_map(|rule| match &rule.keys {
                KeySource::Set(name) => Some(&**name),
                KeySource::Inline(_) => None,
            })
            .collect();
        let unused = self.gone.extract_if(|name| !named.contains(&**name)).collect::<Vec<_>>();
        for name in unused {
            self.key_sets.remove(&name);
        }
    }

    fn rebuild(&mut self) {
        self.forget_keys();
        let before: HashMap<_, _> = self
            .sets
            .values()
            .flat_map(|set| &set.rules)
            .map(|verifier| (Arc::as_ptr(&verifier.rule), verifier.clone()))
            .collect();
        let mut sets: HashMap<Scope, Set> = HashMap::new();
        let mut names: Vec<_> = self.held.keys().cloned().collect();
        names.sort();
        for name in names {
            match &self.held[&name] {
                Held::Refused(scopes) => {
                    for scope in scopes {
                        sets.entry(scope.clone()).or_default().broken = Some(name.clone());
                    }
                }
                Held::Good(rules, scopes) => {
                    for rule in &**rules {
                        let keys = match &rule.keys {
                            KeySource::Inline(keys) => Some(keys.clone()),
                            KeySource::Set(set) => self.key_sets.get(set).cloned(),
                        };
                        let kept = before.get(&Arc::as_ptr(rule)).filter(|old| same(&old.keys, &keys));
                        let verifier = kept.cloned().unwrap_or_else(|| {
                            self.last_id += 1;
                            Arc::new(Verifier { rule: rule.clone(), keys, id: self.last_id })
                        });
                        for scope in scopes {
                            sets.entry(scope.clone()).or_default().rules.push(verifier.clone());
                        }
                    }
                }
            }
        }
        self.sets = sets.into_iter().map(|(scope, set)| (scope, Arc::new(set))).collect();
    }
}

fn same(a: &Option<Arc<Keys>>, b: &Option<Arc<Keys>>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (None, None) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests;
