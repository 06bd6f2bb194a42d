//! What many attempts come to.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::failure::{Failure, Kind};
use crate::output::epoch_ms;

/// The first failures are kept in full, the rest is counted.
const KEPT_FAILURES: usize = 20;

/// One attempt, as `--lines` prints it.
#[derive(Debug, Serialize)]
pub(crate) struct Attempt {
    pub(crate) at_ms: u64,
    pub(crate) latency_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) server: Option<String>,
    /// The client's address as the server saw it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) client: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) local: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<Kind>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) message: Option<String>,
}

#[derive(Debug, Serialize)]
struct KeptFailure {
    at_ms: u64,
    error: Kind,
    message: String,
}

#[derive(Debug, Default, Serialize)]
pub(crate) struct Latencies {
    pub(crate) min: f64,
    pub(crate) mean: f64,
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) max: f64,
}

impl Latencies {
    /// Percentiles by nearest rank; zeros when there is nothing to rank.
    pub(crate) fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let (Some(min), Some(max)) = (values.first().copied(), values.last().copied()) else {
            return Self::default();
        };
        let rank = |fraction: f64| {
            let index = ((values.len() as f64 * fraction).ceil() as usize).clamp(1, values.len()) - 1;
            values[index]
        };
        Self {
            min,
            mean: values.iter().sum::<f64>() / values.len() as f64,
            p50: rank(0.5),
            p90: rank(0.9),
            p99: rank(0.99),
            p999: rank(0.999),
            max,
        }
    }
}

/// Counts of what happened, with the times between which there was no success.
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    requests: u64,
    /// Answers with any status: the connection worked.
    answered: u64,
    /// Answers with a 2xx status.
    ok: u64,
    failed: u64,
    statuses: BTreeMap<String, u64>,
    servers: BTreeMap<String, u64>,
    /// IP addresses under which servers saw this client.
    clients: BTreeMap<String, u64>,
    errors: BTreeMap<Kind, u64>,
    latency_ms: Latencies,
    started_at_ms: u64,
    ended_at_ms: u64,
    first_failure_at_ms: Option<u64>,
    last_failure_at_ms: Option<u64>,
    last_success_at_ms: Option<u64>,
    /// The longest time between two successes in a row.
    longest_gap_ms: u64,
    failures: Vec<KeptFailure>,
    #[serde(skip)]
    latencies: Vec<f64>,
}

impl Summary {
    pub(crate) fn start() -> Self {
        Self {
            requests: 0,
            answered: 0,
            ok: 0,
            failed: 0,
            statuses: BTreeMap::new(),
            servers: BTreeMap::new(),
            clients: BTreeMap::new(),
            errors: BTreeMap::new(),
            latency_ms: Latencies::default(),
            started_at_ms: epoch_ms(),
            ended_at_ms: 0,
            first_failure_at_ms: None,
            last_failure_at_ms: None,
            last_success_at_ms: None,
            longest_gap_ms: 0,
            failures: Vec::new(),
            latencies: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, attempt: &Attempt) {
        self.requests += 1;
        if let Some(kind) = attempt.error {
            let failure = Failure::new(kind, attempt.message.clone().unwrap_or_default());
            self.fail(attempt.at_ms, failure);
            return;
        }
        self.answered += 1;
        if let Some(status) = attempt.status {
            *self.statuses.entry(status.to_string()).or_default() += 1;
            if (200..300).contains(&status) {
                self.ok += 1;
            }
        }
        if let Some(server) = &attempt.server {
            *self.servers.entry(server.clone()).or_default() += 1;
        }
        if let Some((ip, _port)) = attempt.client.as_deref().and_then(|client| client.rsplit_once(':')) {
            *self.clients.entry(ip.to_owned()).or_default() += 1;
        }
        self.latencies.push(attempt.latency_ms);
        let done_at = attempt.at_ms + attempt.latency_ms as u64;
        if let Some(last) = self.last_success_at_ms {
            self.longest_gap_ms = self.longest_gap_ms.max(done_at.saturating_sub(last));
        }
        self.last_success_at_ms = Some(done_at);
    }

    fn fail(&mut self, at_ms: u64, failure: Failure) {
        self.failed += 1;
        *self.errors.entry(failure.kind).or_default() += 1;
        self.first_failure_at_ms.get_or_insert(at_ms);
        self.last_failure_at_ms = Some(at_ms);
        if self.failures.len() < KEPT_FAILURES {
            self.failures.push(KeptFailure { at_ms, error: failure.kind, message: failure.message });
        }
    }

    pub(crate) fn finish(mut self) -> Self {
        self.ended_at_ms = epoch_ms();
        self.latency_ms = Latencies::of(std::mem::take(&mut self.latencies));
        self
    }

    /// Every attempt had a 2xx answer, and there was one.
    pub(crate) fn all_ok(&self) -> bool {
        self.ok == self.requests && self.requests > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(at_ms: u64, status: Option<u16>, error: Option<Kind>) -> Attempt {
        Attempt {
            at_ms,
            latency_ms: 2.0,
            status,
            server: Some("a".into()),
            client: Some("[fd00::1]:4000".into()),
            local: None,
            error,
            message: None,
        }
    }

    #[test]
    fn counts_by_status_server_and_error() {
        let mut summary = Summary::start();
        summary.add(&attempt(100, Some(200), None));
        summary.add(&attempt(110, None, Some(Kind::Reset)));
        summary.add(&attempt(400, Some(503), None));
        let summary = summary.finish();
        assert_eq!((summary.requests, summary.answered, summary.ok, summary.failed), (3, 2, 1, 1));
        assert_eq!(summary.errors[&Kind::Reset], 1);
        assert_eq!(summary.clients["[fd00::1]"], 2);
        assert_eq!(summary.longest_gap_ms, 300);
        assert_eq!(summary.first_failure_at_ms, Some(110));
        assert!(!summary.all_ok());
        assert!(!Summary::start().finish().all_ok(), "nothing tried is not success");
    }

    #[test]
    fn ranks_percentiles() {
        let latencies = Latencies::of((1..=1000).rev().map(f64::from).collect());
        assert_eq!(
            (latencies.min, latencies.p50, latencies.p99, latencies.p999, latencies.max),
            (1.0, 500.0, 990.0, 999.0, 1000.0)
        );
        assert_eq!(Latencies::of(vec![7.0]).p50, 7.0);
        assert_eq!(Latencies::of(Vec::new()).max, 0.0);
    }
}
