//! Asks the external authorizers of CUSTOM policies, and does what they say.

use super::Core;
use super::attempts::{of_answer, of_failure};
use super::filtering::said_of_caller;
use super::outgoing::{unwritten, written};
use super::respond::Answer;
use crate::authentication::Claims;
use crate::authorization::Policy;
use crate::balance::{Choice, HashInput};
use crate::body::{Ahead, AheadError, RequestBody};
use crate::exchange::Exchange;
use crate::external::{self, Authorizer, Question, Response as Said};
use crate::filters::Outgoing;
use crate::hygiene::Admitted;
use crate::reply::{Cause, Reply};
use crate::settings::Settings;
use crate::upstream::Lease;
use crate::world::{Downstream, UpstreamError, Wanted, World};
use bytes::{Bytes, BytesMut};
use http::Response;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use std::collections::HashSet;
use std::sync::Arc;

/// Endpoints of an authorizer that are tried.
const ENDPOINTS: usize = 3;
/// Of an authorizer's answer.
const LARGEST_ANSWER: usize = 1 << 20;

/// A request while it is asked about.
pub(super) struct Pending<'a> {
    pub(super) parts: &'a mut http::request::Parts,
    pub(super) admitted: &'a Admitted,
    pub(super) token: Option<&'a Claims>,
    pub(super) body: &'a mut Incoming,
    /// What was read of the body.
    pub(super) ahead: &'a mut Ahead,
}

impl<W: World> Core<W> {
    /// Asks about a request, if policies want that. An answer where somebody refuses it.
    ///
    /// # Errors
    /// The answer to a request that nobody could be asked about.
    pub(super) async fn authorize_externally(
        &self,
        downstream: &Arc<W::Downstream>,
        mut pending: Pending<'_>,
        settings: &Settings,
        exchange: &mut Exchange<W>,
    ) -> Result<Option<Answer<W::Key>>, Reply> {
        let mut policies = {
            let view = pending.admitted.view(&pending.parts.method, &pending.parts.headers, &**downstream);
            let authority = &pending.admitted.host_port;
            let facts = super::authorize::facts(&**downstream, view, authority, pending.token);
            self.policies.to_be_asked(downstream.scopes(), &facts)
        };
        if policies.is_empty() {
            return Ok(None);
        }
        policies.sort_by(|a, b| provider(a).cmp(&provider(b)));
        let mut asked = HashSet::new();
        for policy in &policies {
            let Some(authorizer) = &policy.external else {
                return Err(because(
                    policy,
                    Reply::new(Cause::PolicyDenied, "its extension provider is not known"),
                ));
            };
            if !asked.insert(authorizer.provider().to_owned()) {
                continue;
            }
            let said = self.ask(authorizer, downstream, &mut pending, settings).await;
            match said.map_err(|reply| because(policy, reply))? {
                Ok(Said::Allowed(changes)) => {
                    exchange.added.extend(changes.response.iter().cloned());
                    changes.apply(&mut pending.parts.headers);
                    said_of_caller(&mut pending.parts.headers, downstream.caller(), settings);
                }
                Ok(Said::Denied(denial)) => {
                    let mut reply =
                        because(policy, Reply::new(Cause::ExternalDenied, "the authorizer said no"));
                    reply.status = Some(denial.status);
                    exchange.refuse(&reply);
                    let answer = reply.response(exchange.grpc);
                    return Ok(Some(Answer::Own(denial.onto(answer, exchange.grpc))));
                }
                Err(problem) if authorizer.fails_open() => {
                    tracing::debug!(
                        provider = authorizer.provider(),
                        problem,
                        "authorizer failed, request let through"
                    );
                }
                Err(problem) => {
                    let reply =
                        Reply::new(Cause::ExternalFailed, format!("{}: {problem}", authorizer.provider()));
                    let mut reply = because(policy, reply);
                    reply.status = Some(authorizer.status_on_error());
                    return Err(reply);
                }
            }
        }
        Ok(None)
    }

