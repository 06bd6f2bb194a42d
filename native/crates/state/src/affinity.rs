//! Which endpoint a client address was sent to last, for services with client-IP affinity.

use std::net::IpAddr;

use hashbrown::HashMap;
use meltemi_types::{ServiceKey, WorkloadUid};
use parking_lot::Mutex;
use tokio::time::{Duration, Instant};

/// Beyond it the entries that end soonest go.
const MAX_ENTRIES: usize = 65_536;

#[derive(Debug)]
struct Entry {
    endpoint: WorkloadUid,
    ends: Instant,
}

#[derive(Debug, Default)]
pub(crate) struct Affinities(Mutex<HashMap<(ServiceKey, IpAddr), Entry>>);

impl Affinities {
    pub(crate) fn get(&self, service: &ServiceKey, client: IpAddr) -> Option<WorkloadUid> {
        let entries = self.0.lock();
        let entry = entries.get(&(service.clone(), client))?;
        (entry.ends > Instant::now()).then(|| entry.endpoint.clone())
    }

    /// Every new connection starts the timeout anew, as kube-proxy does.
    pub(crate) fn remember(
        &self,
        service: &ServiceKey,
        client: IpAddr,
        endpoint: &WorkloadUid,
        timeout: Duration,
    ) {
        let now = Instant::now();
        let mut entries = self.0.lock();
        if entries.len() >= MAX_ENTRIES {
            make_room(&mut entries, now);
        }
        entries.insert((service.clone(), client), Entry { endpoint: endpoint.clone(), ends: now + timeout });
    }
}

fn make_room(entries: &mut HashMap<(ServiceKey, IpAddr), Entry>, now: Instant) {
    entries.retain(|_, entry| entry.ends > now);
    if entries.len() < MAX_ENTRIES {
        return;
    }
    let mut ends: Vec<Instant> = entries.values().map(|entry| entry.ends).collect();
    let (_, eighth, _) = ends.select_nth_unstable(MAX_ENTRIES / 8);
    let eighth = *eighth;
    entries.retain(|_, entry| entry.ends > eighth);
}
