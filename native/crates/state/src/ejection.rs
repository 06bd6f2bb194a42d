//! Endpoints that recently could not be connected to are avoided for a while.

use std::sync::atomic::{AtomicUsize, Ordering};

use hashbrown::HashMap;
use meltemi_types::WorkloadUid;
use parking_lot::Mutex;
use tokio::time::{Duration, Instant};

const FIRST_EJECTION: Duration = Duration::from_secs(1);
const LONGEST_EJECTION: Duration = Duration::from_secs(30);
/// After this long without a failure the next one counts as the first.
const FORGET_AFTER: Duration = Duration::from_secs(120);
const MAX_ENTRIES: usize = 16_384;

/// How an attempt to reach an endpoint ended. Refusals by policy are no failures to connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectOutcome {
    Connected,
    Failed,
}

#[derive(Debug)]
struct Entry {
    failures: u32,
    until: Instant,
}

#[derive(Debug, Default)]
pub(crate) struct Ejections {
    /// So that the usual case, none, costs no lock.
    count: AtomicUsize,
    entries: Mutex<HashMap<(WorkloadUid, u16), Entry>>,
}

impl Ejections {
    pub(crate) fn report(&self, uid: &WorkloadUid, port: u16, outcome: ConnectOutcome) {
        if outcome == ConnectOutcome::Connected && self.count.load(Ordering::Acquire) == 0 {
            return;
        }
        let now = Instant::now();
        let mut entries = self.entries.lock();
        match outcome {
            ConnectOutcome::Connected => {
                entries.remove(&(uid.clone(), port));
            }
            ConnectOutcome::Failed => {
                if entries.len() >= MAX_ENTRIES {
                    entries.retain(|_, entry| entry.until > now);
                }
                let entry = entries.entry((uid.clone(), port)).or_insert(Entry { failures: 0, until: now });
                // Connections that fail together are one failure.
                if entry.until > now {
                    return;
                }
                if now.duration_since(entry.until) > FORGET_AFTER {
                    entry.failures = 0;
                }
                let doubled = FIRST_EJECTION.saturating_mul(1 << entry.failures.min(16));
                entry.until = now + doubled.min(LONGEST_EJECTION);
                entry.failures += 1;
            }
        }
        self.count.store(entries.len(), Ordering::Release);
    }

    pub(crate) fn is_ejected(&self, uid: &WorkloadUid, port: u16) -> bool {
        if self.count.load(Ordering::Acquire) == 0 {
            return false;
        }
        let entries = self.entries.lock();
        entries.get(&(uid.clone(), port)).is_some_and(|entry| entry.until > Instant::now())
    }
}
