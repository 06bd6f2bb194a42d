//! Connections that are open, and their end when what allowed them no longer does.
//!
//! A connection is entered here before it is judged, so that a change at the same moment is seen either
//! by the judgement or by the re-check.
use meltemi_identity::{Standing, Trust};
use meltemi_policy::{ConnectionFacts, Decision, DenyReason, PolicySet};
use meltemi_state::{Mesh, Workload};
use meltemi_telemetry::Reason;
use meltemi_types::WorkloadUid;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::sync::Arc;
use tokio::sync::{Notify, oneshot};

/// Connections that are judged again without a pause for others.
const RECHECKED_AT_ONCE: usize = 512;

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
    /// What it was judged by last. Absent before the first re-check.
    pub(crate) policies: Option<Arc<PolicySet>>,
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

    /// Judges the connections to pods of this node again by whose policies have changed.
    fn recheck_policy(&self, mesh: &Mesh) {
        let mut current = Current { mesh, by_uid: HashMap::new() };
        let all: Vec<u64> = self.table.lock().keys().copied().collect();
        // In parts: whoever opens or ends a connection waits for one of them, and not for all. Those that are
        // opened meanwhile are judged by what is in force now.
        for part in all.chunks(RECHECKED_AT_ONCE) {
            let mut ended = Vec::new();
            {
                let mut table = self.table.lock();
                for id in part {
                    let judged = table.get_mut(id).and_then(|entry| entry.judged.as_mut());
                    ended.extend(judged.and_then(|judged| Some((*id, current.forbids(judged)?))));
                }
            }
            for (id, closed) in ended {
                self.close(id, closed);
            }
        }
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

/// What applies to the pods of this node now, looked up once for each.
struct Current<'a> {
    mesh: &'a Mesh,
    by_uid: HashMap<WorkloadUid, (Arc<Workload>, Arc<PolicySet>)>,
}

impl Current<'_> {
    /// What now forbids a connection. One whose policies are still those that it was judged by is left.
    fn forbids(&mut self, judged: &mut Judged) -> Option<Closed> {
        let (workload, policies) = match self.by_uid.entry(judged.workload.uid.clone()) {
            Slot::Occupied(known) => known.into_mut(),
            Slot::Vacant(place) => {
                // Its labels may have changed, and with them which policies select it.
                let uid = &judged.workload.uid;
                let workload = self.mesh.workload(uid).unwrap_or_else(|| judged.workload.clone());
                let policies = self.mesh.policies_for(&workload);
                place.insert((workload, policies))
            }
        };
        judged.workload = workload.clone();
        let before = judged.policies.replace(policies.clone());
        if before.is_some_and(|before| Arc::ptr_eq(&before, policies) || before.is_same(policies)) {
            return None;
        }
        forbidden(policies, &judged.facts)
    }
}

/// What now forbids a connection. Missing knowledge ends no connection that is open: it refuses new ones.
fn forbidden(policies: &PolicySet, facts: &ConnectionFacts) -> Option<Closed> {
    let verdict = policies.evaluate(facts);
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
