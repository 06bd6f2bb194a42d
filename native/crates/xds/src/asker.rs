//! The demanding side: names wanted, until the stream takes them.

use std::collections::HashSet;
use std::sync::Arc;

use meltemi_types::discovery::Demander;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Takes demands from any task; cheap to clone. Names wait here while there is no stream.
#[derive(Debug, Clone, Default)]
pub struct Asker(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    wanted: Mutex<HashSet<String>>,
    changed: Notify,
}

impl Demander for Asker {
    fn demand(&self, name: &str) {
        let added = {
            let mut wanted = self.0.wanted.lock();
            !wanted.contains(name) && wanted.insert(name.to_owned())
        };
        if added {
            self.0.changed.notify_one();
        }
    }
}

impl Asker {
    /// All names wanted since the last call; waits until there is one. Cancel-safe.
    pub(crate) async fn take(&self) -> Vec<String> {
        loop {
            let wanted = std::mem::take(&mut *self.0.wanted.lock());
            if !wanted.is_empty() {
                return wanted.into_iter().collect();
            }
            self.0.changed.notified().await;
        }
    }
}