    /// The outer error is the client's own, the inner one a failure of the authorizer's.
    async fn ask(
        &self,
        authorizer: &Authorizer,
        downstream: &Arc<W::Downstream>,
        pending: &mut Pending<'_>,
        settings: &Settings,
    ) -> Result<Result<Said, String>, Reply> {
        let body = match authorizer.body_limit() {
            Some((limit, partial)) => Some(pending.read_ahead(limit, partial, settings).await?),
            None => None,
        };
        let Pending { parts, admitted, .. } = pending;
        let question = authorizer.question(&external::About {
            caller: downstream.caller(),
            destination: downstream.destination(),
            port: downstream.port(),
            method: &parts.method,
            version: parts.version,
            admitted,
            headers: &parts.headers,
            body: body.as_ref(),
        });
        let question = match question {
            Ok(question) => question,
            Err(problem) => return Ok(Err(problem)),
        };
        let answered =
            tokio::time::timeout(authorizer.timeout(), self.answer(authorizer, downstream, question));
        Ok(answered
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {} ms", authorizer.timeout().as_millis()))))
    }

    async fn answer(
        &self,
        authorizer: &Authorizer,
        downstream: &Arc<W::Downstream>,
        question: Question,
    ) -> Result<Said, String> {
        let (response, lease) =
            self.put(authorizer, downstream, question).await.map_err(|error| error.message)?;
        let (parts, mut incoming) = response.into_parts();
        let mut bytes = BytesMut::new();
        let mut trailers = None;
        while let Some(frame) = incoming.frame().await {
            let frame = frame.map_err(|error| format!("its answer broke off: {error}"))?;
            match frame.into_data() {
                Ok(data) if bytes.len() + data.len() > LARGEST_ANSWER => {
                    return Err("its answer is too large".to_owned());
                }
                Ok(data) => bytes.extend_from_slice(&data),
                Err(frame) => trailers = frame.into_trailers().ok(),
            }
        }
        lease.give_back();
        authorizer.answer(&parts, trailers.as_ref(), bytes.freeze())
    }

    /// Sends the question, to another endpoint where one cannot be reached. The waypoint asks on its own behalf:
    /// the policies of the authorizer's endpoints judge it, not the client.
    async fn put(
        &self,
        authorizer: &Authorizer,
        downstream: &Arc<W::Downstream>,
        question: Question,
    ) -> Result<(Response<Incoming>, Lease<W::Key>), UpstreamError> {
        let (service, port) = authorizer.service();
        let Question { method, mut headers, target, authority, body, http2 } = question;
        let outgoing = Outgoing { target, authority };
        let mut tried = Vec::new();
        loop {
            let candidates = self.world.candidates(downstream, Wanted::Service { service, port }).await?;
            let source_ip = downstream.caller().source_ip;
            let input = HashInput { headers: &headers, query: None, source_ip };
            let (mut picked, watch, _) =
                self.traffic.choose(&candidates, Choice { subset: None, input, tried: &tried })?;
            picked.http2 |= http2;
            let body = RequestBody::full(body.clone());
            let request = written(&method, headers, body, &outgoing, picked.http2, None);
            let sent = self.pool.send(&*self.world, picked, request).await;
            let health = match &sent {
                Ok((response, _)) => Some(of_answer(response)),
                Err(failed) => of_failure(failed),
            };
            self.learn(&watch, health);
            match sent {
                Ok(answered) => return Ok(answered),
                Err(failed) => match failed.unsent {
                    Some(request) if failed.error.another && tried.len() + 1 < ENDPOINTS => {
                        tried.push(watch.key);
                        headers = unwritten(*request).0;
                    }
                    _ => return Err(failed.error),
                },
            }
        }
    }
}

fn provider(policy: &Policy) -> Option<&str> {
    policy.external.as_ref().map(|authorizer| authorizer.provider())
}

fn because(policy: &Policy, mut reply: Reply) -> Reply {
    reply.policy = Some(policy.key.text().clone());
    reply
}

impl Pending<'_> {
    /// The begin of the body, as far as `limit` bytes, and whether there is more. It stays to be sent on.
    async fn read_ahead(
        &mut self,
        limit: usize,
        partial: bool,
        settings: &Settings,
    ) -> Result<(Bytes, bool), Reply> {
        let read = self.ahead.read(self.body, limit, settings.body_idle).await;
        read.map_err(|error| {
            let cause = match &error {
                AheadError::Idle | AheadError::Http(_) => Cause::ClientGone,
                AheadError::Full => Cause::Overloaded,
            };
            Reply::new(cause, error.to_string())
        })?;
        let mut bytes = self.ahead.data().clone();
        let more = bytes.len() > limit;
        if more && !partial {
            return Err(Reply::new(
                Cause::BodyTooLarge,
                format!("an authorizer takes at most {limit} bytes"),
            ));
        }
        bytes.truncate(limit);
        Ok((bytes, more))
    }
}
