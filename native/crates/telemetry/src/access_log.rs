//! The access log's writer: a bounded queue to a thread of its own. The data path never waits for it; what does
//! not fit, or cannot be written (a closed pipe, a full disk), is counted in
//! `meltemi_access_records_dropped_total`.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use serde::Serialize;

use crate::{AccessRecord, Metrics, RequestRecord, TelemetryError};

/// Records that may wait for the writer.
const QUEUE_RECORDS: usize = 8_192;
/// Bytes gathered before they are written, so that a burst costs few system calls.
const BATCH_BYTES: usize = 64 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AccessLogFormat {
    Json,
    Text,
    Off,
}

impl FromStr for AccessLogFormat {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "json" => Ok(Self::Json),
            "text" => Ok(Self::Text),
            "off" => Ok(Self::Off),
            other => Err(format!("{other:?} is none of json, text, off")),
        }
    }
}

/// Where records go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessLogTarget {
    Stdout,
    /// Opened for appending, created with mode 0640 where missing.
    File(PathBuf),
}

enum Message {
    Record(Box<AccessRecord>),
    Request(Box<RequestRecord>),
    /// Answered once everything before it is written.
    Flush(SyncSender<()>),
}

/// The entrance to the writer; cheap to clone. The writer's thread ends with the last clone.
#[derive(Clone)]
pub struct AccessLog {
    queue: Option<SyncSender<Message>>,
    metrics: Arc<Metrics>,
}

impl std::fmt::Debug for AccessLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AccessLog").field("on", &self.queue.is_some()).finish()
    }
}

impl AccessLog {
    /// Opens the target and starts the writer.
    ///
    /// # Errors
    /// `AccessLogFile` if the file cannot be opened, `WriterThread` if the thread cannot be started.
    pub fn open(
        format: AccessLogFormat,
        target: &AccessLogTarget,
        metrics: Arc<Metrics>,
    ) -> Result<Self, TelemetryError> {
        if format == AccessLogFormat::Off {
            return Ok(Self { queue: None, metrics });
        }
        let sink: Box<dyn Write + Send> = match target {
            AccessLogTarget::Stdout => Box::new(io::stdout()),
            AccessLogTarget::File(path) => {
                use std::os::unix::fs::OpenOptionsExt as _;
                let file = OpenOptions::new().create(true).append(true).mode(0o640).open(path);
                Box::new(file.map_err(|source| TelemetryError::AccessLogFile { path: path.clone(), source })?)
            }
        };
        Self::to_sink(format, sink, metrics)
    }

    /// Starts the writer on any sink.
    ///
    /// # Errors
    /// `WriterThread` if the thread cannot be started.
    pub fn to_sink(
        format: AccessLogFormat,
        sink: Box<dyn Write + Send>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, TelemetryError> {
        let (queue, messages) = sync_channel(QUEUE_RECORDS);
        let writer = Writer { format, sink, metrics: Arc::clone(&metrics), batch: Vec::new(), records: 0 };
        std::thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || writer.run(&messages))
            .map_err(TelemetryError::WriterThread)?;
        Ok(Self { queue: Some(queue), metrics })
    }

    /// Whether records are wanted at all.
    pub fn is_on(&self) -> bool {
        self.queue.is_some()
    }

    /// Hands a record to the writer, or counts it as dropped: never waits.
    pub fn write(&self, record: AccessRecord) {
        self.send(Message::Record(Box::new(record)));
    }

    /// The same for a request's.
    pub fn write_request(&self, record: RequestRecord) {
        self.send(Message::Request(Box::new(record)));
    }

    fn send(&self, message: Message) {
        let Some(queue) = &self.queue else { return };
        match queue.try_send(message) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.metrics.access_record_dropped(1);
            }
        }
    }

    /// Waits until what was handed over before is written, at most for `timeout`; for the end of the process.
    /// Blocks its thread. False if time ran out first.
    pub fn flush(&self, timeout: Duration) -> bool {
        let Some(queue) = &self.queue else { return true };
        let deadline = std::time::Instant::now() + timeout;
        let (done, wait) = sync_channel(1);
        let mut message = Message::Flush(done);
        loop {
            match queue.try_send(message) {
                Ok(()) => break,
                Err(TrySendError::Disconnected(_)) => return false,
                Err(TrySendError::Full(back)) if std::time::Instant::now() < deadline => {
                    message = back;
                    std::thread::park_timeout(Duration::from_millis(5));
                }
                Err(TrySendError::Full(_)) => return false,
            }
        }
        wait.recv_timeout(deadline.saturating_duration_since(std::time::Instant::now())).is_ok()
    }
}

struct Writer {
    format: AccessLogFormat,
    sink: Box<dyn Write + Send>,
    metrics: Arc<Metrics>,
    batch: Vec<u8>,
    records: u64,
}

impl Writer {
    fn run(mut self, messages: &Receiver<Message>) {
        while let Ok(first) = messages.recv() {
            self.take(first);
            while let Ok(next) = messages.try_recv() {
                self.take(next);
            }
            self.write_batch();
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Record(record) => {
                match self.format {
                    AccessLogFormat::Text => record.write_text(&mut self.batch),
                    AccessLogFormat::Json | AccessLogFormat::Off => record.write_json(&mut self.batch),
                }
                self.taken();
            }
            Message::Request(record) => {
                match self.format {
                    AccessLogFormat::Text => record.write_text(&mut self.batch),
                    AccessLogFormat::Json | AccessLogFormat::Off => record.write_json(&mut self.batch),
                }
                self.taken();
            }
            Message::Flush(done) => {
                self.write_batch();
                // Whoever waited may have given up.
                let _ = done.try_send(());
            }
        }
    }

    fn taken(&mut self) {
        self.records += 1;
        if self.batch.len() >= BATCH_BYTES {
            self.write_batch();
        }
    }

    /// A sink that fails loses this batch, not the next: a reader may come back, a disk may be emptied.
    fn write_batch(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        if self.sink.write_all(&self.batch).and_then(|()| self.sink.flush()).is_err() {
            self.metrics.access_record_dropped(self.records);
        }
        self.batch.clear();
        self.records = 0;
    }
}
