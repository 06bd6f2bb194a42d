//! What the core needs from whoever runs it: endpoints, connections to them, and an ear for what was done.

use crate::authorization::{Caller, Scope};
use crate::exchange::Exchange;
use crate::reply::{Cause, Reply};
use crate::route::Parent;
use meltemi_types::ServiceKey;
use std::hash::Hash;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};

/// A connection of a client's, as far as its requests are concerned.
pub trait Downstream: Send + Sync + 'static {
    fn caller(&self) -> &Caller;
    /// What the client connected to.
    fn parent(&self) -> &Parent;
    fn port(&self) -> u16;
    /// Policies of these apply.
    fn scopes(&self) -> &[Scope];
}

/// Where an attempt goes.
#[derive(Debug)]
pub struct Picked<W: World> {
    pub endpoint: Arc<W::Endpoint>,
    /// Connections are shared between endpoints that have the same.
    pub key: W::Key,
    /// HTTP/2 with prior knowledge is spoken.
    pub http2: bool,
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
        Self { cause: error.cause, policy: error.policy, message: error.message }
    }
}

pub trait World: Send + Sync + Sized + std::fmt::Debug + 'static {
    type Downstream: Downstream + std::fmt::Debug;
    type Endpoint: Send + Sync + std::fmt::Debug + 'static;
    type Key: Hash + Eq + Clone + Send + Sync + std::fmt::Debug + 'static;
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Chooses an endpoint, and judges whether the caller may reach it.
    fn pick(
        &self,
        downstream: &Self::Downstream,
        wanted: Wanted<'_>,
    ) -> impl Future<Output = Result<Picked<Self>, UpstreamError>> + Send;

    /// Connects. Bounded in time by the implementation.
    fn connect(
        &self,
        endpoint: &Self::Endpoint,
    ) -> impl Future<Output = Result<Self::Io, UpstreamError>> + Send;

    /// An attempt ended: with an answer (of whatever status), or without.
    fn reached(&self, endpoint: &Self::Endpoint, answered: bool);

    /// Called once for every request, when it is over.
    fn finished(&self, exchange: &Exchange<Self>);
}
