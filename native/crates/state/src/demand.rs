//! What was asked for on demand, and how it was answered.

use std::sync::atomic::{AtomicU32, Ordering};

use hashbrown::{HashMap, HashSet};
use tokio::time::Duration;

use crate::Text;

/// Why an address, service or workload could not be told apart from nothing. None of these permits
/// plaintext.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    #[error("{name}: the control plane has not answered within {waited:?}; is it reachable from this node?")]
    NoAnswer { name: String, waited: Duration },
    #[error("{name}: too many names are asked for ({limit}); a workload may be scanning addresses")]
    TooMany { name: String, limit: usize },
    #[error("{name}: the service there is visible only to its own namespace")]
    Hidden { name: String },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Asked, not answered; or what was found has been removed since.
    Pending,
    /// Nothing has this name: the explicit negative answer.
    Negative,
    Found,
}

#[derive(Debug)]
pub(crate) struct Demand {
    pub(crate) answer: Answer,
    /// The resource's own name, where found.
    resource: Option<Box<str>>,
    pub(crate) last_used: AtomicU32,
    /// Who asked first.
    asker: Text,
}

#[derive(Debug, Default)]
pub(crate) struct Demands {
    by_name: HashMap<Box<str>, Demand>,
    by_asker: HashMap<Text, usize>,
}

impl Demands {
    pub(crate) fn len(&self) -> usize {
        self.by_name.len()
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Demand> {
        self.by_name.get(name)
    }

    /// Whether `asker` may ask for one more name, of `limit` in all. The last quarter is for those who ask for
    /// little: who scans addresses keeps nobody else from asking.
    pub(crate) fn has_room(&self, asker: &Text, limit: usize) -> bool {
        let own = self.by_asker.get(asker).copied().unwrap_or_default();
        let askers = self.by_asker.len() + usize::from(own == 0);
        let few = own < (limit / 4 / askers).max(1);
        self.len() < if few { limit } else { limit - limit / 4 }
    }

    pub(crate) fn ask(&mut self, name: &str, asker: &Text, now_s: u32) {
        match self.by_name.get(name) {
            Some(demand) => demand.last_used.store(now_s, Ordering::Relaxed),
            None => {
                let (last_used, asker) = (AtomicU32::new(now_s), asker.clone());
                *self.by_asker.entry(asker.clone()).or_default() += 1;
                let demand = Demand { answer: Answer::Pending, resource: None, last_used, asker };
                self.by_name.insert(name.into(), demand);
            }
        }
    }

    /// A resource came; whoever asked for it, by its name or an alias, has an answer.
    pub(crate) fn found<'a>(&mut self, resource: &str, asked: impl Iterator<Item = &'a str>) {
        for name in asked {
            if let Some(demand) = self.by_name.get_mut(name) {
                demand.answer = Answer::Found;
                demand.resource = Some(resource.into());
            }
        }
    }

    /// Resources ceased. Who had asked under another name must ask again: another resource may have
    /// taken its place. Who had asked for the name itself has the negative answer.
    pub(crate) fn removed(&mut self, names: &HashSet<&str>) {
        for (asked, demand) in &mut self.by_name {
            if names.contains(&**asked) {
                demand.answer = Answer::Negative;
                demand.resource = None;
            } else if demand.resource.as_deref().is_some_and(|resource| names.contains(resource)) {
                demand.answer = Answer::Pending;
                demand.resource = None;
            }
        }
    }

    pub(crate) fn forget(&mut self, name: &str) {
        let Some(demand) = self.by_name.remove(name) else { return };
        if let Some(count) = self.by_asker.get_mut(&demand.asker) {
            *count -= 1;
            if *count == 0 {
                self.by_asker.remove(&demand.asker);
            }
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Demand)> {
        self.by_name.iter().map(|(name, demand)| (&**name, demand))
    }

    pub(crate) fn negative(&self) -> impl Iterator<Item = &str> {
        self.iter().filter(|(_, demand)| demand.answer == Answer::Negative).map(|(name, _)| name)
    }
}
