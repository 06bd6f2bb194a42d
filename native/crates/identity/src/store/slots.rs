//! How many requests may be under way, and who goes first: those that a connection waits for.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Priority {
    /// A connection waits.
    Urgent,
    /// Renewal, while the old certificate is valid; or a first request that nobody waits for yet.
    Background,
}

#[derive(Debug)]
struct Queues {
    free: usize,
    urgent: VecDeque<oneshot::Sender<Slot>>,
    background: VecDeque<oneshot::Sender<Slot>>,
}

/// The queue for slots.
#[derive(Clone, Debug)]
pub(super) struct Slots(Arc<Mutex<Queues>>);

/// The right to ask the CA once; given back when dropped.
#[derive(Debug)]
pub(super) struct Slot(Option<Slots>);

impl Slots {
    pub(super) fn new(count: usize) -> Self {
        let queues = Queues { free: count.max(1), urgent: VecDeque::new(), background: VecDeque::new() };
        Self(Arc::new(Mutex::new(queues)))
    }

    /// Waits for a slot. May be dropped at any time: the turn then passes on.
    pub(super) async fn acquire(&self, priority: Priority) -> Slot {
        loop {
            let turn = {
                let mut queues = self.0.lock();
                if queues.free > 0 {
                    queues.free -= 1;
                    return Slot(Some(self.clone()));
                }
                let (sender, turn) = oneshot::channel();
                match priority {
                    Priority::Urgent => queues.urgent.push_back(sender),
                    Priority::Background => queues.background.push_back(sender),
                }
                turn
            };
            if let Ok(slot) = turn.await {
                return slot;
            }
        }
    }

    fn give_back(&self) {
        loop {
            let next = {
                let mut queues = self.0.lock();
                match queues.urgent.pop_front().or_else(|| queues.background.pop_front()) {
                    Some(next) => next,
                    None => {
                        queues.free += 1;
                        return;
                    }
                }
            };
            match next.send(Slot(Some(self.clone()))) {
                Ok(()) => return,
                // Gave up waiting. Its slot must not come back through drop, or the stack would grow.
                Err(mut unclaimed) => unclaimed.0 = None,
            }
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(slots) = self.0.take() {
            slots.give_back();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn the_urgent_one_goes_first_and_the_dropped_one_is_skipped() {
        let slots = Slots::new(1);
        let held = slots.acquire(Priority::Background).await;
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        for (name, priority) in
            [("b1", Priority::Background), ("gone", Priority::Urgent), ("u1", Priority::Urgent)]
        {
            let (slots, order) = (slots.clone(), Arc::clone(&order));
            tasks.push(tokio::spawn(async move {
                let slot = slots.acquire(priority).await;
                order.lock().push(name);
                drop(slot);
            }));
            tokio::task::yield_now().await;
        }
        tasks.remove(1).abort();
        tokio::task::yield_now().await;
        drop(held);
        for task in tasks {
            tokio::time::timeout(Duration::from_secs(5), task).await.unwrap().unwrap();
        }
        assert_eq!(*order.lock(), ["u1", "b1"]);
        assert_eq!(slots.0.lock().free, 1);
    }
}
