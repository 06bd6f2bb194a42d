//! The store's side of the sealed key descriptor: taken back at start, deposited after every change.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;

use super::CertificateStore;
use crate::WorkloadCertificate;
use crate::certificate::Chain;
use crate::clock::backoff;
use crate::sealed::{Contents, KeyKeeper, SealedEntry, SealedError, open, seal};

/// Between two deposits: at start, all identities of a node come at once, and each deposit has all of them.
const GATHER: Duration = Duration::from_millis(200);
const MOST_RETRY: Duration = Duration::from_secs(30);

impl CertificateStore {
    /// Takes keys and certificates back from the keeper. Each is validated like a CA's answer; one that is not
    /// valid any more is left out. They wait for [`CertificateStore::serve`]; the roots are trusted unless the CA
    /// has answered already. How many were restored.
    ///
    /// # Errors
    /// The keeper cannot be asked, or what it kept is not what this store deposits. Go on without.
    pub async fn restore_from(&self, keeper: &KeyKeeper) -> Result<usize, SealedError> {
        let Some(descriptor) = keeper.withdraw().await? else { return Ok(0) };
        let contents = Contents::decode(&open(descriptor)?)?;
        Ok(self.restore(contents))
    }

    fn restore(&self, contents: Contents) -> usize {
        let shared = &self.shared;
        let now = shared.clock.now();
        let mut restored = 0;
        for entry in contents.entries {
            let SealedEntry { identity, obtained_at, key, chain } = entry;
            let chain = Chain { chain, roots: contents.roots.clone() };
            match WorkloadCertificate::check(
                &identity,
                key,
                chain,
                obtained_at.min(now),
                now,
                &*shared.jitter,
            ) {
                Ok((certificate, roots)) => {
                    if shared.trust.roots().is_empty() {
                        shared.trust.replace(roots);
                    }
                    certificate.set_kept(true);
                    if self.entry(&identity).is_none() {
                        shared.unclaimed.lock().insert(identity, Arc::new(certificate));
                        restored += 1;
                    }
                }
                Err(error) => {
                    tracing::warn!(identity = %identity, error = %error, "kept certificate not usable");
                }
            }
        }
        restored
    }

    /// Wipes what was restored and no pod has claimed: to be called once the node's pods are known.
    pub fn forget_unclaimed(&self) {
        let forgotten = std::mem::take(&mut *self.shared.unclaimed.lock());
        if !forgotten.is_empty() {
            tracing::info!(identities = forgotten.len(), "kept certificates of absent pods wiped");
            self.shared.changed();
        }
    }

    /// Deposits once more, although nothing changed: for an agent that has been restarted.
    pub fn deposit_again(&self) {
        self.held().iter().for_each(|certificate| certificate.set_kept(false));
        self.shared.changed();
    }

    /// Deposits after every change until the task is aborted: the first at once, so that a data plane that ends
    /// right after loses nothing, and those that follow within a fifth of a second together. Tries again while
    /// the agent is away.
    pub fn keep_with(&self, keeper: KeyKeeper) -> JoinHandle<()> {
        let store = Self { shared: Arc::clone(&self.shared) };
        let mut changes = self.changes();
        tokio::spawn(async move {
            while changes.changed().await.is_ok() {
                let mut failures = 0;
                loop {
                    changes.mark_unchanged();
                    match store.deposit(&keeper).await {
                        Ok(()) => break,
                        Err(error) => {
                            failures += 1;
                            tracing::warn!(error = %error, "key deposit failed");
                            let pause = backoff(failures, MOST_RETRY, &*store.shared.jitter);
                            // A change is no reason to ask an absent agent more often.
                            tokio::time::sleep(pause).await;
                        }
                    }
                }
                tokio::time::sleep(GATHER).await;
            }
        })
    }

    async fn deposit(&self, keeper: &KeyKeeper) -> Result<(), SealedError> {
        let held = self.held();
        // The buffer and the keys read into it are wiped before the agent is waited for.
        let descriptor = seal(&self.contents(&held).encode()?)?;
        keeper.deposit(descriptor).await?;
        held.iter().for_each(|certificate| certificate.set_kept(true));
        Ok(())
    }

    fn held(&self) -> Vec<Arc<WorkloadCertificate>> {
        let now = self.shared.clock.now();
        let mut held: Vec<_> = self.shared.entries().iter().filter_map(|entry| entry.valid(now)).collect();
        held.extend(self.shared.unclaimed.lock().values().cloned());
        held
    }

    fn contents(&self, held: &[Arc<WorkloadCertificate>]) -> Contents {
        let entries = held.iter().map(|certificate| SealedEntry {
            identity: certificate.identity().clone(),
            obtained_at: certificate.obtained_at(),
            key: certificate.key().clone(),
            chain: certificate.chain().to_vec(),
        });
        Contents { roots: self.shared.trust.roots().certificates(), entries: entries.collect() }
    }
}
