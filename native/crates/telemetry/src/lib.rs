//! What the data plane tells of itself: metrics, one access record per connection, logs.
//!
//! The copy loop sees only [`ByteCount`]; a connection's task holds its [`ConnectionRecord`], whose drop does
//! all of the accounting, so that it cannot be forgotten. Names and labels: `docs/node-interfaces.md`.

mod access_log;
mod access_record;
mod connection;
mod labels;
pub mod logging;
mod metrics;
mod reason;
mod request_record;
mod requests;
mod rfc3339;
mod traffic;

pub use access_log::{AccessLog, AccessLogFormat, AccessLogTarget};
pub use access_record::{AccessRecord, PolicyAction, Protocol};
pub use connection::{ByteCount, ConnectionInfo, ConnectionRecord, ConnectionSnapshot, Telemetry};
pub use labels::{Reporter, SecurityPolicy, ServiceLabels, TrafficLabels, WorkloadLabels};
pub use metrics::Metrics;
pub use reason::{Reason, ResponseFlags};
pub use request_record::RequestRecord;
pub use requests::{RequestLabels, RequestProtocol, RequestTelemetry, RequestTotals};
pub use rfc3339::{parse_rfc3339, rfc3339_millis, rfc3339_seconds};

/// What can go wrong while telemetry is set up. Nothing here fails once it runs: it counts instead.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The access log's file cannot be opened for appending.
    #[error("--access-log-file {path}: cannot open for appending: {source}; give a writable file, or \"-\"")]
    AccessLogFile { path: std::path::PathBuf, source: std::io::Error },
    /// The writer's thread cannot be started.
    #[error("cannot start the access log's writer thread: {0}")]
    WriterThread(std::io::Error),
    /// A log filter that does not parse; the filter in force stays.
    #[error("log level {filter:?}: {problem}; give for instance \"info\" or \"info,meltemi_tunnel=debug\"")]
    LogFilter { filter: String, problem: String },
    /// Logging was set up twice in one process.
    #[error("logging is already set up in this process")]
    LoggingTwice,
}
