//! The accounting of one request: made when it is read, told when its response has gone, or broke off,
//! whatever path it took.

use crate::reply::{Cause, Reply};
use crate::world::World;
use http::{HeaderName, HeaderValue, Method, Version};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

/// What is known of one request and its response.
#[derive(Debug)]
pub struct Exchange<W: World> {
    pub downstream: Arc<W::Downstream>,
    pub begun: Instant,
    pub method: Method,
    pub version: Version,
    pub authority: Option<http::uri::Authority>,
    /// Normalised, without query.
    pub path: String,
    pub grpc: bool,
    pub request_bytes: Arc<AtomicU64>,
    pub response_bytes: u64,
    /// 0 until there is a response.
    pub status: u16,
    pub grpc_status: Option<u16>,
    /// The route's resource name.
    pub route: Option<Arc<str>>,
    pub rule: Box<str>,
    /// The policy that decided.
    pub policy: Option<Arc<str>>,
    /// Policies that matched without deciding.
    pub reported: Vec<Arc<str>>,
    pub endpoint: Option<Arc<W::Endpoint>>,
    pub attempts: u32,
    /// Why it was not as the endpoint answered.
    pub cause: Option<Cause>,
    pub error: Option<String>,
    /// For the response's headers.
    pub(crate) added: Vec<(HeaderName, HeaderValue)>,
    pub(crate) world: Arc<W>,
}

impl<W: World> Exchange<W> {
    pub(crate) fn new(
        world: Arc<W>,
        downstream: Arc<W::Downstream>,
        method: Method,
        version: Version,
    ) -> Box<Self> {
        Box::new(Self {
            downstream,
            begun: Instant::now(),
            method,
            version,
            authority: None,
            path: String::new(),
            grpc: false,
            request_bytes: Arc::default(),
            response_bytes: 0,
            status: 0,
            grpc_status: None,
            route: None,
            rule: Box::default(),
            policy: None,
            reported: Vec::new(),
            endpoint: None,
            attempts: 0,
            cause: None,
            error: None,
            added: Vec::new(),
            world,
        })
    }

    pub fn request_bytes(&self) -> u64 {
        self.request_bytes.load(Relaxed)
    }

    /// The first cause stays: what follows is its consequence.
    pub(crate) fn fail(&mut self, cause: Cause, error: impl Into<String>) {
        if self.cause.is_none() {
            self.cause = Some(cause);
            self.error = Some(error.into());
        }
    }

    pub(crate) fn refuse(&mut self, reply: &Reply) {
        if let Some(policy) = &reply.policy {
            self.policy = Some(policy.clone());
        }
        self.fail(reply.cause, reply.message.clone());
    }
}

impl<W: World> Drop for Exchange<W> {
    fn drop(&mut self) {
        if self.status == 0 && self.cause.is_none() {
            self.cause = Some(Cause::ClientGone);
        }
        self.world.clone().finished(self);
    }
}
