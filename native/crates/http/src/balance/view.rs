//! The endpoints that requests for one service, or a subset of it, may go to, with all that a choice needs.

use super::bounds::Bounds;
use super::member::Member;
use super::policy::{Algorithm, Ejection, TrafficPolicy};
use super::ring::{Ring, hash_of};
use super::{Choice, Health, hash};
use crate::world::{Candidates, World};
use http::HeaderValue;
use rand::Rng;
use smallvec::SmallVec;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

#[derive(Debug)]
pub(super) struct Entry {
    /// In the candidates' list.
    pub(super) at: usize,
    pub(super) state: Arc<Member>,
    weight: u32,
    steps: u32,
}

#[derive(Debug)]
pub(super) struct View<W: World> {
    candidates: Arc<Candidates<W>>,
    subset: Option<Box<str>>,
    pub(super) policy: Option<Arc<TrafficPolicy>>,
    pub(super) bounds: Arc<Bounds>,
    /// The nearest first; not empty.
    pub(super) members: Box<[Entry]>,
    /// How many are the nearest.
    nearest: usize,
    /// All weights are the same.
    even: bool,
    ring: Option<Ring>,
    turn: AtomicU32,
}

/// Members' numbers, among which a choice is made.
enum Usable {
    First(usize),
    These(SmallVec<[u32; 32]>),
}

impl Usable {
    fn len(&self) -> usize {
        match self {
            Self::First(count) => *count,
            Self::These(list) => list.len(),
        }
    }

    fn get(&self, index: usize) -> usize {
        match self {
            Self::First(_) => index,
            Self::These(list) => list[index] as usize,
        }
    }

    fn contains(&self, member: u32) -> bool {
        match self {
            Self::First(count) => (member as usize) < *count,
            Self::These(list) => list.contains(&member),
        }
    }
}

impl<W: World> View<W> {
    /// # Errors
    /// Why there is nothing to choose from.
    pub(super) fn new(
        candidates: &Arc<Candidates<W>>,
        subset: Option<&str>,
        policy: Option<Arc<TrafficPolicy>>,
        bounds: Arc<Bounds>,
        mut state: impl FnMut(&W::Key) -> Arc<Member>,
    ) -> Result<Self, String> {
        let uids = match subset {
            None => None,
            Some(name) => {
                let known = policy.as_ref().and_then(|policy| policy.subsets.get(name));
                Some(known.ok_or_else(|| format!("it has no subset {name:?}"))?)
            }
        };
        let list = candidates.list.iter().enumerate();
        let list = list.filter(|(_, candidate)| uids.is_none_or(|uids| uids.contains(&candidate.uid)));
        let members: Box<[Entry]> = list
            .map(|(at, candidate)| Entry {
                at,
                state: state(&candidate.key),
                weight: candidate.weight.max(1),
                steps: candidate.steps,
            })
            .collect();
        let Some(first) = members.first() else {
            return Err(format!("no endpoint is of subset {:?}", subset.unwrap_or_default()));
        };
        let hashes = match &policy {
            Some(policy) => policy.algorithm == Algorithm::ConsistentHash,
            None => false,
        };
        let ring = (hashes || candidates.sticky)
            .then(|| Ring::new(members.iter().map(|entry| (&*candidates.list[entry.at].uid, entry.weight))));
        Ok(Self {
            nearest: members.iter().take_while(|entry| entry.steps == first.steps).count(),
            even: members.iter().all(|entry| entry.weight == first.weight),
            candidates: candidates.clone(),
            subset: subset.map(Into::into),
            policy,
            bounds,
            ring,
            turn: AtomicU32::new(rand::random()),
            members,
        })
    }

    pub(super) fn is_of(&self, candidates: &Arc<Candidates<W>>, subset: Option<&str>) -> bool {
        Arc::ptr_eq(&self.candidates, candidates) && self.subset.as_deref() == subset
    }

    /// Whether the other one takes its place.
    pub(super) fn is_before(&self, other: &Self) -> bool {
        self.candidates.slot == other.candidates.slot && self.subset == other.subset
    }

    /// The number of the member that a request goes to.
    pub(super) fn choose(&self, now_ms: u64, choice: Choice<'_, W>) -> (usize, Option<HeaderValue>) {
        let usable = self.usable(now_ms, choice.tried);
        let algorithm = self.policy.as_ref().map_or(Algorithm::LeastRequest, |policy| policy.algorithm);
        if let Some(ring) = &self.ring {
            let key = self.policy.as_ref().and_then(|policy| policy.hash.as_ref());
            let hashed = match key.filter(|_| algorithm == Algorithm::ConsistentHash) {
                Some(key) => hash::of_request(key, &choice.input),
                None => Some((hash_of(choice.input.source_ip), None)),
            };
            if let Some((key, cookie)) = hashed
                && let Some(member) = ring.walk(key).find(|member| usable.contains(*member))
            {
                return (member as usize, cookie);
            }
        }
        let chosen = match algorithm {
            Algorithm::RoundRobin => self.in_turn(&usable),
            Algorithm::Random => self.drawn(&usable),
            Algorithm::LeastRequest | Algorithm::ConsistentHash => self.less_busy(&usable),
        };
        (chosen, None)
    }

