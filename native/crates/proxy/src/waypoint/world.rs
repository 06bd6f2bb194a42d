//! What the HTTP core asks of the waypoint.
use super::Waypoint;
use super::endpoint::{Endpoint, Io};
use super::records;
use http::HeaderValue;
use meltemi_http::authorization::{Caller, Scope};
use meltemi_http::route::Parent;
use meltemi_http::{Candidates, Downstream, Exchange, Mirrored, UpstreamError, Wanted, World};
use meltemi_state::{ConnectOutcome, Service, Workload};
use meltemi_telemetry::WorkloadLabels;
use meltemi_types::Identity;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use tokio::time::Instant;

/// A connection to the waypoint: who makes it, and to what.
#[derive(Debug)]
pub(crate) struct Client {
    /// As its tunnel proves; the port as its node says.
    pub(crate) address: SocketAddr,
    pub(crate) identity: Identity,
    pub(crate) caller: Caller,
    /// What its node says of it, to be handed on.
    pub(crate) baggage: Option<HeaderValue>,
    /// The caller's workload, where it is known here.
    pub(crate) source: Option<Arc<Workload>>,
    /// Of records and metrics: the same for all that the connection carries.
    pub(crate) source_labels: Option<Arc<WorkloadLabels>>,
    /// `:authority` of the CONNECT.
    pub(crate) authority: Arc<str>,
    pub(crate) asked_ip: IpAddr,
    pub(crate) port: u16,
    /// What was asked for: one of both.
    pub(crate) service: Option<Arc<Service>>,
    pub(crate) workload: Option<Arc<Workload>>,
    pub(crate) parent: Parent,
    pub(crate) scopes: Box<[Scope]>,
    /// The workload, as the one place that requests may go to.
    pub(crate) itself: OnceLock<Arc<Candidates<Waypoint>>>,
    /// Endpoints are spoken to by HTTP/2.
    pub(crate) http2_backend: bool,
    /// The waypoint's own workload.
    pub(crate) own: Arc<Workload>,
}

impl Client {
    pub(crate) fn caller_ip(&self) -> IpAddr {
        self.address.ip()
    }
}

impl Downstream for Client {
    fn caller(&self) -> &Caller {
        &self.caller
    }
    fn parent(&self) -> &Parent {
        &self.parent
    }
    fn destination(&self) -> IpAddr {
        self.asked_ip
    }
    fn port(&self) -> u16 {
        self.port
    }
    fn scopes(&self) -> &[Scope] {
        &self.scopes
    }
}

/// An endpoint as requests share connections to it.
#[derive(Debug)]
pub(crate) struct HttpEndpoint {
    pub(crate) endpoint: Endpoint,
    /// The waypoint's own workload.
    pub(crate) own: Arc<Workload>,
}

/// The workload's uid and its address: one that comes back under a recycled address meets no old connection.
pub(crate) type Key = (Arc<str>, SocketAddr, bool);

impl World for Waypoint {
    type Downstream = Client;
    type Endpoint = HttpEndpoint;
    type Key = Key;
    type Io = Io;

    async fn candidates(
        &self,
        client: &Client,
        wanted: Wanted<'_>,
    ) -> Result<Arc<Candidates<Self>>, UpstreamError> {
        Ok(self.candidates_for(client, wanted).await?)
    }

    async fn permit(&self, client: &Client, http: &HttpEndpoint) -> Result<(), UpstreamError> {
        let deadline = Instant::now() + self.settings.connect_timeout;
        Ok(self.judge(client, &http.endpoint, deadline).await?)
    }

    async fn connect(&self, http: &HttpEndpoint) -> Result<Io, UpstreamError> {
        Ok(self.reach(&http.endpoint, &http.own, None).await?)
    }

    fn reached(&self, http: &HttpEndpoint, answered: bool) {
        let Endpoint { workload, address, alternatives, .. } = &http.endpoint;
        if *alternatives {
            let outcome = if answered { ConnectOutcome::Connected } else { ConnectOutcome::Failed };
            self.mesh.report(&workload.uid, address.port(), outcome);
        }
    }

    fn mirrored(&self, outcome: Mirrored) {
        self.telemetry.metrics().mirrored_request(outcome.as_str());
    }

    fn finished(&self, exchange: &Exchange<Self>) {
        records::request(self, exchange);
    }
}
