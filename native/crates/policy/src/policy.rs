//! The compiled form of a policy.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use meltemi_types::{Cidr, ClientAddress, Identity, PolicyKey};
use serde::Serialize;

/// Where a policy applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Every workload of the mesh.
    Global,
    /// Every workload of the policy's namespace.
    Namespace,
    /// The workloads that name it.
    Selector,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    Allow,
    Deny,
    /// Never decides; its matches are reported.
    Audit,
}

/// A policy matches when any rule does, a rule when all of its clauses do, a clause when any of its
/// matches does. No rules: never. A rule without clauses, a clause without matches: always.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Policy {
    pub key: PolicyKey,
    pub scope: Scope,
    pub action: Action,
    /// Would decide, but is only tried out: its matches are reported.
    pub dry_run: bool,
    pub rules: Box<[Rule]>,
    /// The user's object it came from, `KIND/NAMESPACE/NAME`; empty where the source did not tell.
    pub source_object: Arc<str>,
}

impl Policy {
    /// Whether the policy takes part in the decision.
    pub fn decides(&self) -> bool {
        !self.dry_run && self.action != Action::Audit
    }
}

/// All clauses must hold; a clause holds when any of its matches does.
pub type Rule = Box<[Box<[Match]>]>;

/// Every field that is set must hold; within a field any entry suffices, within a `not_` field none may.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Match {
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub namespaces: Box<[StringMatch]>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub not_namespaces: Box<[StringMatch]>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub service_accounts: Box<[ServiceAccount]>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub not_service_accounts: Box<[ServiceAccount]>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub principals: Box<[StringMatch]>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub not_principals: Box<[StringMatch]>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub source_ips: Box<[Cidr]>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub not_source_ips: Box<[Cidr]>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub remote_ips: Box<[Cidr]>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub not_remote_ips: Box<[Cidr]>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub destination_ips: Box<[Cidr]>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub not_destination_ips: Box<[Cidr]>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub destination_ports: Box<[u16]>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub not_destination_ports: Box<[u16]>,
}

/// Compared with a namespace, or with a principal without its `spiffe://`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StringMatch {
    Exact(Box<str>),
    Prefix(Box<str>),
    Suffix(Box<str>),
    /// Any identity at all.
    Presence,
}

/// An account of a namespace, in whatever trust domain the server accepts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServiceAccount {
    pub namespace: Box<str>,
    pub name: Box<str>,
}

/// What is known of a connection when it is judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionFacts {
    /// The address of the workload that sent it, canonical.
    pub source_ip: IpAddr,
    /// The peer's identity, only as mutual TLS (or the node itself) proved it.
    pub source_identity: Option<Identity>,
    /// The destination workload's own address and port.
    pub destination: SocketAddr,
    /// The original client as the mesh knows it: the source, or what a trusted gateway forwarded.
    pub remote_ip: IpAddr,
}

impl ConnectionFacts {
    /// A connection whose client is its source.
    pub fn new(source: ClientAddress, source_identity: Option<Identity>, destination: SocketAddr) -> Self {
        Self {
            source_ip: source.ip(),
            source_identity,
            destination: SocketAddr::new(destination.ip().to_canonical(), destination.port()),
            remote_ip: source.ip(),
        }
    }
}
