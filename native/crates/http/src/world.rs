//! What the core needs from whoever runs it: endpoints, connections to them, and an ear for what was done.

use crate::authorization::{Caller, Scope};
use crate::exchange::Exchange;
use crate::reply::{Cause, Reply};
use crate::route::Parent;
use meltemi_types::ServiceKey;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};

/// A connection of a client's, as far as its requests are concerned.
pub trait Downstream: Send + Sync + 'static {
    fn caller(&self) -> &Caller;
    /// What the client connected to.
    fn parent(&self) -> &Parent;
    /// The address of that.
    fn destination(&self) -> IpAddr;
    fn port(&self) -> u16;
    /// Policies of these apply.
    fn scopes(&self) -> &[Scope];
}

/// What a request is sent to.
#[derive(Debug, Clone, Copy)]
pub enum Wanted<'a> {
    /// What the client connected to.
    Parent,
    Service {
        service: &'a ServiceKey,
        port: u16,
    },
}

/// An endpoint that a request may go to.
#[derive(Debug)]
pub struct Candidate<W: World> {
    pub endpoint: Arc<W::Endpoint>,
    /// Connections are shared between endpoints that have the same.
    pub key: W::Key,
    /// The workload's uid: what subsets list, and what a consistent hash is of.
    pub uid: Arc<str>,
    /// 1 where nothing else is said; not 0.
    pub weight: u32,
    /// How far behind the nearest ones: 0 for these.
    pub steps: u32,
}

/// Where a request may go. The same set is the same `Arc` for as long as nothing has changed.
#[derive(Debug)]
pub struct Candidates<W: World> {
    /// Whose endpoints they are. `None`: there is no choice to make.
    pub service: Option<ServiceKey>,
    /// The same for a set and the one that comes in its place.
    pub slot: u64,
    /// The nearest first; not empty.
    pub list: Box<[Candidate<W>]>,
    /// HTTP/2 with prior knowledge is spoken.
    pub http2: bool,
    /// Requests of one client address go to one endpoint, where no policy says more.
    pub sticky: bool,
}

/// What became of a copy of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mirrored {
    /// It was answered, whatever with.
    Answered,
    /// Nobody took it.
    Failed,
    /// It fell behind the original, or too many are under way.
    Dropped,
}

impl Mirrored {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Failed => "failed",
            Self::Dropped => "dropped",
        }
    }
}

/// Why an endpoint cannot be had.
#[derive(Debug, Clone)]
pub struct UpstreamError {
    pub cause: Cause,
    pub message: String,
    pub policy: Option<Arc<str>>,
    /// Another endpoint may do better.
    pub another: bool,
}

impl From<UpstreamError> for Reply {
    fn from(error: UpstreamError) -> Self {
        Self { policy: error.policy, ..Self::new(error.cause, error.message) }
    }
}

pub trait World: Send + Sync + Sized + std::fmt::Debug + 'static {
    type Downstream: Downstream + std::fmt::Debug;
    type Endpoint: Send + Sync + std::fmt::Debug + 'static;
    type Key: Hash + Eq + Clone + Send + Sync + std::fmt::Debug + 'static;
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Where a request may go, as far as endpoints are known and near enough.
    fn candidates(
        &self,
        downstream: &Self::Downstream,
        wanted: Wanted<'_>,
    ) -> impl Future<Output = Result<Arc<Candidates<Self>>, UpstreamError>> + Send;

    /// Judges whether the caller may reach the endpoint.
    fn permit(
        &self,
        downstream: &Self::Downstream,
        endpoint: &Self::Endpoint,
    ) -> impl Future<Output = Result<(), UpstreamError>> + Send;

    /// Connects. Bounded in time by the implementation.
    fn connect(
        &self,
        endpoint: &Self::Endpoint,
    ) -> impl Future<Output = Result<Self::Io, UpstreamError>> + Send;

    /// An attempt ended: with an answer (of whatever status), or without.
    fn reached(&self, endpoint: &Self::Endpoint, answered: bool);

    /// A copy of a request was sent, or not.
    fn mirrored(&self, outcome: Mirrored) {
        let _ = outcome;
    }

    /// Called once for every request, when it is over.
    fn finished(&self, exchange: &Exchange<Self>);
}
