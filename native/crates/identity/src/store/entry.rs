//! One identity that is served: its certificate, the last failure, and when the next request is due.
//!
//! ```text
//! requesting ──answer──> valid ──half of life, or asked to──> valid, requesting ──answer──> valid
//!     │  ^                                                        │  ^
//!   failure, back-off                                          failure, back-off (the old one stays in use)
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use meltemi_types::Identity;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::slots::Priority;
use crate::clock::backoff;
use crate::{CertificateError, Jitter, WorkloadCertificate};

/// The longest wait between two failed requests, while nobody waits.
const MOST_BACKOFF: Duration = Duration::from_secs(60);
/// The same while a connection waits.
const MOST_BACKOFF_URGENT: Duration = Duration::from_secs(1);
/// The least: also the pause between two renewals, however short a life the CA gives.
const LEAST_PAUSE: Duration = Duration::from_millis(250);

#[derive(Debug, Default)]
struct Status {
    certificate: Option<Arc<WorkloadCertificate>>,
    /// Of the last request, if it failed.
    error: Option<String>,
    failures: u32,
    last_attempt: Option<Instant>,
    retry_after: Duration,
    /// Counts calls to renew early; a request started at the present count satisfies them.
    renewals_asked: u64,
    renewals_done: u64,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) identity: Identity,
    status: Mutex<Status>,
    /// Changes when a certificate is put in.
    installed: watch::Sender<u64>,
    waiters: AtomicUsize,
    /// Something may be due earlier than it was.
    pub(super) wake: Notify,
    pub(super) ended: CancellationToken,
}

impl Entry {
    pub(super) fn new(identity: Identity, certificate: Option<Arc<WorkloadCertificate>>) -> Self {
        Self {
            identity,
            status: Mutex::new(Status { certificate, ..Status::default() }),
            installed: watch::channel(0).0,
            waiters: AtomicUsize::new(0),
            wake: Notify::new(),
            ended: CancellationToken::new(),
        }
    }

    pub(super) fn valid(&self, now: SystemTime) -> Option<Arc<WorkloadCertificate>> {
        self.status.lock().certificate.as_ref().filter(|held| held.is_valid_at(now)).cloned()
    }

    pub(super) fn held(&self) -> (Option<Arc<WorkloadCertificate>>, Option<String>) {
        let status = self.status.lock();
        (status.certificate.clone(), status.error.clone())
    }

    /// Waits for a valid certificate.
    pub(super) async fn wait(
        &self,
        clock: &dyn crate::Clock,
        wait: Duration,
    ) -> Result<Arc<WorkloadCertificate>, CertificateError> {
        let mut installed = self.installed.subscribe();
        let _waiting = Waiting::new(self);
        let arrival = async {
            loop {
                if let Some(certificate) = self.valid(clock.now()) {
                    return Some(certificate);
                }
                tokio::select! {
                    changed = installed.changed() => if changed.is_err() { return None },
                    () = self.ended.cancelled() => return None,
                }
            }
        };
        match tokio::time::timeout(wait, arrival).await {
            Ok(Some(certificate)) => Ok(certificate),
            Ok(None) => Err(CertificateError::NotServed(self.identity.clone())),
            Err(_) => {
                let last = self.status.lock().error.clone();
                let last = last.unwrap_or_else(|| "the CA has not answered yet".to_owned());
                Err(CertificateError::NotYet { identity: self.identity.clone(), waited: wait, last })
            }
        }
    }

    /// Urgent where a connection waits in vain, else background.
    pub(super) fn priority(&self) -> Priority {
        if self.waiters.load(Ordering::Acquire) > 0 { Priority::Urgent } else { Priority::Background }
    }

    /// How long until the next request is due; zero: now.
    pub(super) fn due_in(&self, now: SystemTime) -> Duration {
        let status = self.status.lock();
        let since = status.last_attempt.map_or(Duration::MAX, |last| last.elapsed());
        let pause = if status.failures > 0 {
            let urgent = self.priority() == Priority::Urgent;
            if urgent { status.retry_after.min(MOST_BACKOFF_URGENT) } else { status.retry_after }
        } else {
            LEAST_PAUSE
        };
        let pause = pause.saturating_sub(since);
        let asked = status.renewals_asked > status.renewals_done;
        match &status.certificate {
            Some(held) if !asked && held.is_valid_at(now) => {
                held.renew_at().duration_since(now).unwrap_or_default().max(pause)
            }
            _ => pause,
        }
    }

    /// Notes the start of a request; the number is for [`Entry::install`].
    pub(super) fn begin(&self) -> u64 {
        let mut status = self.status.lock();
        status.last_attempt = Some(Instant::now());
        status.renewals_asked
    }

    pub(super) fn install(&self, certificate: Arc<WorkloadCertificate>, begun: u64) {
        {
            let mut status = self.status.lock();
            let renewals_asked = status.renewals_asked;
            let last_attempt = status.last_attempt;
            *status = Status {
                certificate: Some(certificate),
                renewals_asked,
                renewals_done: begun,
                last_attempt,
                ..Status::default()
            };
        }
        self.installed.send_modify(|count| *count += 1);
    }

    /// Notes a failed request and returns the wait until the next.
    pub(super) fn fail(&self, error: &CertificateError, now: SystemTime, jitter: &dyn Jitter) -> Duration {
        let mut status = self.status.lock();
        status.failures = status.failures.saturating_add(1);
        status.error = Some(error.to_string());
        // Towards the end of a certificate's life it is tried more often, so that a short outage costs nothing.
        let left = status
            .certificate
            .as_ref()
            .and_then(|held| held.not_after().duration_since(now).ok())
            .map_or(MOST_BACKOFF, |left| (left / 8).clamp(LEAST_PAUSE, MOST_BACKOFF));
        status.retry_after = backoff(status.failures, left, jitter);
        status.retry_after
    }

    /// Asks for a renewal now if `which` says so of the held certificate; true if it was asked.
    pub(super) fn renew_if(&self, which: impl Fn(&WorkloadCertificate) -> bool) -> bool {
        {
            let mut status = self.status.lock();
            if !status.certificate.as_ref().is_some_and(|held| which(held)) {
                return false;
            }
            status.renewals_asked += 1;
        }
        self.wake.notify_one();
        true
    }
}

/// Counts a connection as waiting for as long as it lives.
struct Waiting<'a>(&'a Entry);

impl<'a> Waiting<'a> {
    fn new(entry: &'a Entry) -> Self {
        entry.waiters.fetch_add(1, Ordering::AcqRel);
        entry.wake.notify_one();
        Self(entry)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiters.fetch_sub(1, Ordering::AcqRel);
    }
}
