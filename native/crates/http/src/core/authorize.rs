//! Whether the caller may send this request at all.

use super::Core;
use crate::authentication::Claims;
use crate::authorization::{Facts, HttpFacts};
use crate::exchange::Exchange;
use crate::hygiene::Admitted;
use crate::matcher::RequestView;
use crate::reply::{Cause, Reply};
use crate::world::{Downstream, World};
use std::sync::Arc;

impl<W: World> Core<W> {
    pub(super) fn authorize(
        &self,
        downstream: &Arc<W::Downstream>,
        admitted: &Admitted,
        request: RequestView<'_>,
        token: Option<&Claims>,
        exchange: &mut Exchange<W>,
    ) -> Result<(), Reply> {
        let facts = facts(&**downstream, request, &admitted.host_port, token);
        let verdict = self.policies.judge(downstream.scopes(), &facts);
        exchange.reported = verdict.reported.iter().map(|policy| policy.key.text().clone()).collect();
        exchange.policy = verdict.decision.explanation();
        match verdict.decision.is_allowed() {
            true => Ok(()),
            false => Err(Reply {
                policy: verdict.decision.explanation(),
                ..Reply::new(Cause::PolicyDenied, "no policy allows this request")
            }),
        }
    }
}

/// What policies look at. `authority`: the host in lower case without final dots, and the port as a number.
pub(super) fn facts<'a>(
    downstream: &'a impl Downstream,
    request: RequestView<'a>,
    authority: &'a str,
    token: Option<&'a Claims>,
) -> Facts<'a> {
    Facts {
        caller: downstream.caller(),
        destination: downstream.destination(),
        port: downstream.port(),
        // What is read as HTTP was sent without TLS.
        sni: None,
        http: Some(HttpFacts { request, authority, token }),
    }
}
