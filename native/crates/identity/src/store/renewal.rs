//! The task that keeps one identity's certificate fresh.

use std::sync::Arc;
use std::time::Duration;

use super::Shared;
use super::entry::Entry;
use super::order::{Begun, Placed};
use super::slots::{Priority, Slot};
use crate::certificate::Chain;
use crate::key::PrivateKey;
use crate::trust::RootSet;
use crate::{CertificateError, WorkloadCertificate};

/// Timers run on the monotonic clock and certificates on the wall clock: looking again bounds what a jump of the
/// latter (or a suspended machine) can do.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// Runs until the entry ends.
pub(super) async fn keep_fresh(shared: Arc<Shared>, entry: Arc<Entry>) {
    let work = async {
        loop {
            wait_until_due(&shared, &entry).await;
            let slot = turn(&shared, &entry).await;
            let begun = entry.begin();
            let order = shared.order.begin();
            let result = request(&shared, &entry).await;
            drop(slot);
            settle(&shared, &entry, begun, order, result);
        }
    };
    tokio::select! {
        biased;
        () = entry.ended.cancelled() => {}
        () = work => {}
    }
}

async fn wait_until_due(shared: &Shared, entry: &Entry) {
    loop {
        let wait = entry.due_in(shared.clock.now());
        if wait.is_zero() {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(wait.min(LOOK_AGAIN)) => {}
            () = entry.wake.notified() => {}
        }
    }
}

/// A slot; who waits in the background moves up as soon as a connection needs it.
async fn turn(shared: &Shared, entry: &Entry) -> Slot {
    if entry.priority() == Priority::Background {
        tokio::select! {
            biased;
            slot = shared.slots.acquire(Priority::Background) => return slot,
            () = async { while entry.priority() == Priority::Background { entry.wake.notified().await } } => {}
        }
    }
    shared.slots.acquire(Priority::Urgent).await
}

type Obtained = (WorkloadCertificate, RootSet);

async fn request(shared: &Shared, entry: &Entry) -> Result<Obtained, CertificateError> {
    let identity = &entry.identity;
    let key = PrivateKey::generate()?;
    let csr = key.csr(identity)?;
    let answer = shared
        .ca
        .create_certificate(identity, csr)
        .await
        .map_err(|error| CertificateError::Request(error.to_string()))?;
    let chain = Chain::read(&answer)
        .map_err(|problem| CertificateError::BadAnswer { identity: identity.clone(), problem })?;
    let now = shared.clock.now();
    WorkloadCertificate::check(identity, key, chain, now, now, &*shared.jitter)
}

fn settle(
    shared: &Shared,
    entry: &Entry,
    begun: u64,
    order: Begun,
    result: Result<Obtained, CertificateError>,
) {
    match result {
        Ok((certificate, roots)) => {
            shared.metrics.certificate_request("ok");
            tracing::info!(
                identity = %entry.identity,
                not_after = %meltemi_telemetry::rfc3339_seconds(certificate.not_after()),
                "certificate obtained"
            );
            // Trust first: whoever sees the certificate can verify its peers.
            let placed = shared.order.place(&shared.trust, roots, order, certificate.not_before());
            entry.install(Arc::new(certificate), begun);
            shared.changed();
            match placed {
                Placed::InForce { changed: true } => {
                    tracing::info!("trusted roots changed");
                    shared.renew_untrusted();
                }
                Placed::InForce { changed: false } => {}
                Placed::Left => {
                    tracing::info!(identity = %entry.identity, "roots of an answer that is not the latest left, asking again");
                    entry.renew_if(|_| true);
                }
            }
        }
        Err(error) => {
            let refused = matches!(error, CertificateError::BadAnswer { .. });
            shared.metrics.certificate_request(if refused { "refused" } else { "failed" });
            let retry = entry.fail(&error, shared.clock.now(), &*shared.jitter);
            tracing::warn!(
                identity = %entry.identity,
                error = %error,
                retry_ms = u64::try_from(retry.as_millis()).unwrap_or(u64::MAX),
                "certificate request failed"
            );
        }
    }
}
