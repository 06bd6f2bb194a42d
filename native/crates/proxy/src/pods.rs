//! The node's pods, as the agent tells of them.
use crate::node::Node;
use crate::pod::{Pod, PodInfo};
use meltemi_capture::PodNetns;
use meltemi_telemetry::Reason;
use meltemi_types::Identity;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::task::TaskTracker;

/// Changed by the pod discovery alone, looked at by the admin pages.
#[derive(Debug)]
pub(crate) struct Pods {
    node: Arc<Node>,
    table: Mutex<HashMap<Arc<str>, Arc<Pod>>>,
    stopping: TaskTracker,
}

impl Pods {
    pub(crate) fn new(node: Arc<Node>) -> Arc<Self> {
        Arc::new(Self { node, table: Mutex::default(), stopping: TaskTracker::new() })
    }

    /// Serves a pod, in the namespace that the descriptor is of. Again for one that is served: nothing, or,
    /// if it differs, a new beginning.
    ///
    /// # Errors
    /// What is wrong with the pod, or kept it from being served. What was served before still is, except
    /// where it differs and its listeners could not be opened anew: then the pod is not served.
    pub(crate) async fn add(&self, info: PodInfo, namespace: OwnedFd) -> Result<(), String> {
        let trust_domain = &self.node.settings.trust_domain;
        let identity = Identity::new(trust_domain, &info.namespace, &info.service_account)
            .map_err(|error| error.to_string())?;
        let netns = PodNetns::new(&self.node.home, namespace).map_err(|error| error.to_string())?;
        self.unique(&info, &netns)?;
        let present = self.table.lock().get(&info.uid).cloned();
        if let Some(present) = present {
            if present.info == info && present.netns.id() == netns.id() {
                return Ok(());
            }
            tracing::info!(pod = %info.uid, "pod replaced");
            self.remove(&info.uid).await;
        }
        let uid = info.uid.clone();
        let (name, identity_text, inode) = (info.name.clone(), identity.to_string(), netns.id().inode);
        let pod = Pod::start(self.node.clone(), info, identity, netns).map_err(|error| error.to_string())?;
        self.table.lock().insert(uid.clone(), pod);
        self.counted();
        tracing::info!(pod = %uid, name, identity = identity_text, netns_inode = inode, "pod served");
        Ok(())
    }

    /// A namespace is one pod's: a second one in it would borrow the first one's traffic.
    fn unique(&self, info: &PodInfo, netns: &PodNetns) -> Result<(), String> {
        let table = self.table.lock();
        let other = table.values().find(|pod| pod.netns.id() == netns.id() && pod.info.uid != info.uid);
        match other {
            Some(other) => Err(format!(
                "network namespace {} is already served for pod {}; remove that first",
                netns.id().inode,
                other.info.uid
            )),
            None => Ok(()),
        }
    }

    pub(crate) fn has(&self, uid: &str) -> bool {
        self.table.lock().contains_key(uid)
    }

    /// Stops to serve a pod. Its listeners are closed when this returns; its connections may end by
    /// themselves for the drain timeout.
    pub(crate) async fn remove(&self, uid: &str) {
        let Some(pod) = self.table.lock().remove(uid) else { return };
        self.counted();
        pod.close_listeners().await;
        let grace = self.node.settings.drain_timeout;
        let uid = pod.info.uid.clone();
        self.stopping.spawn(async move {
            pod.stop(grace, Reason::PodRemoved).await;
            tracing::info!(pod = %uid, "pod no longer served");
        });
    }

    /// Stops to serve every pod that is not among `kept`.
    pub(crate) async fn retain(&self, kept: &HashSet<Arc<str>>) {
        let gone: Vec<_> = self.table.lock().keys().filter(|uid| !kept.contains(*uid)).cloned().collect();
        for uid in gone {
            self.remove(&uid).await;
        }
    }

    /// Stops to accept, lets connections end for `grace`, then ends them.
    pub(crate) async fn drain(&self, grace: Duration) {
        let pods: Vec<_> = self.table.lock().values().cloned().collect();
        let stops = pods.iter().map(|pod| pod.stop(grace, Reason::Draining));
        futures::future::join_all(stops).await;
        self.stopping.close();
        self.stopping.wait().await;
    }

    /// As `/config_dump` shows them.
    pub(crate) fn view(&self) -> Value {
        let mut pods: Vec<_> = self.table.lock().values().cloned().collect();
        pods.sort_by(|a, b| a.info.uid.cmp(&b.info.uid));
        pods.iter()
            .map(|pod| {
                json!({
                    "uid": &*pod.info.uid,
                    "name": pod.info.name,
                    "namespace": pod.info.namespace,
                    "service_account": pod.info.service_account,
                    "netns_inode": pod.netns.id().inode,
                    "listening": !pod.drain.is_cancelled(),
                    "ipv6": pod.ipv6,
                })
            })
            .collect()
    }

    fn counted(&self) {
        self.node.telemetry.metrics().set_zds_workloads(self.table.lock().len());
    }
}
