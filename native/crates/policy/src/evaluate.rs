//! The documented precedence: DENY, then ALLOW, then what their absence means.

use std::sync::Arc;

use meltemi_types::PolicyKey;

use crate::policy::{Action, ConnectionFacts, Policy};

/// How many policies an explanation names.
const NAMED_CANDIDATES: usize = 4;

/// What becomes of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// `policy` is the ALLOW policy that matched; `None` where no ALLOW policy applies.
    Allow {
        policy: Option<Arc<Policy>>,
    },
    Deny(DenyReason),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DenyReason {
    /// This DENY policy matched.
    Denied(Arc<Policy>),
    /// ALLOW policies apply and none matched; these are they.
    NoneAllowed { candidates: Vec<PolicyKey> },
    /// The policies that apply are not all known, so nothing can be allowed.
    /// Empty `policies`: none have been received at all yet.
    Unknown { policies: Vec<PolicyKey> },
}

impl std::fmt::Display for DenyReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let list = |keys: &[PolicyKey]| keys.iter().map(PolicyKey::as_str).collect::<Vec<_>>().join(", ");
        match self {
            Self::Denied(policy) => write!(f, "DENY policy {} matched", policy.key),
            Self::NoneAllowed { candidates } => {
                write!(f, "no ALLOW policy matched: want one of {}", list(candidates))
            }
            Self::Unknown { policies } if policies.is_empty() => {
                f.write_str("the policies of the workload have not been received yet")
            }
            Self::Unknown { policies } => {
                write!(f, "policies of the workload are missing or were refused: {}", list(policies))
            }
        }
    }
}

/// How a policy that does not decide matched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Effect {
    /// An AUDIT policy (in dry run or not) matched.
    Audit,
    /// A DENY policy in dry run would have denied.
    DryRunDeny,
    /// An ALLOW policy in dry run matched.
    DryRunAllow,
    /// An ALLOW policy in dry run did not match, no other did, and no enforced ALLOW policy applies: were it
    /// enforced, the connection would be denied.
    DryRunUnmet,
}

impl Effect {
    /// Whether the connection would be denied, were the policy enforced.
    pub fn would_deny(self) -> bool {
        matches!(self, Self::DryRunDeny | Self::DryRunUnmet)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reported {
    pub policy: Arc<Policy>,
    pub effect: Effect,
}

/// The decision, and what policies that do not decide have to say, in the order of their keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub decision: Decision,
    pub reported: Vec<Reported>,
}

impl Verdict {
    pub fn is_allowed(&self) -> bool {
        matches!(self.decision, Decision::Allow { .. })
    }

    /// The policies to name to whoever asks why, as `namespace/name`, comma-separated: the one that
    /// matched, or the ALLOW policies none of which did (the first few). `None` where no policy decided.
    pub fn explanation(&self) -> Option<Arc<str>> {
        match &self.decision {
            Decision::Deny(DenyReason::NoneAllowed { candidates }) => {
                let named = candidates.iter().take(NAMED_CANDIDATES).map(PolicyKey::as_str);
                let rest = candidates.len().saturating_sub(NAMED_CANDIDATES);
                let more = (rest > 0).then(|| format!("+{rest}"));
                Some(named.chain(more.as_deref()).collect::<Vec<_>>().join(",").into())
            }
            _ => self.policy().map(|key| key.text().clone()),
        }
    }

