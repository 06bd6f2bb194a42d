//! One request, from its headers to its response.

mod attempts;

use crate::authorization::{Facts, HttpFacts, Policies};
use crate::body::{RequestBody, ResponseBody, grpc_status};
use crate::exchange::Exchange;
use crate::filters::{self, Filter, Outgoing, Seen, Step};
use crate::hygiene::{self, Admitted};
use crate::matcher::{PathMatch, RequestView};
use crate::reply::{Cause, REFUSED, Reply};
use crate::route::{Action, Rule, Target, Timeouts};
use crate::settings::Settings;
use crate::table::{Found, RouteTable};
use crate::upstream::{Lease, Pool, PoolLimits};
use crate::world::{Downstream, Wanted, World};
use attempts::Budget;
use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue, LOCATION};
use http::uri::PathAndQuery;
use http::{Request, Response, Version};
use hyper::body::Incoming;
use parking_lot::RwLock;
use std::sync::Arc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Everything that requests share.
#[derive(Debug)]
pub struct Core<W: World> {
    pub(crate) world: Arc<W>,
    pub routes: RouteTable,
    pub policies: Policies,
    settings: RwLock<Arc<Settings>>,
    pool: Pool<W::Key>,
    budget: Budget,
    pub(crate) tasks: TaskTracker,
}

/// What a request is answered with.
enum Answer<K: std::hash::Hash + Eq> {
    Own(Response<Bytes>),
    Upstream { response: Response<Incoming>, lease: Lease<K>, deadline: Option<Instant>, timeouts: Timeouts },
}

