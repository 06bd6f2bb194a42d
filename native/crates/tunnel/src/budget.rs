//! How much all tunnels of the process hold for applications that do not read.
//!
//! Windows bound a stream and a tunnel; peers may open many of both. While little is held, every stream has
//! its full window, so that nobody waits for anybody. Once much is held, all windows shrink; a peer that
//! does not heed that loses the streams that grow all the same.
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::watch;

/// What each piece costs beside its bytes: a peer may send them one by one.
const PIECE: usize = 64;

/// How long an application that is only slow may take nothing.
const LONG: Duration = Duration::from_secs(1);

/// Bytes received in streams and not yet taken by their applications. Cheap to clone: one account.
#[derive(Debug, Clone)]
pub struct Budget(Arc<Account>);

#[derive(Debug)]
struct Account {
    limit: usize,
    held: AtomicUsize,
    is_scarce: AtomicBool,
    scarce: watch::Sender<bool>,
}

impl Budget {
    /// `limit` in bytes. Windows shrink from half of it. With all of it in use, a stream that grows beyond
    /// [`Budget::FAIR`] is ended if its application has long taken nothing; with twice of it in use, also if
    /// it has just taken something; with four times of it in use, any that grows.
    pub fn new(limit: usize) -> Self {
        let (held, is_scarce) = (AtomicUsize::new(0), AtomicBool::new(false));
        Self(Arc::new(Account { limit, held, is_scarce, scarce: watch::Sender::new(false) }))
    }

    /// Window of a stream, in bytes, while memory is scarce.
    pub const FAIR: u32 = 256 << 10;

    /// Bytes held now.
    pub fn held(&self) -> usize {
        self.0.held.load(Ordering::Relaxed)
    }

    /// Whether windows are to be small; wakes when that changes.
    pub(crate) fn scarce(&self) -> watch::Receiver<bool> {
        self.0.scarce.subscribe()
    }

    pub(crate) fn share(&self) -> Share {
        Share { budget: self.clone(), held: 0 }
    }

    fn moved(&self, before: usize, after: usize) {
        if before == after {
            return;
        }
        let held = &self.0.held;
        let total = if after > before {
            held.fetch_add(after - before, Ordering::Relaxed) + (after - before)
        } else {
            held.fetch_sub(before - after, Ordering::Relaxed) - (before - after)
        };
        // Apart from each other, so that it does not flip with every piece.
        let (on, off) = (total > self.0.limit / 2, total < self.0.limit / 4);
        if (on || off) && self.0.is_scarce.swap(on, Ordering::Relaxed) != on {
            self.0.scarce.send_replace(self.0.is_scarce.load(Ordering::Relaxed));
        }
    }
}

/// What one stream holds; given back when dropped.
#[derive(Debug)]
pub(crate) struct Share {
    budget: Budget,
    held: usize,
}

impl Share {
    pub(crate) fn set(&mut self, bytes: usize, pieces: usize) {
        let now = bytes + pieces * PIECE;
        self.budget.moved(self.held, now);
        self.held = now;
    }

    pub(crate) fn held(&self) -> usize {
        self.held
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.held == 0
    }

    /// Whether a stream that has just grown is one too many.
    pub(crate) fn is_excessive(&self, stalled: Duration) -> bool {
        let (total, limit) = (self.budget.held(), self.budget.0.limit);
        // What a peer may send within a small window, with what its pieces cost, is not large.
        let large = self.held > 2 * Budget::FAIR as usize;
        total > 4 * limit || (large && (total > 2 * limit || (total > limit && stalled > LONG)))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set(0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_given_back() {
        let budget = Budget::new(1000);
        let mut share = budget.share();
        share.set(936, 1);
        assert_eq!(budget.held(), 1000);
        share.set(10, 0);
        assert_eq!(budget.held(), 10);
        drop(share);
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn memory_is_scarce_from_half_and_no_more_below_a_quarter() {
        let budget = Budget::new(1000);
        let scarce = budget.scarce();
        let mut share = budget.share();
        share.set(500, 0);
        assert!(!*scarce.borrow());
        share.set(501, 0);
        assert!(*scarce.borrow());
        share.set(250, 0);
        assert!(*scarce.borrow());
        share.set(249, 0);
        assert!(!*scarce.borrow());
    }

    #[test]
    fn large_holders_go_first_then_all_that_grow() {
        let fair = Budget::FAIR as usize;
        let budget = Budget::new(4 * fair);
        let (mut small, mut large) = (budget.share(), budget.share());
        small.set(fair, 0);
        large.set(3 * fair, 0);
        let (now, long) = (Duration::ZERO, 2 * LONG);
        assert!(!small.is_excessive(long) && !large.is_excessive(long));
        large.set(4 * fair, 0);
        assert!(!small.is_excessive(long) && large.is_excessive(long) && !large.is_excessive(now));
        large.set(8 * fair, 0);
        assert!(!small.is_excessive(long) && large.is_excessive(now));
        large.set(16 * fair, 0);
        assert!(small.is_excessive(now) && large.is_excessive(now));
    }
}
