//! Follows the mesh's trust bundle (docs/node-interfaces.md, "Trust bundle") where no node agent does it: when the
//! roots or the issuer change, what the store holds is renewed, at a random moment within the time given.

use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use meltemi_types::meltemi::trust_service_client::TrustServiceClient;
use meltemi_types::meltemi::{TrustBundle, WatchTrustBundleRequest};
use tokio::time::Instant;
use tonic::Streaming;

use crate::clock::backoff;
use crate::{CaError, CertificateStore, GrpcCa, Jitter};

/// Between attempts to follow, at most.
const MOST_PAUSE: Duration = Duration::from_secs(15);

/// A renewal that is asked for and not due yet.
struct Due {
    at: Instant,
    /// Certificates whose not_before is at or before it are renewed.
    until: SystemTime,
}

impl Due {
    fn of(bundle: &TrustBundle, jitter: &dyn Jitter) -> Option<Self> {
        let until = u64::try_from(bundle.renew_not_before_until_s).ok().filter(|seconds| *seconds > 0)?;
        let spread = Duration::from_millis(u64::from(bundle.spread_ms));
        Some(Self {
            at: Instant::now() + spread.mul_f64(jitter.fraction().clamp(0.0, 1.0)),
            until: UNIX_EPOCH.checked_add(Duration::from_secs(until))?,
        })
    }
}

impl GrpcCa {
    /// Has `store` renew what the control plane wants renewed, for as long as it is awaited: reconnects with
    /// back-off, and never ends by itself. A CA that has no such service is asked again and again, and told of
    /// at the level of debugging.
    pub async fn follow_trust(&self, store: Arc<CertificateStore>, jitter: Arc<dyn Jitter>) {
        let mut failures = 0;
        loop {
            match self.watch().await {
                Ok(mut bundles) => follow(&mut bundles, &store, &*jitter, &mut failures).await,
                Err(error) => tracing::debug!(%error, "trust bundle not followed"),
            }
            failures += 1;
            tokio::time::sleep(backoff(failures, MOST_PAUSE, &*jitter)).await;
        }
    }

    async fn watch(&self) -> Result<Streaming<TrustBundle>, CaError> {
        let request = self.authorized(WatchTrustBundleRequest {}).await?;
        let mut client = TrustServiceClient::new(self.channel());
        match tokio::time::timeout(self.request_timeout(), client.watch_trust_bundle(request)).await {
            Ok(answer) => answer.map(tonic::Response::into_inner).map_err(|status| self.failed(&status)),
            Err(_) => Err(self.no_answer()),
        }
    }
}

/// Until the stream ends.
async fn follow(
    bundles: &mut Streaming<TrustBundle>,
    store: &CertificateStore,
    jitter: &dyn Jitter,
    failures: &mut u32,
) {
    let mut due: Option<Due> = None;
    let mut version = 0;
    loop {
        let waiting = async {
            match &due {
                Some(due) => tokio::time::sleep_until(due.at).await,
                None => pending().await,
            }
        };
        tokio::select! {
            message = bundles.message() => match message {
                Ok(Some(bundle)) => {
                    *failures = 0;
                    version = bundle.version;
                    due = Due::of(&bundle, jitter);
                }
                Ok(None) => return,
                Err(status) => {
                    tracing::debug!(error = status.message(), "trust bundle no longer followed");
                    return;
                }
            },
            () = waiting => {
                let Some(due) = due.take() else { continue };
                let renewing = store.renew(Some(due.until));
                if renewing > 0 {
                    tracing::info!(trust_version = version, renewing, "certificates are being renewed");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
