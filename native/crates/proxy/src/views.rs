//! What the admin sockets show of the running node, and do to it.
use crate::admin::{ConfigView, ConnectionsView, Drain, Readiness, ReadinessView};
use crate::config::Config;
use crate::connections::Closed;
use crate::node::Node;
use crate::pods::Pods;
use meltemi_telemetry::{ConnectionSnapshot, Reason};
use meltemi_types::discovery::ResourceType;
use serde_json::Value;
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

#[derive(Debug)]
pub(crate) struct NodeView {
    pub(crate) config: Arc<Config>,
    pub(crate) node: Arc<Node>,
    pub(crate) pods: Arc<Pods>,
    pub(crate) snapshots: watch::Receiver<u64>,
    pub(crate) drain: CancellationToken,
}

impl ReadinessView for NodeView {
    fn readiness(&self) -> Readiness {
        let mut waiting = Vec::new();
        if *self.snapshots.borrow() == 0 {
            waiting.push("zds snapshot");
        }
        if !ResourceType::ALL.into_iter().all(|kind| self.node.mesh.is_synced(kind)) {
            waiting.push("discovery");
        }
        Readiness { waiting }
    }
}

impl ConfigView for NodeView {
    fn config_dump(&self) -> Value {
        let dump = serde_json::to_value(self.node.mesh.dump());
        let config = serde_json::to_value(&*self.config);
        match (dump, config) {
            (Ok(Value::Object(mut page)), Ok(config)) => {
                page.insert("state_version".to_owned(), page.get("version").cloned().unwrap_or_default());
                page.insert("version".to_owned(), env!("CARGO_PKG_VERSION").into());
                page.insert("config".to_owned(), config);
                page.insert("pods".to_owned(), self.pods.view());
                Value::Object(page)
            }
            (Err(error), _) | (_, Err(error)) => serde_json::json!({ "error": error.to_string() }),
            (Ok(other), _) => other,
        }
    }
}

impl ConnectionsView for NodeView {
    fn connections(&self) -> Vec<ConnectionSnapshot> {
        self.node.telemetry.connections()
    }

    fn close(&self, id: u64) -> bool {
        self.node.connections.close(id, Closed::because(Reason::Reset, "closed by an administrator"))
    }
}

impl Drain for NodeView {
    fn drain(&self) {
        self.drain.cancel();
    }
}
