//! The succession of streams.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use meltemi_types::discovery::ResourceSink;
use rand::Rng;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::asker::Asker;
use crate::options::{Backoff, ClientOptions, Metrics};
use crate::stream::Session;
use crate::subscriptions::Subscriptions;

/// How the client stands with its server.
#[derive(Debug, Clone)]
pub struct Status {
    pub connected: bool,
    pub since: SystemTime,
    /// Why the last stream ended or could not be opened.
    pub last_error: Option<String>,
}

/// A delta ADS client. [`Client::run`] does the work.
pub struct Client {
    options: ClientOptions,
    sink: Arc<dyn ResourceSink>,
    metrics: Arc<dyn Metrics>,
    asker: Asker,
    status: watch::Sender<Status>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Client {
    pub fn new(options: ClientOptions, sink: Arc<dyn ResourceSink>, metrics: Arc<dyn Metrics>) -> Self {
        let status = Status { connected: false, since: SystemTime::now(), last_error: None };
        Self { options, sink, metrics, asker: Asker::default(), status: watch::Sender::new(status) }
    }

    /// What the sink asks with.
    pub fn asker(&self) -> Asker {
        self.asker.clone()
    }

    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// Connects, and again whenever a stream ends, until cancelled. What was received stays in force
    /// in between.
    pub async fn run(self, cancelled: CancellationToken) {
        let mut subscriptions = Subscriptions::new(self.options.on_demand);
        let mut wait = self.options.backoff.first;
        loop {
            let answered = tokio::select! {
                answered = self.stream(&mut subscriptions) => answered,
                () = cancelled.cancelled() => break,
            };
            wait = if answered { self.options.backoff.first } else { wait };
            let jittered = jitter(wait);
            wait = lengthen(wait, self.options.backoff);
            tokio::select! {
                () = collect_for(&self.asker, &mut subscriptions, jittered) => {}
                () = cancelled.cancelled() => break,
            }
        }
        self.metrics.connected(false);
    }

    /// One stream, from its opening to its end. Whether the server answered on it.
    async fn stream(&self, subscriptions: &mut Subscriptions) -> bool {
        let mut session = Session::new(&self.options, &self.sink, &self.metrics, &self.asker, subscriptions);
        let end = session
            .run(|| {
                tracing::info!("discovery stream opened");
                self.metrics.connected(true);
                self.status.send_replace(Status {
                    connected: true,
                    since: SystemTime::now(),
                    last_error: None,
                });
            })
            .await;
        let error = end.told();
        tracing::warn!(error, "discovery stream ended");
        self.metrics.connected(false);
        self.status.send_replace(Status {
            connected: false,
            since: SystemTime::now(),
            last_error: Some(error),
        });
        session.answered
    }
}

/// Waits, taking demands meanwhile for the next stream's first request.
async fn collect_for(asker: &Asker, subscriptions: &mut Subscriptions, wait: Duration) {
    let until = tokio::time::sleep(wait);
    tokio::pin!(until);
    loop {
        tokio::select! {
            () = &mut until => return,
            wanted = asker.take() => subscriptions.note(wanted),
        }
    }
}

/// Between half of it and all.
fn jitter(wait: Duration) -> Duration {
    wait.mul_f64(rand::rng().random_range(0.5..=1.0))
}

fn lengthen(wait: Duration, backoff: Backoff) -> Duration {
    (wait * 2).min(backoff.longest)
}
