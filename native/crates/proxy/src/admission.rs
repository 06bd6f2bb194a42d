//! Bounds on what peers can make the node hold.
use parking_lot::Mutex;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

/// Handshakes in progress towards one pod.
const HANDSHAKES: usize = 1024;
/// Of these, from one source address: one client cannot keep the others out.
const HANDSHAKES_PER_SOURCE: usize = 128;
/// Tunnels to one pod; each may carry a hundred connections.
const TUNNELS: usize = 4096;
/// Of these, from one source address.
const TUNNELS_PER_SOURCE: usize = 512;

/// Counts by source address, with a bound for each and for all.
#[derive(Debug)]
pub(crate) struct Admission {
    bound: usize,
    bound_per_source: usize,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    total: usize,
    by_source: HashMap<IpAddr, usize>,
}

/// A place, given back when dropped.
#[derive(Debug)]
pub(crate) struct Admitted {
    admission: Arc<Admission>,
    source: IpAddr,
}

impl Admission {
    pub(crate) fn handshakes() -> Arc<Self> {
        Self::new(HANDSHAKES, HANDSHAKES_PER_SOURCE)
    }

    pub(crate) fn tunnels() -> Arc<Self> {
        Self::new(TUNNELS, TUNNELS_PER_SOURCE)
    }

    pub(crate) fn new(bound: usize, bound_per_source: usize) -> Arc<Self> {
        Arc::new(Self { bound, bound_per_source, counts: Mutex::default() })
    }

    /// `None` where a bound is reached.
    pub(crate) fn admit(self: &Arc<Self>, source: IpAddr) -> Option<Admitted> {
        let mut counts = self.counts.lock();
        if counts.total >= self.bound {
            return None;
        }
        let of_source = counts.by_source.entry(source).or_default();
        if *of_source >= self.bound_per_source {
            return None;
        }
        *of_source += 1;
        counts.total += 1;
        Some(Admitted { admission: self.clone(), source })
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut counts = self.admission.counts.lock();
        counts.total -= 1;
        if let Some(of_source) = counts.by_source.get_mut(&self.source) {
            *of_source -= 1;
            if *of_source == 0 {
                counts.by_source.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_source_cannot_take_all_places() {
        let admission = Admission::new(3, 2);
        let (a, b) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let first = admission.admit(a).unwrap();
        let _second = admission.admit(a).unwrap();
        assert!(admission.admit(a).is_none());
        let _third = admission.admit(b).unwrap();
        assert!(admission.admit(b).is_none(), "the bound for all is reached");
        drop(first);
        assert!(admission.admit(b).is_some());
    }
}
