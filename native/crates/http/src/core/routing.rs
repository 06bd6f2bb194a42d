//! Which rule a request is for, and which backend of it.

use super::Core;
use crate::exchange::Exchange;
use crate::matcher::{PathMatch, RequestView};
use crate::reply::{Cause, Reply};
use crate::route::{Action, Backend, Rule, Target};
use crate::table::Found;
use crate::world::{Downstream, Wanted, World};
use std::sync::Arc;

/// Where a request is sent to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Destination<'a> {
    pub(super) wanted: Wanted<'a>,
    /// A name in the service's policy of traffic.
    pub(super) subset: Option<&'a str>,
}

impl<W: World> Core<W> {
    /// The rule, if routes are attached, and what of it matched the path.
    pub(super) fn route(
        &self,
        downstream: &Arc<W::Downstream>,
        view: &RequestView<'_>,
        exchange: &mut Exchange<W>,
    ) -> Result<(Option<Arc<Rule>>, PathMatch), Reply> {
        let (rule, matched) = match self.routes.find(downstream.parent(), view) {
            Found::NoRoutes => return Ok((None, PathMatch::Any)),
            Found::NotReceived => {
                return Err(Reply::new(Cause::NoEndpoint, "the routes have not been received yet"));
            }
            Found::Rule { rule, path } => (rule, path),
            Found::NoMatch => return Err(Reply::new(Cause::NoRoute, "no route's rule is for this request")),
            Found::Broken => {
                return Err(Reply::new(
                    Cause::InvalidRoute,
                    "a route that may be for this request was refused",
                ));
            }
        };
        exchange.route = Some(rule.route.clone());
        exchange.rule.clone_from(&rule.name);
        Ok((Some(rule), matched))
    }
}

/// The rule's backend for one request; `None`: what it was sent to.
pub(super) fn backend(rule: &Rule) -> Result<Option<&Backend>, Reply> {
    match &rule.action {
        Action::Parent => Ok(None),
        Action::Invalid(problem) => Err(Reply::new(Cause::InvalidRoute, &**problem)),
        Action::Backends(backends) => {
            let chosen = backends.choose(&mut rand::rng());
            chosen.map(Some).ok_or_else(|| Reply::new(Cause::InvalidRoute, "the rule has no backend"))
        }
    }
}

pub(super) fn destination(backend: Option<&Backend>) -> Result<Destination<'_>, Reply> {
    match backend.map(|backend| &backend.target) {
        None => Ok(Destination { wanted: Wanted::Parent, subset: None }),
        Some(Target::Service { service, port, subset }) => {
            let wanted = Wanted::Service { service, port: *port };
            Ok(Destination { wanted, subset: subset.as_deref() })
        }
        Some(Target::Invalid(problem)) => Err(Reply::new(Cause::InvalidRoute, &**problem)),
    }
}
