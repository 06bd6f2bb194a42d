//! One request, from its headers to its response: admit, authenticate, ask others, authorize, route, filter, balance, attempt,
//! respond. [`Core::carry`] is the order; each stage has a file of its own.

mod attempts;
mod authorize;
mod budget;
mod externally;
mod filtering;
mod mirrors;
mod onward;
mod outgoing;
mod respond;
mod routing;

use crate::authentication::Authentication;
use crate::authorization::Policies;
use crate::balance::Balance;
use crate::body::{Ahead, Keeper, RequestBody, Room};
use crate::exchange::Exchange;
use crate::filters::Asked;
use crate::hygiene;
use crate::reply::Reply;
use crate::settings::Settings;
use crate::table::RouteTable;
use crate::upstream::{Pool, PoolLimits};
use crate::world::{Downstream, World};
use attempts::Prepared;
use budget::Budget;
use externally::Pending;
use filtering::Filtered;
use http::{Request, Response};
use hyper::body::Incoming;
use mirrors::Mirrors;
use outgoing::Message;
use parking_lot::RwLock;
use respond::Answer;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How often it is looked for what is no longer used.
const SWEEP: Duration = Duration::from_secs(5);

/// Everything that requests share.
#[derive(Debug)]
pub struct Core<W: World> {
    pub(crate) world: Arc<W>,
    pub routes: RouteTable,
    pub policies: Policies,
    pub authentication: Authentication,
    pub traffic: Balance<W>,
    settings: RwLock<Arc<Settings>>,
    pool: Pool<W::Key>,
    budget: Budget,
    keeper: Keeper,
    read_ahead: Room,
    mirrors: Mirrors,
    pub(crate) tasks: TaskTracker,
}

impl<W: World> Core<W> {
    /// `tasks`: connections to endpoints run there, until `closed`.
    pub fn new(
        world: Arc<W>,
        limits: PoolLimits,
        tasks: TaskTracker,
        closed: CancellationToken,
    ) -> Arc<Self> {
        Arc::new(Self {
            world,
            routes: RouteTable::default(),
            policies: Policies::default(),
            authentication: Authentication::default(),
            traffic: Balance::default(),
            settings: RwLock::default(),
            pool: Pool::new(limits, tasks.clone(), closed),
            budget: Budget::default(),
            keeper: Keeper::default(),
            read_ahead: Room::default(),
            mirrors: Mirrors::default(),
            tasks,
        })
    }

    pub fn settings(&self) -> Arc<Settings> {
        self.settings.read().clone()
    }

    pub fn set_settings(&self, settings: Settings) {
        *self.settings.write() = Arc::new(settings);
    }