/// A request on its way out, before it is written for one protocol or the other.
struct Prepared<'a> {
    method: http::Method,
    headers: HeaderMap,
    outgoing: Outgoing,
    body: RequestBody,
    wanted: Wanted<'a>,
    rule: Option<&'a Rule>,
    timeouts: Timeouts,
    upgrade: Option<HeaderValue>,
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
            settings: RwLock::default(),
            pool: Pool::new(limits, tasks.clone(), closed),
            budget: Budget::default(),
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
        let mut ticks = tokio::time::interval(self.pool.idle() / 2);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.pool.sweep();
        }
    }

    /// Answers one request.
    pub async fn handle(
        &self,
        mut request: Request<Incoming>,
        downstream: &Arc<W::Downstream>,
    ) -> Response<ResponseBody<W>> {
        let upgraded = hyper::upgrade::on(&mut request);
        let (parts, body) = request.into_parts();
        let mut exchange =
            Exchange::new(self.world.clone(), downstream.clone(), parts.method.clone(), parts.version);
        let settings = self.settings();
        let answer = self.carry(parts, body, downstream, &settings, &mut exchange).await;
        let answer = answer.unwrap_or_else(|reply| {
            exchange.refuse(&reply);
            Answer::Own(reply.response(exchange.grpc))
        });
        match answer {
            Answer::Own(response) => {
                let (parts, bytes) = response.into_parts();
                exchange.status = parts.status.as_u16();
                exchange.grpc_status = exchange.grpc_status.or(grpc_status(&parts.headers));
                Response::from_parts(parts, ResponseBody::full(bytes, exchange))
            }
            Answer::Upstream { mut response, lease, deadline, timeouts } => {
                exchange.status = response.status().as_u16();
                exchange.grpc_status = grpc_status(response.headers());
                if response.status() == http::StatusCode::SWITCHING_PROTOCOLS {
                    let upstream = hyper::upgrade::on(&mut response);
                    let (parts, _) = response.into_parts();
                    self.tasks.spawn(switched(upgraded, upstream, lease));
                    return Response::from_parts(parts, ResponseBody::full(Bytes::new(), exchange));
                }
                let idle = timeouts.idle.unwrap_or(settings.body_idle);
                response.map(|body| ResponseBody::incoming(body, exchange, lease, deadline, Some(idle)))
            }
        }
    }

    async fn carry(
        &self,
        mut parts: http::request::Parts,
        body: Incoming,
        downstream: &Arc<W::Downstream>,
        settings: &Settings,
        exchange: &mut Exchange<W>,
    ) -> Result<Answer<W::Key>, Reply> {
        exchange.grpc = hygiene::is_grpc(&parts.headers);
        let admitted = hygiene::admit(&mut parts, settings.paths, settings.header_limits())?;
        exchange.authority = Some(admitted.authority.clone());
        exchange.path.clone_from(&admitted.path);
        let caller = downstream.caller();
        let view = RequestView {
            host: &admitted.host,
            path: &admitted.path,
            query: admitted.query.as_deref(),
            method: &parts.method,
            scheme: "http",
            headers: &parts.headers,
            source_namespace: caller.identity.as_ref().map_or("", |identity| identity.namespace()),
            port: downstream.port(),
        };
        self.authorize(downstream, &admitted, view, exchange)?;
        let (rule, matched) = match self.routes.find(downstream.parent(), &view) {
            Found::NoRoutes => (None, PathMatch::Any),
            Found::NotReceived => {
                return Err(Reply::new(Cause::NoEndpoint, "the routes have not been received yet"));
            }
            Found::Rule { rule, path } => (Some(rule), path),
            Found::NoMatch => return Err(Reply::new(Cause::NoRoute, "no route's rule is for this request")),
            Found::Broken => {
                return Err(Reply::new(
                    Cause::InvalidRoute,
                    "a route that may be for this request was refused",
                ));
            }
        };
        let rule = rule.as_deref();
        if let Some(rule) = rule {
            exchange.route = Some(rule.route.clone());
            exchange.rule.clone_from(&rule.name);
        }
        let seen = Seen {
            scheme: "http",
            host: &admitted.host,
            port: admitted.authority.port_u16().unwrap_or(80),
            path: &admitted.path,
            query: admitted.query.as_deref(),
        };
        let mut outgoing = Outgoing { target: target(&admitted)?, authority: admitted.authority.clone() };
        let mut headers = std::mem::take(&mut parts.headers);
        forwarded(&mut headers, caller, settings);
        if let Some(rule) = rule
            && let Some(answer) = apply(&rule.filters, &seen, &matched, &mut headers, &mut outgoing)?
        {
            return Ok(Answer::Own(answer));
        }
        let backend = match rule.map(|rule| &rule.action) {
            None | Some(Action::Parent) => None,
            Some(Action::Invalid(problem)) => return Err(Reply::new(Cause::InvalidRoute, &**problem)),
            Some(Action::Backends(backends)) => {
                let chosen = backends.choose(&mut rand::rng());
                Some(chosen.ok_or_else(|| Reply::new(Cause::InvalidRoute, "the rule has no backend"))?)
            }
        };
        let wanted = match backend.map(|backend| &backend.target) {
            None => Wanted::Parent,
            Some(Target::Service { service, port }) => Wanted::Service { service, port: *port },
            Some(Target::Invalid(problem)) => return Err(Reply::new(Cause::InvalidRoute, &**problem)),
        };
        let of_backend: &[Filter] = backend.map_or(&[], |backend| &backend.filters);
        if let Some(answer) = apply(of_backend, &seen, &matched, &mut headers, &mut outgoing)? {
            return Ok(Answer::Own(answer));
        }
        let timeouts = rule.map(|rule| rule.timeouts).unwrap_or_default();
        let idle = timeouts.idle.unwrap_or(settings.body_idle);
        let count = exchange.request_bytes.clone();
        let prepared = Prepared {
            method: parts.method,
            headers,
            outgoing,
            body: RequestBody::new(body, count, settings.request_body_bytes, Some(idle)),
            wanted,
            rule,
            timeouts,
            upgrade: admitted.upgrade,
        };
        let upgrade = prepared.upgrade.clone();
        let (mut response, lease, deadline) = self.send(downstream, prepared, exchange).await?;
        clean_response(&mut response, upgrade.as_ref());
        filters::on_response(of_backend, response.headers_mut());
        if let Some(rule) = rule {
            filters::on_response(&rule.filters, response.headers_mut());
        }
        Ok(Answer::Upstream { response, lease, deadline, timeouts })
    }

    fn authorize(
        &self,
        downstream: &Arc<W::Downstream>,
        admitted: &Admitted,
        request: RequestView<'_>,
        exchange: &mut Exchange<W>,
    ) -> Result<(), Reply> {
        let authority = admitted.authority.as_str().to_ascii_lowercase();
        let http = Some(HttpFacts { request, authority: &authority });
        let facts = Facts { caller: downstream.caller(), port: downstream.port(), http };
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

/// The normalised path: what policy judged is what the backend is asked for.
fn target(admitted: &Admitted) -> Result<PathAndQuery, Reply> {
    let target = match &admitted.query {
        Some(query) => format!("{}?{query}", admitted.path).parse(),
        None => admitted.path.parse(),
    };
    target.map_err(|_| Reply::new(Cause::BadRequest, "the path cannot be sent on"))
}

/// Who asked, as far as this proxy knows.
fn forwarded(headers: &mut HeaderMap, caller: &crate::authorization::Caller, settings: &Settings) {
    let before = crate::matcher::joined(headers, &FORWARDED_FOR);
    let mut chain = before.map(|value| value.into_owned()).unwrap_or_default();
    if !chain.is_empty() {
        chain.extend_from_slice(b", ");
    }
    chain.extend_from_slice(caller.source_ip.to_string().as_bytes());
    if let Ok(value) = HeaderValue::from_bytes(&chain) {
        headers.insert(FORWARDED_FOR, value);
    }
    headers.entry(FORWARDED_PROTO).or_insert(HeaderValue::from_static("http"));
    if !headers.contains_key(REQUEST_ID)
        && let Ok(id) = HeaderValue::from_str(&format!("{:032x}", rand::random::<u128>()))
    {
        headers.insert(REQUEST_ID, id);
    }
    if let Some(name) = &settings.caller_header {
        headers.remove(name);
        let uri = caller.identity.as_ref().and_then(|identity| HeaderValue::from_str(identity.uri()).ok());
        if let Some(uri) = uri {
            headers.insert(name.clone(), uri);
        }
    }
}

/// Filters of a rule or of a backend; an answer where one of them gives it.
fn apply(
    list: &[Filter],
    seen: &Seen<'_>,
    matched: &PathMatch,
    headers: &mut HeaderMap,
    outgoing: &mut Outgoing,
) -> Result<Option<Response<Bytes>>, Reply> {
    match filters::on_request(list, seen, matched, headers, outgoing) {
        Step::Go => Ok(None),
        Step::Broken(problem) => Err(Reply::new(Cause::InvalidRoute, problem)),
        Step::Answer { status, location, body, content_type } => {
            let mut response = Response::new(body);
            *response.status_mut() = status;
            if let Some(location) = location {
                response.headers_mut().insert(LOCATION, location);
            }
            if let Some(content_type) = content_type {
                response.headers_mut().insert(http::header::CONTENT_TYPE, content_type.clone());
            }
            filters::on_response(list, response.headers_mut());
            Ok(Some(response))
        }
    }
}

fn clean_response(response: &mut Response<Incoming>, upgrade: Option<&HeaderValue>) {
    let switched = response.status() == http::StatusCode::SWITCHING_PROTOCOLS && upgrade.is_some();
    let protocol = response.headers().get(http::header::UPGRADE).cloned();
    hygiene::remove_connections_own(response.headers_mut());
    // Only this proxy explains its own refusals.
    response.headers_mut().remove(REFUSED);
    if let (true, Some(protocol)) = (switched, protocol) {
        let headers = response.headers_mut();
        headers.insert(http::header::UPGRADE, protocol);
        headers.insert(http::header::CONNECTION, HeaderValue::from_static("upgrade"));
    }
    *response.version_mut() = Version::HTTP_11;
    response.extensions_mut().remove::<hyper::ext::ReasonPhrase>();
}

/// After 101: bytes, until both sides have ended. The connection is not used for requests again.
async fn switched<K: std::hash::Hash + Eq>(
    downstream: hyper::upgrade::OnUpgrade,
    upstream: hyper::upgrade::OnUpgrade,
    lease: Lease<K>,
) {
    if let (Ok(downstream), Ok(upstream)) = tokio::join!(downstream, upstream) {
        let mut downstream = hyper_util::rt::TokioIo::new(downstream);
        let mut upstream = hyper_util::rt::TokioIo::new(upstream);
        let relayed = tokio::io::copy_bidirectional(&mut downstream, &mut upstream).await;
        if let Err(error) = relayed {
            tracing::debug!(%error, "upgraded connection broke off");
        }
    }
    drop(lease);
}
