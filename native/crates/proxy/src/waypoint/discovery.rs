//! What discovery brings, put where it belongs.

use super::Waypoint;
use crate::config::ServerUri;
use crate::waypoint::Config;
use meltemi_http::{Core, Settings};
use meltemi_state::Mesh;
use meltemi_telemetry::Metrics;
use meltemi_types::discovery::{Batch, Rejection, Released, ResourceSink, ResourceType};
use meltemi_types::meltemi as wire;
use parking_lot::RwLock;
use prost::Message;
use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

/// The mesh's objects go to the mesh, a waypoint's own to it.
pub(crate) struct Sink {
    waypoint: Arc<Waypoint>,
    core: Arc<Core<Waypoint>>,
    synced: RwLock<HashSet<ResourceType>>,
}

impl Sink {
    pub(crate) fn new(waypoint: Arc<Waypoint>, core: Arc<Core<Waypoint>>) -> Arc<Self> {
        Arc::new(Self { waypoint, core, synced: RwLock::default() })
    }

    /// Whether every type has been answered once.
    pub(crate) fn is_synced(&self) -> bool {
        self.synced.read().len() == ResourceType::WAYPOINT.len()
    }

    fn apply_waypoint(&self, batch: &Batch) -> Vec<(String, String)> {
        let mut refused = Vec::new();
        for update in &batch.updates {
            if *update.name != *self.waypoint.name {
                refused.push((update.name.clone(), "it is another waypoint".to_owned()));
                continue;
            }
            if let Err(problem) = self.apply_settings(&update.body) {
                refused.push((update.name.clone(), problem));
            }
        }
        if batch.removed.iter().any(|name| **name == *self.waypoint.name) {
            self.core.set_settings(Settings::default());
            // Nothing is refused of nothing.
            let _ = self.waypoint.logging.set(None);
        }
        refused
    }

    /// All of it or nothing.
    fn apply_settings(&self, body: &[u8]) -> Result<(), String> {
        let message = wire::Waypoint::decode(body).map_err(|error| format!("it is no Waypoint: {error}"))?;
        meltemi_http::decode::check_requires(&message.requires).map_err(|error| error.to_string())?;
        let http = message.http.unwrap_or_default();
        let settings = Settings::from_wire(&http).map_err(|error| error.to_string())?;
        self.waypoint.logging.set(message.access_logging.as_ref())?;
        self.core.set_settings(settings);
        Ok(())
    }
}

impl ResourceSink for Sink {
    fn apply(&self, batch: Batch) -> Vec<Rejection> {
        let updates = || batch.updates.iter().map(|update| (update.name.as_str(), &*update.body));
        let refused = match batch.resource_type {
            ResourceType::Address | ResourceType::Authorization => return self.waypoint.mesh.apply(batch),
            ResourceType::HttpRoute => self.core.routes.apply(updates(), &batch.removed),
            ResourceType::TrafficPolicy => self.core.traffic.apply(updates(), &batch.removed),
            ResourceType::HttpAuthorization => self.core.policies.apply(updates(), &batch.removed),
            ResourceType::RequestAuthentication => self.core.authentication.apply(updates(), &batch.removed),
            ResourceType::KeySet => self.core.authentication.apply_keys(updates(), &batch.removed),
            ResourceType::Served => self.waypoint.served.apply(updates(), &batch.removed),
            ResourceType::Waypoint => self.apply_waypoint(&batch),
        };
        refused.into_iter().map(|(name, problem)| Rejection { name, problem }).collect()
    }

    fn synced(&self, resource_type: ResourceType) {
        match resource_type {
            ResourceType::Address | ResourceType::Authorization => self.waypoint.mesh.synced(resource_type),
            ResourceType::HttpAuthorization => self.core.policies.synced(),
            ResourceType::RequestAuthentication => self.core.authentication.synced(),
            ResourceType::HttpRoute => self.core.routes.synced(),
            ResourceType::Served
            | ResourceType::Waypoint
            | ResourceType::KeySet
            | ResourceType::TrafficPolicy => {}
        }
        self.synced.write().insert(resource_type);
    }

    fn release_idle(&self, limit: Duration) -> Released {
        self.waypoint.mesh.release_idle(limit)
    }
}

/// The client, ready to run; the mesh asks through it.
pub(crate) fn client(
    config: &Config,
    sink: Arc<Sink>,
    mesh: &Arc<Mesh>,
    metrics: Arc<Metrics>,
) -> meltemi_xds::Client {
    let server = match config.xds.clone() {
        ServerUri::Unix(path) => meltemi_xds::Server::Unix(path),
        ServerUri::UnixTls(path) => meltemi_xds::Server::UnixTls(path),
        ServerUri::Https { host, port } => meltemi_xds::Server::Tls { host, port },
    };
    let info = meltemi_xds::NodeInfo {
        ip: Ipv4Addr::LOCALHOST.into(),
        name: config.name.to_string(),
        namespace: config.namespace.to_string(),
        // It is of no node: its token says which waypoint it is.
        node_name: String::new(),
        cluster_id: config.cluster_id.to_string(),
    };
    let mut options = meltemi_xds::ClientOptions::new(server, info);
    options.role = "waypoint";
    options.types = &ResourceType::WAYPOINT;
    options.root_file = config.xds_root.clone();
    options.token_file = config.auth_token.clone();
    options.on_demand = config.on_demand;
    options.connect_timeout = config.connect_timeout;
    let client = meltemi_xds::Client::new(options, sink, Arc::new(DiscoveryMetrics(metrics)));
    mesh.connect(Arc::new(client.asker()));
    client
}

struct DiscoveryMetrics(Arc<Metrics>);

impl meltemi_xds::Metrics for DiscoveryMetrics {
    fn connected(&self, connected: bool) {
        self.0.set_xds_connected(connected);
    }
    fn nack(&self, resource_type: ResourceType) {
        self.0.xds_nack(resource_type.type_url());
    }
}