    /// Closes connections to endpoints that are not used; runs for as long as the core is in use.
    pub async fn tend(&self) {
        let mut ticks = tokio::time::interval(SWEEP);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.pool.sweep();
            self.traffic.sweep();
        }
    }

    /// Answers one request.
    pub async fn handle(
        self: &Arc<Self>,
        mut request: Request<Incoming>,
        downstream: &Arc<W::Downstream>,
    ) -> Response<crate::body::ResponseBody<W>> {
        let upgraded = hyper::upgrade::on(&mut request);
        let (parts, body) = request.into_parts();
        let mut exchange =
            Exchange::new(self.world.clone(), downstream.clone(), parts.method.clone(), parts.version);
        let settings = self.settings();
        let answer = self.carry(parts, body, downstream, &settings, &mut exchange).await;
        let mut answer = answer.unwrap_or_else(|reply| refused(&reply, &mut exchange));
        for (name, value) in exchange.added.drain(..) {
            answer.headers_mut().append(name, value);
        }
        self.respond(answer, upgraded, settings.body_idle, exchange)
    }

    /// The stages of a request, in their order.
    async fn carry(
        self: &Arc<Self>,
        mut parts: http::request::Parts,
        mut body: Incoming,
        downstream: &Arc<W::Downstream>,
        settings: &Settings,
        exchange: &mut Exchange<W>,
    ) -> Result<Answer<W::Key>, Reply> {
        // Admit.
        exchange.grpc = hygiene::is_grpc(&parts.headers);
        let mut admitted = hygiene::admit(&mut parts, settings.paths, settings.header_limits())?;
        exchange.authority = Some(admitted.authority.clone());
        exchange.path.clone_from(&admitted.path);
        filtering::forwarded(&mut parts.headers, downstream.caller(), settings);
        let token =
            self.authentication.authenticate(downstream.scopes(), &mut parts.headers, &mut admitted)?;
        filtering::said_of_caller(&mut parts.headers, downstream.caller(), settings);
        let token = token.as_deref();
        let mut ahead = Ahead::new(&self.read_ahead);
        let pending =
            Pending { parts: &mut parts, admitted: &admitted, token, body: &mut body, ahead: &mut ahead };
        if let Some(refused) = self.authorize_externally(downstream, pending, settings, exchange).await? {
            return Ok(refused);
        }
        let view = admitted.view(&parts.method, &parts.headers, &**downstream);
        self.authorize(downstream, &admitted, view, token, exchange)?;
        let (rule, matched) = self.route(downstream, &view, exchange)?;
        let rule = rule.as_deref();
        let idle = rule.and_then(|rule| rule.timeouts.idle).unwrap_or(settings.body_idle);
        let count = exchange.request_bytes.clone();
        let body = RequestBody::new(body, ahead, count, settings.request_body_bytes, Some(idle));
        // Faults and other origins are the rule's first concern, and its last.
        let cors = rule.and_then(|rule| rule.cors.as_deref());
        let asked = cors.map_or(Asked::SameOrigin, |cors| cors.ask(&parts.method, &parts.headers));
        let mut answer = match asked {
            Asked::Answered(preflight) => return Ok(Answer::Own(*preflight)),
            _ => {
                let filtered = Filtered::begin(parts, &admitted)?;
                let sent = self.forward(filtered, rule, &matched, body, downstream, exchange).await;
                sent.unwrap_or_else(|reply| refused(&reply, exchange))
            }
        };
        if let Some(cors) = cors {
            cors.on_response(&asked, answer.headers_mut());
        }
        Ok(answer)
    }

    /// From a rule to the response's headers.
    async fn forward(
        self: &Arc<Self>,
        mut filtered: Filtered<'_>,
        rule: Option<&crate::route::Rule>,
        matched: &crate::matcher::PathMatch,
        body: RequestBody,
        downstream: &Arc<W::Downstream>,
        exchange: &mut Exchange<W>,
    ) -> Result<Answer<W::Key>, Reply> {
        if let Some(fault) = rule.and_then(|rule| rule.fault.as_deref()) {
            filtering::befall(fault, &mut filtered.headers).await?;
        }
        if let Some(rule) = rule
            && let Some(answer) = filtered.apply(&rule.filters, matched)?
        {
            return Ok(Answer::Own(answer));
        }
        let backend = match rule {
            Some(rule) => routing::backend(rule)?,
            None => None,
        };
        let destination = routing::destination(backend)?;
        let of_backend = backend.map_or(&[][..], |backend| &backend.filters);
        if let Some(answer) = filtered.apply(of_backend, matched)? {
            return Ok(Answer::Own(answer));
        }
        let Filtered { method, headers, outgoing, upgrade, query, .. } = filtered;
        let reported = self.authorize_onward(downstream, destination.wanted, &method, &headers, &outgoing)?;
        exchange.reported.extend(reported);
        let mut message = Message { method, headers, outgoing, body, upgrade };
        let mirrors = rule.map_or(&[][..], |rule| &rule.mirrors).iter();
        for mirror in mirrors.chain(backend.map_or(&[][..], |backend| &backend.mirrors)) {
            self.mirror(mirror, &mut message, downstream);
        }
        let upgrade = message.upgrade.clone();
        let timeouts = rule.map(|rule| rule.timeouts).unwrap_or_default();
        let retry = rule.and_then(|rule| rule.retry.as_ref());
        let prepared = Prepared { message, destination, query, retry, timeouts };
        let mut sent = self.send(downstream, prepared, exchange).await?;
        respond::clean(&mut sent.response, upgrade.as_ref());
        respond::change(&mut sent, of_backend, rule.map_or(&[][..], |rule| &rule.filters));
        Ok(Answer::Upstream { sent, timeouts })
    }
}

/// The answer in place of the endpoint's; its cause is known to the exchange.
fn refused<W: World>(reply: &Reply, exchange: &mut Exchange<W>) -> Answer<W::Key> {
    exchange.refuse(reply);
    Answer::Own(reply.response(exchange.grpc))
}