    /// The one policy that matched and so decided.
    pub fn policy(&self) -> Option<&PolicyKey> {
        match &self.decision {
            Decision::Allow { policy } => policy.as_ref().map(|policy| &policy.key),
            Decision::Deny(DenyReason::Denied(policy)) => Some(&policy.key),
            Decision::Deny(_) => None,
        }
    }
}

/// The policies of one workload, ready to be evaluated. Immutable; shared by its connections.
#[derive(Debug, Default)]
pub struct PolicySet {
    deny: Box<[Arc<Policy>]>,
    allow: Box<[Arc<Policy>]>,
    /// Those that do not decide.
    reporting: Box<[Arc<Policy>]>,
    missing: Box<[PolicyKey]>,
    received: bool,
}

impl PolicySet {
    /// `missing` are policies that apply and are not known: while there are any, all is refused.
    pub fn new(mut policies: Vec<Arc<Policy>>, mut missing: Vec<PolicyKey>) -> Self {
        policies.sort_by(|a, b| a.key.cmp(&b.key));
        policies.dedup_by(|a, b| a.key == b.key);
        missing.sort();
        missing.dedup();
        let (deciding, reporting): (Vec<_>, Vec<_>) = policies.into_iter().partition(|p| p.decides());
        let (deny, allow): (Vec<_>, Vec<_>) = deciding.into_iter().partition(|p| p.action == Action::Deny);
        Self {
            deny: deny.into(),
            allow: allow.into(),
            reporting: reporting.into(),
            missing: missing.into(),
            received: true,
        }
    }

    /// The set of a workload before any policy has been received: refuses all.
    pub fn not_received() -> Self {
        Self::default()
    }

    /// Whether every policy that applies is known.
    pub fn is_complete(&self) -> bool {
        self.received && self.missing.is_empty()
    }

    /// Policies that apply and are not known.
    pub fn missing(&self) -> &[PolicyKey] {
        &self.missing
    }

    /// Whether it judges as another does, because it is made of the same.
    pub fn is_same(&self, other: &Self) -> bool {
        let same = |a: &[Arc<Policy>], b: &[Arc<Policy>]| {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| Arc::ptr_eq(a, b))
        };
        same(&self.deny, &other.deny)
            && same(&self.allow, &other.allow)
            && self.missing == other.missing
            && self.received == other.received
    }

    /// All known policies that apply.
    pub fn policies(&self) -> impl Iterator<Item = &Arc<Policy>> {
        self.deny.iter().chain(self.allow.iter()).chain(self.reporting.iter())
    }

    /// Any DENY that matches decides; then missing knowledge refuses; then no ALLOW policies allow;
    /// then any ALLOW that matches allows; else the connection is denied.
    pub fn evaluate(&self, facts: &ConnectionFacts) -> Verdict {
        let mut reported: Vec<Reported> = self
            .reporting
            .iter()
            .filter_map(|policy| {
                let effect = effect_of(policy, policy.matches(facts))?;
                Some(Reported { policy: policy.clone(), effect })
            })
            .collect();
        // One that matches is enough, as it is with enforced ones.
        if !self.allow.is_empty() || reported.iter().any(|entry| entry.effect == Effect::DryRunAllow) {
            reported.retain(|entry| entry.effect != Effect::DryRunUnmet);
        }
        Verdict { decision: self.decide(facts), reported }
    }

    fn decide(&self, facts: &ConnectionFacts) -> Decision {
        if let Some(policy) = self.deny.iter().find(|policy| policy.matches(facts)) {
            return Decision::Deny(DenyReason::Denied(policy.clone()));
        }
        if !self.is_complete() {
            return Decision::Deny(DenyReason::Unknown { policies: self.missing.to_vec() });
        }
        if self.allow.is_empty() {
            return Decision::Allow { policy: None };
        }
        match self.allow.iter().find(|policy| policy.matches(facts)) {
            Some(policy) => Decision::Allow { policy: Some(policy.clone()) },
            None => Decision::Deny(DenyReason::NoneAllowed {
                candidates: self.allow.iter().map(|policy| policy.key.clone()).collect(),
            }),
        }
    }
}

fn effect_of(policy: &Policy, matches: bool) -> Option<Effect> {
    match (policy.action, matches) {
        (Action::Audit, true) => Some(Effect::Audit),
        (Action::Deny, true) => Some(Effect::DryRunDeny),
        (Action::Allow, true) => Some(Effect::DryRunAllow),
        (Action::Allow, false) => Some(Effect::DryRunUnmet),
        (Action::Audit | Action::Deny, false) => None,
    }
}

/// Evaluates policies that are all known. Where several connections share them, keep a [`PolicySet`].
pub fn evaluate(policies: &[Arc<Policy>], facts: &ConnectionFacts) -> Verdict {
    PolicySet::new(policies.to_vec(), Vec::new()).evaluate(facts)
}
