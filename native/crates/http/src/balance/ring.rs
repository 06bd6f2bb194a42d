//! A consistent hash: each member has points on a ring, and a key belongs to the first point after its own hash.
//! One member more or less moves only the keys that are its own.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher, Hash};

/// Points of a member of weight 1: shares differ by some tenth.
const POINTS: u32 = 128;
/// Points of one member, whatever its weight.
const MOST_POINTS: u32 = 1024;

/// The same in every process: several waypoints agree.
pub(super) fn hash_of(value: impl Hash) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one(value)
}

#[derive(Debug)]
pub(super) struct Ring {
    /// In order of their hashes.
    points: Box<[(u64, u32)]>,
}

impl Ring {
    /// Names and weights, in the order by which members are numbered.
    pub(super) fn new<'a>(members: impl Iterator<Item = (&'a str, u32)>) -> Self {
        let mut points = Vec::new();
        for (number, (name, weight)) in members.enumerate() {
            let count = POINTS.saturating_mul(weight).min(MOST_POINTS);
            points.extend((0..count).map(|point| (hash_of((name, point)), number as u32)));
        }
        points.sort_unstable();
        Self { points: points.into() }
    }

    /// The members that a key belongs to, in the order in which they take one another's place.
    pub(super) fn walk(&self, key: u64) -> impl Iterator<Item = u32> {
        let from = self.points.partition_point(|(hash, _)| *hash < key);
        let (before, after) = self.points.split_at(from);
        after.iter().chain(before).map(|(_, member)| *member)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owners(names: &[(&'static str, u32)]) -> Vec<&'static str> {
        let ring = Ring::new(names.iter().copied());
        (0..10_000_u32).map(|key| names[ring.walk(hash_of(key)).next().unwrap() as usize].0).collect()
    }

    #[test]
    fn a_member_that_comes_or_goes_moves_only_its_own_keys() {
        let all = [("a", 1), ("b", 1), ("c", 1), ("d", 1), ("e", 1)];
        let (five, four) = (owners(&all), owners(&all[..4]));
        let moved = five.iter().zip(&four).filter(|(five, four)| five != four).count();
        assert_eq!(moved, five.iter().filter(|owner| **owner == "e").count());
        assert!((1_000..3_500).contains(&moved), "{moved}");
        for name in ["a", "b", "c", "d", "e"] {
            let share = five.iter().filter(|owner| **owner == name).count();
            assert!((1_000..3_500).contains(&share), "{name}: {share}");
        }
    }

    #[test]
    fn weights_are_shares() {
        let owners = owners(&[("a", 1), ("b", 3)]);
        let share = owners.iter().filter(|owner| **owner == "b").count();
        assert!((6_500..8_500).contains(&share), "{share}");
    }

    #[test]
    fn a_walk_meets_everybody() {
        let ring = Ring::new([("a", 1), ("b", 1)].into_iter());
        let met: std::collections::BTreeSet<_> = ring.walk(u64::MAX).collect();
        assert_eq!(met.len(), 2);
    }
}
