//! How much all tunnels of the process hold for applications that do not read.
//!
//! Windows bound a stream and a tunnel; peers may open many of both. While little is held, every stream has
//! its full window, so that nobody waits for anybody. Once much is held, all windows shrink. Once too much
//! is held, streams are ended: of the owner that holds most the largest first, whoever it was that grew, and
//! before others of their size those whose applications have let bytes lie for long. Who reads is not ended
//! for those who do not.
mod shed;

use futures::task::AtomicWaker;
use parking_lot::Mutex;
use shed::Holding;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// What each piece costs beside its bytes: a peer may send them one by one.
const PIECE: usize = 64;

/// While too much is held, it is looked again this often for whom to end.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// Nothing waits to be read.
const NOTHING: u64 = u64::MAX;

/// Bytes received in streams and not yet taken by their applications. Cheap to clone: one account, and one
/// owner of what is held through it.
#[derive(Debug, Clone)]
pub struct Budget {
    account: Arc<Account>,
    owner: u64,
}

#[derive(Debug)]
struct Account {
    limit: usize,
    made: Instant,
    held: AtomicUsize,
    /// Of `held`: by streams that have been told to end.
    ending: AtomicUsize,
    is_scarce: AtomicBool,
    scarce: watch::Sender<bool>,
    owners: AtomicU64,
    /// Streams that have ever held something.
    holders: Mutex<Vec<Weak<Holder>>>,
    is_settling: AtomicBool,
}

#[derive(Debug)]
struct Holder {
    owner: u64,
    held: AtomicUsize,
    /// Since when the oldest byte waits, in milliseconds of the account, or [`NOTHING`]. At most twice as
    /// long in truth.
    since_ms: AtomicU64,
    /// Counted in `ending`; [`NOT_ENDED`] while it may go on.
    ended: AtomicUsize,
    waker: AtomicWaker,
}

const NOT_ENDED: usize = usize::MAX;

impl Budget {
    /// `limit` in bytes. Windows shrink from half of it. With more than all of it in use, streams end that hold
    /// more than twice [`Budget::FAIR`] and whose applications have let bytes lie for a second, until it is no
    /// longer so; with more than twice of it, others too.
    pub fn new(limit: usize) -> Self {
        let account = Account {
            limit,
            made: Instant::now(),
            held: AtomicUsize::new(0),
            ending: AtomicUsize::new(0),
            is_scarce: AtomicBool::new(false),
            scarce: watch::Sender::new(false),
            owners: AtomicU64::new(1),
            holders: Mutex::default(),
            is_settling: AtomicBool::new(false),
        };
        Self { account: Arc::new(account), owner: 0 }
    }

    /// The same account for another owner: what one owner's streams hold costs the others none of theirs.
    #[must_use]
    pub fn for_owner(&self) -> Self {
        let owner = self.account.owners.fetch_add(1, Ordering::Relaxed);
        Self { account: self.account.clone(), owner }
    }

    /// Window of a stream, in bytes, while memory is scarce.
    pub const FAIR: u32 = 256 << 10;

    /// Bytes held now.
    pub fn held(&self) -> usize {
        self.account.held.load(Ordering::Relaxed)
    }

    /// Whether windows are to be small; wakes when that changes.
    pub(crate) fn scarce(&self) -> watch::Receiver<bool> {
        self.account.scarce.subscribe()
    }

    pub(crate) fn share(&self) -> Share {
        Share { budget: self.clone(), held: 0, oldest: 0, holder: None }
    }
}

impl Account {
    fn moved(&self, before: usize, after: usize) {
        let total = if after > before {
            self.held.fetch_add(after - before, Ordering::SeqCst) + (after - before)
        } else {
            self.held.fetch_sub(before - after, Ordering::SeqCst) - (before - after)
        };
        // Apart from each other, so that it does not flip with every piece.
        let (on, off) = (total > self.limit / 2, total < self.limit / 4);
        if (on || off) && self.is_scarce.swap(on, Ordering::Relaxed) != on {
            self.scarce.send_replace(self.is_scarce.load(Ordering::Relaxed));
        }
    }

