//! Routes as they are in force: decoded from `meltemi.v1.HttpRoute`, checked, and ready to be matched.

use crate::filters::{Cors, Fault, Filter};
use crate::matcher::{Host, Order, RequestMatch};
use meltemi_types::ServiceKey;
use std::sync::Arc;
use std::time::Duration;

/// What a route is attached to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Parent {
    Service(ServiceKey),
    /// A workload's uid.
    Workload(Arc<str>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParentPort {
    pub parent: Parent,
    /// `None`: every port.
    pub port: Option<u16>,
}

#[derive(Debug, Clone)]
pub struct Route {
    /// The resource's name.
    pub name: Arc<str>,
    /// `NAMESPACE/NAME`, which ties are decided by.
    pub key: Arc<str>,
    pub order: Order,
    pub created_ms: i64,
    pub parents: Box<[ParentPort]>,
    pub hosts: Box<[Host]>,
    /// A consumer route's namespace.
    pub consumer: Option<Arc<str>>,
    pub rules: Box<[MatchedRule]>,
}

/// A rule, and what a request must have for it: any of the matches.
pub type MatchedRule = (Box<[RequestMatch]>, Arc<Rule>);

/// What becomes of a request that a rule is for.
#[derive(Debug)]
pub struct Rule {
    /// The route's resource name, for records.
    pub route: Arc<str>,
    /// The rule's own name, if it has one.
    pub name: Box<str>,
    /// These before the filters, as Envoy has it.
    pub cors: Option<Box<Cors>>,
    pub fault: Option<Box<Fault>>,
    pub filters: Box<[Filter]>,
    /// Sent what the filters have made of the request.
    pub mirrors: Box<[Mirror]>,
    pub action: Action,
    pub timeouts: Timeouts,
    pub retry: Option<Retry>,
}

impl Rule {
    /// Whether a filter changes the request that goes on to a backend.
    pub fn changes_requests(&self) -> bool {
        let changes = |filters: &[Filter]| filters.iter().any(Filter::changes_request);
        let of_backends = match &self.action {
            Action::Backends(backends) => backends.backends.iter().any(|(_, b)| changes(&b.filters)),
            Action::Parent | Action::Invalid(_) => false,
        };
        changes(&self.filters) || of_backends
    }

    /// Whether a filter needs to know what matched the path.
    pub fn replaces_path(&self) -> bool {
        let of_backends = match &self.action {
            Action::Backends(backends) => !backends.backends.iter().all(|(_, b)| b.filters.is_empty()),
            Action::Parent | Action::Invalid(_) => false,
        };
        !self.filters.is_empty() || of_backends
    }
}

#[derive(Debug)]
pub enum Action {
    /// To what the request was sent to.
    Parent,
    Backends(Backends),
    /// Answered with 500; the text goes to the record.
    Invalid(Box<str>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    Service {
        service: ServiceKey,
        port: u16,
        /// A name in the service's policy of traffic.
        subset: Option<Box<str>>,
    },
    /// A reference that leads nowhere: 500.
    Invalid(Box<str>),
}

#[derive(Debug)]
pub struct Backend {
    pub target: Target,
    pub filters: Box<[Filter]>,
    pub mirrors: Box<[Mirror]>,
}

/// A copy of some requests goes there, too.
#[derive(Debug)]
pub struct Mirror {
    pub backend: Backend,
    pub per_million: u32,
}

/// Backends with the sums of their weights so far.
#[derive(Debug, Default)]
pub struct Backends {
    backends: Box<[(u32, Backend)]>,
}

impl Backends {
    /// Backends of weight 0 are left out. `None` where the sum exceeds 32 bits.
    pub fn new(backends: impl IntoIterator<Item = (u32, Backend)>) -> Option<Self> {
        let mut sum = 0_u32;
        let mut list = Vec::new();
        for (weight, backend) in backends {
            if weight > 0 {
                sum = sum.checked_add(weight)?;
                list.push((sum, backend));
            }
        }
        Some(Self { backends: list.into() })
    }

    /// By chance, in proportion to the weights; `None` where nothing takes requests.
    pub fn choose(&self, random: &mut impl rand::Rng) -> Option<&Backend> {
        match &*self.backends {
            [] => None,
            [(_, only)] => Some(only),
            several => {
                let drawn = random.random_range(0..several.last()?.0);
                let at = several.partition_point(|(sum, _)| *sum <= drawn);
                several.get(at).map(|(_, backend)| backend)
            }
        }
    }
}

/// `None`: no limit of this kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// From the request's last header to the response's last byte.
    pub request: Option<Duration>,
    /// One attempt.
    pub backend: Option<Duration>,
    /// No byte either way; zero: for ever, `None`: as the waypoint's default.
    pub idle: Option<Duration>,
}

/// When a request is sent again, as long as what was sent of its body is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    pub attempts: u32,
    pub per_try: Option<Duration>,
    pub statuses: Box<[u16]>,
    /// In a response's headers: where it has no others.
    pub grpc_statuses: Box<[u16]>,
    pub connect_failure: bool,
    pub reset: bool,
    pub backoff: Duration,
    pub backoff_max: Duration,
    pub budget_per_million: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    fn backend(name: &str) -> Backend {
        Backend { target: Target::Invalid(name.into()), filters: Box::default(), mirrors: Box::default() }
    }

    #[test]
    fn shares_follow_the_weights() {
        let backends =
            Backends::new([(1, backend("a")), (0, backend("b")), (3, backend("c")), (6, backend("d"))])
                .unwrap();
        let mut random = rand::rngs::StdRng::seed_from_u64(1);
        let mut counts = std::collections::BTreeMap::new();
        for _ in 0..100_000 {
            let Target::Invalid(name) = &backends.choose(&mut random).unwrap().target else { panic!() };
            *counts.entry(name.to_string()).or_insert(0) += 1;
        }
        assert_eq!(counts.keys().collect::<Vec<_>>(), ["a", "c", "d"]);
        for (name, share) in [("a", 0.1), ("c", 0.3), ("d", 0.6)] {
            let got = f64::from(counts[name]) / 100_000.0;
            assert!((got - share).abs() < 0.01, "{name}: {got}");
        }
        assert!(Backends::new([(0, backend("a"))]).unwrap().choose(&mut random).is_none());
        assert!(Backends::new([(u32::MAX, backend("a")), (1, backend("b"))]).is_none());
    }
}
