//! What the HTTP core asks of the waypoint.
use super::Waypoint;
use super::endpoint::{Endpoint, Io};
use super::records;
use http::HeaderValue;
use meltemi_http::authorization::{Caller, Scope};
use meltemi_http::route::Parent;
use meltemi_http::{Downstream, Exchange, Picked, UpstreamError, Wanted, World};
use meltemi_state::{ConnectOutcome, Service, Workload};
use meltemi_types::Identity;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

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
    /// `:authority` of the CONNECT.
    pub(crate) authority: Arc<str>,
    pub(crate) asked_ip: IpAddr,
    pub(crate) port: u16,
    /// What was asked for: one of both.
    pub(crate) service: Option<Arc<Service>>,
    pub(crate) workload: Option<Arc<Workload>>,
    pub(crate) parent: Parent,
    pub(crate) scopes: Box<[Scope]>,
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
    own: Arc<Workload>,
}

/// The workload's uid and its address: one that comes back under a recycled address meets no old connection.
type Key = (Arc<str>, SocketAddr, bool);

impl World for Waypoint {
    type Downstream = Client;
    type Endpoint = HttpEndpoint;
    type Key = Key;
    type Io = Io;

    async fn pick(&self, client: &Client, wanted: Wanted<'_>) -> Result<Picked<Self>, UpstreamError> {
        let endpoint = self.endpoint(client, wanted, &[]).await?;
        let http2 = match wanted {
            Wanted::Parent => client.http2_backend,
            Wanted::Service { service, port } => self.speaks_http2(service.as_str(), port, &endpoint),
        };
        let key = (endpoint.workload.uid.text().clone(), endpoint.address, http2);
        let endpoint = Arc::new(HttpEndpoint { endpoint, own: client.own.clone() });
        Ok(Picked { endpoint, key, http2 })
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

    fn finished(&self, exchange: &Exchange<Self>) {
        records::request(self, exchange);
    }
}

impl Waypoint {
    /// Of a backend: as it is served here, else as its own port says.
    fn speaks_http2(&self, service: &str, port: u16, endpoint: &Endpoint) -> bool {
        use super::served::Reading;
        use meltemi_state::AppProtocol;
        if let Some(Reading::Http { http2_backend, .. }) =
            self.served.get(service).and_then(|served| served.reading(port))
        {
            return http2_backend;
        }
        let mapping = endpoint.service.as_ref().and_then(|service| service.port(port).copied());
        mapping.is_some_and(|port| matches!(port.app_protocol, AppProtocol::Http2 | AppProtocol::Grpc))
    }
}