    /// The nearest members that are neither ejected nor were tried; where all were, the nearest.
    fn usable(&self, now_ms: u64, tried: &[W::Key]) -> Usable {
        let avoids = self.bounds.avoided_until_ms.load(Relaxed) > now_ms && !self.is_in_panic(now_ms);
        if !avoids && tried.is_empty() {
            return Usable::First(self.nearest);
        }
        let was_tried = |entry: &Entry| tried.contains(&self.candidates.list[entry.at].key);
        let fit = |entry: &Entry| !(was_tried(entry) || avoids && entry.state.is_ejected(now_ms));
        let first_fit = |fit: &dyn Fn(&Entry) -> bool| {
            let steps = self.members.iter().find(|entry| fit(entry))?.steps;
            let numbered = self.members.iter().enumerate();
            let these = numbered.filter(|(_, entry)| entry.steps == steps && fit(entry));
            Some(Usable::These(these.map(|(number, _)| number as u32).collect()))
        };
        // Who is ejected may be better again; who was tried just now hardly is.
        let found = first_fit(&fit).or_else(|| first_fit(&|entry| !was_tried(entry)));
        found.unwrap_or(Usable::First(self.nearest))
    }

    /// So many are ejected that the few that are left would be too few.
    fn is_in_panic(&self, now_ms: u64) -> bool {
        let ejection = self.policy.as_ref().and_then(|policy| policy.ejection.as_ref());
        let least = ejection.map_or(0, |ejection| ejection.min_health_percent) as usize;
        least > 0 && (self.members.len() - self.ejected(now_ms)) * 100 < least * self.members.len()
    }

    fn ejected(&self, now_ms: u64) -> usize {
        self.members.iter().filter(|entry| entry.state.is_ejected(now_ms)).count()
    }

    fn weight(&self, usable: &Usable, index: usize) -> u64 {
        self.members[usable.get(index)].weight.into()
    }

    /// By chance, in proportion to the weights.
    fn drawn(&self, usable: &Usable) -> usize {
        let count = usable.len();
        if self.even {
            return usable.get(rand::rng().random_range(0..count));
        }
        let total = (0..count).map(|index| self.weight(usable, index)).sum();
        self.at_weight(usable, rand::rng().random_range(0..total))
    }

    fn at_weight(&self, usable: &Usable, mut drawn: u64) -> usize {
        for index in 0..usable.len() {
            match drawn.checked_sub(self.weight(usable, index)) {
                Some(rest) => drawn = rest,
                None => return usable.get(index),
            }
        }
        usable.get(0)
    }

    fn in_turn(&self, usable: &Usable) -> usize {
        let turn = self.turn.fetch_add(1, Relaxed);
        if self.even {
            return usable.get(turn as usize % usable.len());
        }
        let total: u64 = (0..usable.len()).map(|index| self.weight(usable, index)).sum();
        // Steps that have no divisor in common with the whole meet every place once, far from the one before.
        let mut step = (total * 5 / 8).max(1);
        while common_divisor(step, total) > 1 {
            step += 1;
        }
        self.at_weight(usable, u64::from(turn) * step % total)
    }

    /// Of two that are drawn, the one with less under way.
    fn less_busy(&self, usable: &Usable) -> usize {
        let first = self.drawn(usable);
        if usable.len() == 1 {
            return first;
        }
        let mut second = self.drawn(usable);
        if second == first && self.even {
            // Any other one, each as likely.
            let other = rand::rng().random_range(0..usable.len() - 1);
            let other = usable.get(other);
            second = if other == first { usable.get(usable.len() - 1) } else { other };
        }
        let active = |member: usize| self.members[member].state.active();
        if active(second) < active(first) { second } else { first }
    }

    /// Learns from how an attempt to reach a member went.
    pub(super) fn learn(&self, member: usize, health: Health, now_ms: u64) {
        let state = &self.members[member].state;
        let ejection = self.policy.as_ref().and_then(|policy| policy.ejection.as_ref());
        let too_many = state.count(health, ejection);
        // One may always be ejected.
        let may_be = |ejection: &Ejection| {
            let most = (self.members.len() * ejection.max_percent as usize / 100).max(1);
            !state.is_ejected(now_ms) && self.ejected(now_ms) < most
        };
        let until = match ejection.filter(|ejection| too_many && may_be(ejection)) {
            Some(ejection) => state.eject(ejection, now_ms),
            None if health == Health::Unreached => state.avoid(now_ms),
            None => return,
        };
        self.bounds.avoided_until_ms.fetch_max(until, Relaxed);
    }
}

fn common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { common_divisor(b, a % b) }
}