    /// What is held by those that may go on.
    fn staying(&self) -> usize {
        self.held.load(Ordering::SeqCst).saturating_sub(self.ending.load(Ordering::SeqCst))
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.made.elapsed().as_millis()).unwrap_or(NOTHING - 1)
    }

    fn enter(&self, owner: u64) -> Arc<Holder> {
        let holder = Arc::new(Holder {
            owner,
            held: AtomicUsize::new(0),
            since_ms: AtomicU64::new(NOTHING),
            ended: AtomicUsize::new(NOT_ENDED),
            waker: AtomicWaker::new(),
        });
        let mut holders = self.holders.lock();
        // Before it would grow: the work for the gone is shared by those that come.
        if holders.len() == holders.capacity() {
            holders.retain(|holder| holder.strong_count() > 0);
            let room = 2 * holders.len() + 16;
            holders.shrink_to(room);
        }
        holders.push(Arc::downgrade(&holder));
        holder
    }

    /// Ends streams until what is held is no longer too much, as far as there are any to end.
    fn shed(&self) {
        let staying = self.staying();
        if staying <= self.limit {
            return;
        }
        let now_ms = self.now_ms();
        let holders: Vec<_> = self.holders.lock().iter().filter_map(Weak::upgrade).collect();
        let holdings = holders.iter().enumerate().filter_map(|(index, holder)| holder.holding(index, now_ms));
        for index in shed::choose(holdings.collect(), staying, self.limit) {
            holders[index].end(self);
        }
    }

    /// Has streams ended for as long as too much is held.
    fn settle(self: &Arc<Self>) {
        if self.is_settling.swap(true, Ordering::SeqCst) {
            return;
        }
        let account = self.clone();
        tokio::spawn(async move {
            loop {
                while account.staying() > account.limit {
                    account.shed();
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
                account.is_settling.store(false, Ordering::SeqCst);
                // Who has grown just before that has left it to this task.
                if account.staying() <= account.limit || account.is_settling.swap(true, Ordering::SeqCst) {
                    return;
                }
            }
        });
    }
}

impl Holder {
    fn holding(&self, index: usize, now_ms: u64) -> Option<Holding> {
        let held = self.held.load(Ordering::Relaxed);
        let since_ms = self.since_ms.load(Ordering::Relaxed);
        let may_go_on = self.ended.load(Ordering::Relaxed) == NOT_ENDED;
        (held > 0 && may_go_on).then(|| Holding {
            index,
            owner: self.owner,
            held,
            waiting: Duration::from_millis(now_ms.saturating_sub(since_ms)),
        })
    }

    fn end(&self, account: &Account) {
        let held = self.held.load(Ordering::Relaxed);
        // Added before it can be taken away again.
        account.ending.fetch_add(held, Ordering::AcqRel);
        match self.ended.compare_exchange(NOT_ENDED, held, Ordering::AcqRel, Ordering::Relaxed) {
            Ok(_) => self.waker.wake(),
            Err(_) => {
                account.ending.fetch_sub(held, Ordering::AcqRel);
            }
        }
    }

    fn is_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire) != NOT_ENDED
    }
}

/// What one stream holds; given back when dropped.
#[derive(Debug)]
pub(crate) struct Share {
    budget: Budget,
    held: usize,
    /// Bytes that are to be taken before the oldest of those that wait is another.
    oldest: usize,
    /// Only of a stream that has held something.
    holder: Option<Arc<Holder>>,
}

impl Share {
    /// Tells what waits to be taken.
    pub(crate) fn set(&mut self, bytes: usize, pieces: usize) {
        let now = bytes + pieces * PIECE;
        if now == self.held && (self.oldest > 0 || bytes == 0) {
            return;
        }
        let account = &self.budget.account;
        let holder = self.holder.get_or_insert_with(|| account.enter(self.budget.owner));
        if bytes == 0 {
            self.oldest = 0;
            holder.since_ms.store(NOTHING, Ordering::Relaxed);
        } else if self.oldest == 0 {
            self.oldest = bytes;
            holder.since_ms.store(account.now_ms(), Ordering::Relaxed);
        }
        holder.held.store(now, Ordering::Relaxed);
        account.moved(self.held, now);
        let grown = now > self.held;
        self.held = now;
        if grown && account.staying() > account.limit {
            account.settle();
            // What comes faster than the task is scheduled is not waited for.
            if account.staying() > 2 * account.limit {
                account.shed();
            }
        }
    }

    /// Tells what the application took, and what waits after that.
    pub(crate) fn taken(&mut self, taken: usize, bytes: usize, pieces: usize) {
        if self.held == 0 {
            return;
        }
        self.oldest = self.oldest.saturating_sub(taken);
        self.set(bytes, pieces);
    }

    /// Completes when the stream is to end, because too much is held.
    pub(crate) fn poll_ended(&self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(holder) = &self.holder else { return Poll::Pending };
        holder.waker.register(cx.waker());
        if holder.is_ended() { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let Some(holder) = self.holder.take() else { return };
        self.budget.account.moved(self.held, 0);
        // From here nobody can end it any more.
        let ending = holder.ended.swap(0, Ordering::AcqRel);
        if ending != NOT_ENDED {
            self.budget.account.ending.fetch_sub(ending, Ordering::AcqRel);
        }
    }
}

#[cfg(test)]
mod tests;
