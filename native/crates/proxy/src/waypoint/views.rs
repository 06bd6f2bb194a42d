//! What the admin sockets show of the running waypoint, and do to it.
use super::discovery::Sink;
use super::{Config, Waypoint};
use crate::admin::{ConfigView, ConnectionsView, Drain, Readiness, ReadinessView};
use crate::connections::Closed;
use meltemi_http::Core;
use meltemi_telemetry::{ConnectionSnapshot, Reason};
use serde_json::{Value, json};
use std::sync::Arc;

pub(super) struct WaypointView {
    pub(super) config: Arc<Config>,
    pub(super) waypoint: Arc<Waypoint>,
    pub(super) core: Arc<Core<Waypoint>>,
    pub(super) sink: Arc<Sink>,
}

impl ReadinessView for WaypointView {
    fn readiness(&self) -> Readiness {
        let mut waiting = Vec::new();
        if !self.sink.is_synced() {
            waiting.push("discovery");
        }
        if self.waypoint.certificates.current(&self.waypoint.identity).is_none() {
            waiting.push("certificate");
        }
        Readiness { waiting }
    }
}

impl ConfigView for WaypointView {
    fn config_dump(&self) -> Value {
        let mesh = serde_json::to_value(self.waypoint.mesh.dump());
        let config = serde_json::to_value(&*self.config);
        match (mesh, config) {
            (Ok(mesh), Ok(config)) => json!({
                "version": env!("CARGO_PKG_VERSION"),
                "config": config,
                "mesh": mesh,
                "served": self.waypoint.served.names(),
                "routes": self.core.routes.names(),
                "traffic_policies": self.core.traffic.names(),
            }),
            (Err(error), _) | (_, Err(error)) => json!({ "error": error.to_string() }),
        }
    }
}

impl ConnectionsView for WaypointView {
    fn connections(&self) -> Vec<ConnectionSnapshot> {
        self.waypoint.telemetry.connections()
    }

    fn close(&self, id: u64) -> bool {
        let closed = Closed::because(Reason::Reset, "closed by an administrator");
        self.waypoint.connections.close(id, closed)
    }
}

impl Drain for WaypointView {
    fn drain(&self) {
        self.waypoint.drain.cancel();
    }
}
