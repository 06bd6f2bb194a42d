//! Whether the caller may send a request to where a route leads: another service than the one that it asked for
//! has policies of its own, and nobody else would look at them.

use super::Core;
use super::authorize::facts;
use crate::authorization::{Facts, Scope};
use crate::filters::Outgoing;
use crate::matcher::RequestView;
use crate::path::normalise;
use crate::reply::{Cause, Reply};
use crate::route::Parent;
use crate::world::{Downstream, Wanted, World};
use http::{HeaderMap, Method};
use std::sync::Arc;

impl<W: World> Core<W> {
    /// Judges a request as it would be sent on. Returns the policies that matched without deciding.
    ///
    /// # Errors
    /// The answer to a request that is refused. What cannot be found out here does not hold in the caller's favour:
    /// the tokens that the service asks for are not verified, its external authorizers are not asked.
    pub(super) fn authorize_onward(
        &self,
        downstream: &W::Downstream,
        wanted: Wanted<'_>,
        method: &Method,
        headers: &HeaderMap,
        outgoing: &Outgoing,
    ) -> Result<Vec<Arc<str>>, Reply> {
        let Wanted::Service { service, port } = wanted else { return Ok(Vec::new()) };
        if matches!(downstream.parent(), Parent::Service(parent) if parent == service) {
            return Ok(Vec::new());
        }
        // A filter may have put together what is read as another path.
        let path = normalise(outgoing.target.path(), self.settings().paths)
            .map_err(|error| Reply::new(Cause::BadRequest, error.to_string()))?;
        let host = outgoing.authority.host().to_ascii_lowercase();
        let host = host.trim_end_matches('.');
        let authority = match outgoing.authority.port_u16() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        };
        let identity = downstream.caller().identity.as_ref();
        let view = RequestView {
            host,
            path: &path,
            query: outgoing.target.query(),
            method,
            scheme: "http",
            headers,
            source_namespace: identity.map_or("", |identity| identity.namespace()),
            port,
        };
        let facts = Facts { port, ..facts(downstream, view, &authority, None) };
        let scopes = [Scope::Service(service.clone())];
        if let Some(policy) = self.policies.to_be_asked(&scopes, &facts).first() {
            let problem = "the service that the route leads to has an external authorizer, which is asked only where the service itself is";
            let policy = Some(policy.key.text().clone());
            return Err(Reply { policy, ..Reply::new(Cause::PolicyDenied, problem) });
        }
        let verdict = self.policies.judge(&scopes, &facts);
        match verdict.decision.is_allowed() {
            true => Ok(verdict.reported.iter().map(|policy| policy.key.text().clone()).collect()),
            false => Err(Reply {
                policy: verdict.decision.explanation(),
                ..Reply::new(
                    Cause::PolicyDenied,
                    "no policy of the service that the route leads to allows this request",
                )
            }),
        }
    }
}
