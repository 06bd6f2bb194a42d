//! Load for benchmarks: throughput, new connections, requests at a fixed rate or as many as possible.
//!
//! Latency at a fixed rate is counted from when a request was due, not from when a free worker sent it:
//! a stalled proxy is not excused by the load generator having waited for it.

mod exchange;
mod http;
mod tcp;

use std::collections::BTreeMap;

use clap::Subcommand;
use serde::Serialize;

use crate::client::Latencies;
use crate::failure::{Failure, Kind};

#[derive(Debug, Subcommand)]
pub(crate) enum Load {
    /// Bytes up or down, or new connections per second.
    Tcp(tcp::Options),
    /// Requests over kept-alive or new connections.
    Http(http::Options),
}

pub(crate) async fn run(command: Load) -> anyhow::Result<bool> {
    match command {
        Load::Tcp(options) => tcp::run(options).await,
        Load::Http(options) => http::run(options).await,
    }
}

/// What one worker counted.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) bytes: u64,
    pub(crate) done: u64,
    pub(crate) errors: BTreeMap<Kind, u64>,
    pub(crate) first_error: Option<String>,
    pub(crate) latencies_us: Vec<f64>,
}

impl Tally {
    pub(crate) fn fail(&mut self, failure: Failure) {
        *self.errors.entry(failure.kind).or_default() += 1;
        self.first_error.get_or_insert(failure.message);
    }

    fn add(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.done += other.done;
        for (kind, count) in other.errors {
            *self.errors.entry(kind).or_default() += count;
        }
        self.first_error = self.first_error.take().or(other.first_error);
        self.latencies_us.extend(other.latencies_us);
    }

    pub(crate) fn sum(tallies: impl IntoIterator<Item = Self>) -> Self {
        tallies.into_iter().fold(Self::default(), |mut sum, tally| {
            sum.add(tally);
            sum
        })
    }
}

/// The result of a run. Rates are over the measured time, without the warm-up.
#[derive(Debug, Serialize)]
pub(crate) struct Outcome {
    seconds: f64,
    bytes: u64,
    gbit_per_s: f64,
    done: u64,
    per_s: f64,
    latency_us: Latencies,
    failed: u64,
    errors: BTreeMap<Kind, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_error: Option<String>,
}

impl Outcome {
    pub(crate) fn of(tally: Tally, seconds: f64) -> Self {
        Self {
            seconds,
            bytes: tally.bytes,
            gbit_per_s: tally.bytes as f64 * 8.0 / 1e9 / seconds,
            done: tally.done,
            per_s: tally.done as f64 / seconds,
            latency_us: Latencies::of(tally.latencies_us),
            failed: tally.errors.values().sum(),
            errors: tally.errors,
            first_error: tally.first_error,
        }
    }

    /// Something was done, and nothing failed.
    pub(crate) fn clean(&self) -> bool {
        self.failed == 0 && (self.done > 0 || self.bytes > 0)
    }
}
