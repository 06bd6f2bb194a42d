//! Who is to end when too much is held.
use super::Budget;
use std::collections::{BinaryHeap, HashMap};
use std::time::Duration;

/// How long an application that is only slow may let a byte lie.
const LONG: Duration = Duration::from_secs(1);

/// What a peer may send within a small window, with what its pieces cost, is not large.
const LARGE: usize = 2 * Budget::FAIR as usize;

const WEIGHT_OF_LONG: usize = 16;

/// What one stream holds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Holding {
    /// The caller's name for it.
    pub(super) index: usize,
    pub(super) owner: u64,
    pub(super) held: usize,
    /// How long its oldest byte has waited.
    pub(super) waiting: Duration,
}

impl Holding {
    fn is_large(&self) -> bool {
        self.held > LARGE
    }

    fn is_long(&self) -> bool {
        self.waiting >= LONG
    }

    /// The greatest ends first. What lies for long weighs as many times more as a full window is larger than
    /// a small one: who reads fast, and was let have much for it, ends after those who do not read.
    fn weight(&self) -> (u32, bool, usize, Duration) {
        let bytes = if self.is_long() { self.held.saturating_mul(WEIGHT_OF_LONG) } else { self.held };
        (bytes.ilog2(), self.is_long(), self.held, self.waiting)
    }
}

/// Those that are to end. With more than `limit` held: large ones that have let bytes lie for long, until an
/// eighth less is. Where more than twice the limit is held all the same: any, until that is not so.
pub(super) fn choose(holdings: Vec<Holding>, held: usize, limit: usize) -> Vec<usize> {
    let (first, others): (Vec<_>, Vec<_>) =
        holdings.into_iter().partition(|holding| holding.is_large() && holding.is_long());
    let mut ended = Vec::new();
    let mut left = held;
    for (group, bound) in [(first, limit), (others, 2 * limit)] {
        if left > bound {
            take(group, &mut left, bound - limit / 8, &mut ended);
        }
    }
    ended
}

/// Takes the weightiest of the owner that holds most, until no more than `target` is left.
fn take(holdings: Vec<Holding>, left: &mut usize, target: usize, ended: &mut Vec<usize>) {
    let mut by_owner: HashMap<u64, (usize, Vec<Holding>)> = HashMap::new();
    for holding in holdings {
        let (total, of_owner) = by_owner.entry(holding.owner).or_default();
        *total += holding.held;
        of_owner.push(holding);
    }
    let mut owners = BinaryHeap::new();
    for (owner, (total, of_owner)) in &mut by_owner {
        of_owner.sort_unstable_by_key(Holding::weight);
        owners.push((*total, *owner));
    }
    while *left > target {
        let Some((total, owner)) = owners.pop() else { return };
        let Some(first) = by_owner.get_mut(&owner).and_then(|(_, of_owner)| of_owner.pop()) else { continue };
        ended.push(first.index);
        *left = left.saturating_sub(first.held);
        owners.push((total - first.held, owner));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const M: usize = 1 << 20;

    fn holding(index: usize, owner: u64, held: usize, waiting: Duration) -> Holding {
        Holding { index, owner, held, waiting }
    }

    #[test]
    fn the_largest_that_wait_for_long_end_until_it_is_not_too_much() {
        let all = vec![
            holding(0, 0, 3 * M, 2 * LONG),
            holding(1, 0, 5 * M, 2 * LONG),
            holding(2, 0, 9 * M, Duration::ZERO),
            holding(3, 0, M, 2 * LONG),
        ];
        assert_eq!(choose(all.clone(), 18 * M, 12 * M), [1, 0], "10.5 is what is left to");
        assert_eq!(choose(all.clone(), 18 * M, 16 * M), [1]);
        assert!(choose(all, 18 * M, 18 * M).is_empty());
    }

    #[test]
    fn who_reads_ends_only_beyond_twice_the_limit_and_after_those_who_do_not() {
        let all = vec![holding(0, 0, 9 * M, Duration::ZERO), holding(1, 0, M, 2 * LONG)];
        assert_eq!(choose(all.clone(), 10 * M, 5 * M), [1], "9 is no more than twice the limit");
        assert_eq!(choose(all, 10 * M, 4 * M), [1, 0]);
    }

    #[test]
    fn small_ones_end_only_beyond_twice_the_limit_and_after_large_ones() {
        let mut all: Vec<_> = (0..80).map(|index| holding(index, 0, M / 8, 2 * LONG)).collect();
        assert!(choose(all.clone(), 10 * M, 5 * M).is_empty());
        all.push(holding(80, 0, 4 * M, Duration::ZERO));
        assert_eq!(choose(all, 14 * M, 5 * M)[0], 80);
    }

    #[test]
    fn who_reads_fast_ends_after_the_small_windows_of_those_who_do_not() {
        let mut all: Vec<_> = (0..80).map(|index| holding(index, 0, M / 4, 2 * LONG)).collect();
        all.push(holding(80, 0, 4 * M, Duration::ZERO));
        let ended = choose(all, 24 * M, 10 * M);
        assert!(!ended.is_empty() && !ended.contains(&80));
    }

    #[test]
    fn of_about_one_size_those_end_that_do_not_read() {
        let all = vec![
            holding(0, 0, 200 << 10, Duration::ZERO),
            holding(1, 0, 190 << 10, 2 * LONG),
            holding(2, 0, 100 << 10, 2 * LONG),
        ];
        assert_eq!(choose(all, 490 << 10, 200 << 10), [1]);
    }

    #[test]
    fn many_small_ones_of_one_owner_end_before_the_larger_one_of_another() {
        let mut all: Vec<_> = (0..100).map(|index| holding(index, 1, 10 << 10, 2 * LONG)).collect();
        all.push(holding(100, 2, 200 << 10, 2 * LONG));
        let ended = choose(all, 1200 << 10, 400 << 10);
        assert_eq!(ended.len(), 45, "until 750 are left");
        assert!(!ended.contains(&100));
    }
}
