//! Who may send which request: AuthorizationPolicy for HTTP, judged of the original caller.
//!
//! A CUSTOM that matches is asked about first ([`crate::external`]). Any DENY that matches decides; then a policy that should be there and is not understood refuses; then, if
//! no ALLOW applies, the request is allowed; else one of them must match. Where ambient or Istio would fail
//! open, this does not, as in crate policy: a caller without identity matches no identity field of an ALLOW,
//! `not_` forms included; a token counts as absent until it has been verified.

mod decode;
mod policy;

pub use decode::Scope;
pub(crate) use decode::{check_targets, scopes, text};
pub use policy::{Action, Caller, Decision, Facts, HttpFacts, Policy};

use hashbrown::HashMap;
use meltemi_types::meltemi as wire;
use parking_lot::RwLock;
use policy::Decision::{Allow, Denied, NoneAllowed, Unknown};
use prost::Message;
use std::sync::Arc;

/// The policies of one scope.
#[derive(Debug, Default)]
struct Set {
    deny: Vec<Arc<Policy>>,
    allow: Vec<Arc<Policy>>,
    custom: Vec<Arc<Policy>>,
    /// Those that do not decide.
    reporting: Vec<Arc<Policy>>,
    /// Refused and never good.
    unknown: Vec<Arc<str>>,
}

#[derive(Debug)]
enum Held {
    Good(Arc<Policy>, Vec<Scope>),
    Refused(Vec<Scope>),
}

#[derive(Debug, Default)]
struct Known {
    held: HashMap<Arc<str>, Held>,
    sets: HashMap<Scope, Arc<Set>>,
    synced: bool,
}

/// The policies in force. Refuses all until discovery has answered once.
#[derive(Debug, Default)]
pub struct Policies {
    known: RwLock<Known>,
}

/// The decision, and the policies that matched without deciding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub decision: Decision,
    pub reported: Vec<Arc<Policy>>,
}

impl Policies {
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
            match wire::HttpAuthorization::decode(body) {
                Err(error) => {
                    refused.push((name.to_owned(), format!("it is no HttpAuthorization: {error}")));
                    known.refuse(name, vec![Scope::Waypoint]);
                }
                Ok(message) => match decode::policy(&message) {
                    Ok(policy) => {
                        let held = Held::Good(Arc::new(policy), decode::scopes(&message.targets));
                        known.held.insert(name.into(), held);
                    }
                    Err(error) => {
                        refused.push((name.to_owned(), error.to_string()));
                        let decides = decode::would_decide(&message);
                        known.refuse(
                            name,
                            if decides { decode::scopes(&message.targets) } else { Vec::new() },
                        );
                    }
                },
            }
        }
        known.rebuild();
        refused
    }

    /// Discovery has answered: what is absent does not exist.
    pub fn synced(&self) {
        self.known.write().synced = true;
    }

    /// CUSTOM policies that match a request: their providers are asked before it is judged.
    pub(crate) fn to_be_asked(&self, scopes: &[Scope], facts: &Facts<'_>) -> Vec<Arc<Policy>> {
        let sets: smallvec::SmallVec<[Arc<Set>; 3]> = {
            let known = self.known.read();
            scopes
                .iter()
                .filter_map(|scope| known.sets.get(scope))
                .filter(|set| !set.custom.is_empty())
                .cloned()
                .collect()
        };
        let policies = sets.iter().flat_map(|set| &set.custom);
        policies.filter(|policy| policy.matches(facts)).cloned().collect()
    }

    /// Judges a request to something that is in `scopes`.
    pub fn judge(&self, scopes: &[Scope], facts: &Facts<'_>) -> Verdict {
        let (sets, synced) = {
            let known = self.known.read();
            let sets: smallvec::SmallVec<[Arc<Set>; 3]> =
                scopes.iter().filter_map(|scope| known.sets.get(scope).cloned()).collect();
            (sets, known.synced)
        };
        let reported = sets.iter().flat_map(|set| &set.reporting).filter(|policy| policy.matches(facts));
        let reported = reported.cloned().collect();
        let decision = || {
            // Nobody can be asked about a connection whose requests are not seen.
            let mut custom = sets.iter().flat_map(|set| &set.custom).filter(|_| facts.http.is_none());
            if let Some(policy) = custom.find(|policy| policy.matches(facts)) {
                return Denied(policy.clone());
            }
            if let Some(policy) = sets.iter().flat_map(|set| &set.deny).find(|policy| policy.matches(facts)) {
                return Denied(policy.clone());
            }
            let unknown: Vec<_> = sets.iter().flat_map(|set| &set.unknown).cloned().collect();
            if !synced || !unknown.is_empty() {
                return Unknown(unknown);
            }
            let allow = || sets.iter().flat_map(|set| &set.allow);
            if allow().next().is_none() {
                return Allow(None);
            }
            match allow().find(|policy| policy.matches(facts)) {
                Some(policy) => Allow(Some(policy.clone())),
                None => NoneAllowed(allow().map(|policy| policy.key.clone()).collect()),
            }
        };
        Verdict { decision: decision(), reported }
    }
}

impl Known {
    /// The last good version stays in force; where there is none, the scopes are closed.
    fn refuse(&mut self, name: &str, scopes: Vec<Scope>) {
        if !matches!(self.held.get(name), Some(Held::Good(..))) {
            self.held.insert(name.into(), Held::Refused(scopes));
        }
    }

    fn rebuild(&mut self) {
        let mut sets: HashMap<Scope, Set> = HashMap::new();
        let mut names: Vec<_> = self.held.keys().cloned().collect();
        names.sort();
        for name in names {
            match &self.held[&name] {
                Held::Good(policy, scopes) => {
                    for scope in scopes {
                        let set = sets.entry(scope.clone()).or_default();
                        match (policy.decides(), policy.action) {
                            (true, Action::Deny) => set.deny.push(policy.clone()),
                            (true, Action::Allow) => set.allow.push(policy.clone()),
                            (true, Action::Custom) => set.custom.push(policy.clone()),
                            _ => set.reporting.push(policy.clone()),
                        }
                    }
                }
                Held::Refused(scopes) => {
                    for scope in scopes {
                        sets.entry(scope.clone()).or_default().unknown.push(name.clone());
                    }
                }
            }
        }
        self.sets = sets.into_iter().map(|(scope, set)| (scope, Arc::new(set))).collect();
    }
}

#[cfg(test)]
mod tests;
