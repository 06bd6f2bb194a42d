//! Which of two answers of the CA has the later bundle of roots.
//!
//! Answers do not say. A request that began after another's answer had come was answered later. Of requests
//! that were under way together, the leaf tells: CAs date it by the second of signing, less an allowance that
//! is the same for all. Where that does not tell either, the present bundle stays and the CA is asked again.
use crate::trust::{RootSet, Trust};
use parking_lot::Mutex;
use std::time::SystemTime;

#[derive(Debug, Default)]
pub(super) struct Order(Mutex<Latest>);

#[derive(Debug, Default)]
struct Latest {
    taken: u64,
    not_before: Option<SystemTime>,
}

/// When a request began, among the bundles that were put in force.
#[derive(Debug, Clone, Copy)]
pub(super) struct Begun(u64);

/// What became of a bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Placed {
    /// It is in force; whether it differs from the one before.
    InForce { changed: bool },
    /// Another is in force that is not known to be older.
    Left,
}

impl Order {
    pub(super) fn begin(&self) -> Begun {
        Begun(self.0.lock().taken)
    }

    /// `not_before`: of the leaf that came with the bundle.
    pub(super) fn place(
        &self,
        trust: &Trust,
        roots: RootSet,
        begun: Begun,
        not_before: SystemTime,
    ) -> Placed {
        let mut latest = self.0.lock();
        let is_later = begun.0 == latest.taken || latest.not_before.is_none_or(|held| held < not_before);
        if !is_later {
            let same = trust.roots().same_as(&roots);
            return if same { Placed::InForce { changed: false } } else { Placed::Left };
        }
        latest.taken += 1;
        latest.not_before = Some(not_before);
        Placed::InForce { changed: trust.replace(roots) }
    }
}
