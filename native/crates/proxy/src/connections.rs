//! Connections that are open, and their end when what allowed them no longer does.
//!
//! A connection is entered here before it is judged, so that a change at the same moment is seen either
//! by the judgement or by the re-check.
use meltemi_identity::{Standing, Trust};
use meltemi_policy::{ConnectionFacts, Decision, DenyReason};
use meltemi_state::{Mesh, Workload};
use meltemi_telemetry::Reason;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::{Notify, oneshot};

/// Why a connection is ended from here.
#[derive(Debug, Clone)]
pub(crate) struct Closed {
    pub(crate) reason: Reason,
    pub(crate) error: String,
    /// The policy that now forbids it.
    pub(crate) policy: Option<Arc<str>>,
}

impl Closed {
    pub(crate) fn because(reason: Reason, error: impl Into<String>) -> Self {
        Self { reason, error: error.into(), policy: None }
    }
}

/// What is judged again when policies change.
#[derive(Debug, Clone)]
pub(crate) struct Judged {
    /// The pod that is connected to.
    pub(crate) workload: Arc<Workload>,
    pub(crate) facts: ConnectionFacts,
}

#[derive(Debug)]
struct Entry {
    pod: Arc<str>,
    judged: Option<Judged>,
    /// How the peer proved itself.
    peer: Option<Arc<Standing>>,
    close: oneshot::Sender<Closed>,
}

/// All open connections of the node, by the id of their record.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    table: Mutex<HashMap<u64, Entry>>,
    ended: Notify,
}

/// One open connection; leaves the table when dropped.
#[derive(Debug)]
pub(crate) struct Tracked {
    id: u64,
    connections: Arc<Connections>,
    closed: oneshot::Receiver<Closed>,
}

impl Tracked {
    /// Completes when the connection is to end.
    pub(crate) async fn closed(&mut self) -> Closed {
        match (&mut self.closed).await {
            Ok(closed) => closed,
            // The entry goes only with `self`.
            Err(_) => std::future::pending().await,
        }
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        self.connections.table.lock().remove(&self.id);
        self.connections.ended.notify_waiters();
    }
}

impl Connections {
    /// `pod`: the uid of this node's pod.
    pub(crate) fn track(
        self: &Arc<Self>,
        id: u64,
        pod: &Arc<str>,
        judged: Option<Judged>,
        peer: Option<Arc<Standing>>,
    ) -> Tracked {
        let (close, closed) = oneshot::channel();
        let entry = Entry { pod: pod.clone(), judged, peer, close };
        self.table.lock().insert(id, entry);
        Tracked { id, connections: self.clone(), closed }
    }

    /// Ends one; false where there is none of that id.
    pub(crate) fn close(&self, id: u64, closed: Closed) -> bool {
        let entry = self.table.lock().remove(&id);
        entry.is_some_and(|entry| entry.close.send(closed).is_ok())
    }

    pub(crate) fn close_pod(&self, pod: &str, closed: &Closed) {
        self.close_where(|entry| (*entry.pod == *pod).then(|| closed.clone()));
    }

    /// Open connections of one pod.
    pub(crate) fn count_of(&self, pod: &str) -> usize {
        self.table.lock().values().filter(|entry| *entry.pod == *pod).count()
    }

    /// Completes when a connection has ended after the call.
    pub(crate) fn ended(&self) -> tokio::sync::futures::Notified<'_> {
        self.ended.notified()
    }

    fn close_where(&self, verdict: impl Fn(&mut Entry) -> Option<Closed>) {
        let ended: Vec<_> =
            self.table.lock().iter_mut().filter_map(|(id, entry)| Some((*id, verdict(entry)?))).collect();
        for (id, closed) in ended {
            self.close(id, closed);
        }
    }

    /// Judges all connections to pods of this node again.
    fn recheck_policy(&self, mesh: &Mesh) {
        self.close_where(|entry| {
            let judged = entry.judged.as_mut()?;
            // Its labels may have changed, and with them which policies select it.
            if let Some(current) = mesh.workload(&judged.workload.uid) {
                judged.workload = current;
            }
            forbidden(mesh, judged)
        });
    }

    /// Ends the connections whose peer's certificates lead to no root that is trusted now.
    fn recheck_trust(&self, trust: &Trust) {
        self.close_where(|entry| {
            let peer = entry.peer.as_ref()?;
            (!trust.still_trusted(peer.chain())).then(|| {
                Closed::because(
                    Reason::TrustChanged,
                    "the peer's certificate leads to no root that is still trusted",
                )
            })
        });
    }
}

/// What now forbids a connection. Missing knowledge ends no connection that is open: it refuses new ones.
fn forbidden(mesh: &Mesh, judged: &Judged) -> Option<Closed> {
    let verdict = mesh.policies_for(&judged.workload).evaluate(&judged.facts);
    let Decision::Deny(reason) = &verdict.decision else { return None };
    if matches!(reason, DenyReason::Unknown { .. }) {
        return None;
    }
    Some(Closed { reason: Reason::PolicyChanged, error: reason.to_string(), policy: verdict.explanation() })
}

/// Re-checks after every change, for as long as the node runs.
pub(crate) async fn recheck(connections: Arc<Connections>, mesh: Arc<Mesh>, trust: Arc<Trust>) {
    let mut policies = mesh.changes();
    let mut roots = trust.changes();
    loop {
        tokio::select! {
            changed = policies.changed() => {
                if changed.is_err() {
                    return;
                }
                connections.recheck_policy(&mesh);
            }
            changed = roots.changed() => {
                if changed.is_err() {
                    return;
                }
                connections.recheck_trust(&trust);
            }
        }
    }
}
