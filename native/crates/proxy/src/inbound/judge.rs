//! Whether a connection to a pod is allowed, and what its record says of that.
use crate::failure::Failure;
use crate::pod::Pod;
use meltemi_policy::{ConnectionFacts, Decision, DenyReason, Effect, Verdict};
use meltemi_state::Workload;
use meltemi_telemetry::{ConnectionRecord, PolicyAction, Reason};
use meltemi_types::PolicyKey;
use std::sync::Arc;
use tokio::time::Instant;

/// Names that PeerAuthentication's compiled form has (ambient's convention).
const PEER_AUTHENTICATION: [&str; 2] = ["converted_peer_authentication_", "istio_converted_static_strict"];

/// A connection that policy refuses.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) failure: Failure,
    pub(crate) policy: Option<Arc<str>>,
}

/// Judges by the policies of `workload`, waiting for missing ones until `deadline`, and tells `record`.
pub(crate) async fn judge(
    pod: &Pod,
    workload: &Workload,
    facts: &ConnectionFacts,
    deadline: Instant,
    record: &mut ConnectionRecord,
) -> Result<(), Refused> {
    let mut policies = pod.node.mesh.policies_for(workload);
    if !policies.is_complete() {
        policies = pod.node.mesh.await_policies_for(workload, deadline).await;
    }
    let verdict = policies.evaluate(facts);
    report(pod, &verdict, record);
    count_decision(pod, &verdict);
    match &verdict.decision {
        Decision::Allow { policy } => {
            if let Some(policy) = policy {
                record.set_policy(policy.key.text().clone(), PolicyAction::Allow);
            }
            Ok(())
        }
        Decision::Deny(reason) => {
            let policy = verdict.explanation();
            if let Some(policy) = &policy {
                record.set_policy(policy.clone(), PolicyAction::Deny);
            }
            let strict = facts.source_identity.is_none() && verdict.policy().is_some_and(is_strict);
            let cause = match reason {
                DenyReason::Denied(_) if strict => Reason::StrictPlaintextRefused,
                _ => Reason::PolicyDenied,
            };
            Err(Refused { failure: Failure::new(cause, reason), policy })
        }
    }
}

/// Counts the decision for the policy that made it; for ALLOW policies none of which matched, for each.
fn count_decision(pod: &Pod, verdict: &Verdict) {
    let metrics = pod.node.telemetry.metrics();
    match &verdict.decision {
        Decision::Allow { policy: Some(policy) } => metrics.policy_match(policy.key.text(), "allow"),
        Decision::Deny(DenyReason::Denied(policy)) => metrics.policy_match(policy.key.text(), "deny"),
        Decision::Deny(DenyReason::NoneAllowed { candidates }) => {
            for candidate in candidates {
                metrics.policy_match(candidate.text(), "unmet");
            }
        }
        Decision::Allow { policy: None } | Decision::Deny(DenyReason::Unknown { .. }) => {}
    }
}

fn is_strict(key: &PolicyKey) -> bool {
    PEER_AUTHENTICATION.iter().any(|prefix| key.name().starts_with(prefix))
}

/// Policies that do not decide: counted, and named in the record.
fn report(pod: &Pod, verdict: &Verdict, record: &mut ConnectionRecord) {
    if verdict.reported.is_empty() {
        return;
    }
    let metrics = pod.node.telemetry.metrics();
    let (mut matched, mut denied_by) = (Vec::new(), Vec::new());
    for reported in &verdict.reported {
        let key = reported.policy.key.text();
        let action = match reported.effect {
            Effect::Audit => "audit",
            Effect::DryRunDeny | Effect::DryRunAllow => "dry-run",
            Effect::DryRunUnmet => "dry-run-unmet",
        };
        metrics.policy_match(key, action);
        if reported.effect != Effect::DryRunUnmet {
            matched.push(key.clone());
        }
        if reported.effect.would_deny() {
            denied_by.push(key.clone());
        }
    }
    record.set_dry_run_policies(matched);
    record.set_dry_run_denied_by(denied_by);
}
