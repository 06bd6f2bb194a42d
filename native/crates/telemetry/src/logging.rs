//! The process's own log, on standard error: one JSON object a line with the field names that the TypeScript
//! side writes (`level`, `time`, `message`, `scope`), or text. The level can be changed while it runs.

use std::fmt::{self, Write as _};
use std::io;
use std::str::FromStr;
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;
use serde::Serialize;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::reload::{self, Handle};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry};

use crate::{TelemetryError, rfc3339_millis};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Json,
    Text,
}

impl FromStr for LogFormat {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "json" => Ok(Self::Json),
            "text" => Ok(Self::Text),
            other => Err(format!("{other:?} is none of json, text")),
        }
    }
}

/// Changes the level of a running process.
#[derive(Clone, Debug)]
pub struct LogControl {
    handle: Handle<EnvFilter, Registry>,
    current: Arc<Mutex<String>>,
}

/// Checks a filter without using it.
///
/// # Errors
/// `LogFilter` with what is wrong.
pub fn parse_filter(filter: &str) -> Result<EnvFilter, TelemetryError> {
    let wrong = |problem: String| TelemetryError::LogFilter { filter: filter.to_owned(), problem };
    if filter.trim().is_empty() {
        return Err(wrong("is empty".to_owned()));
    }
    // "inof" alone would be taken as the name of a target: a single word must be a level.
    let directives = filter.split(',').map(str::trim);
    for directive in directives.filter(|d| !d.contains('=') && !d.contains('[')) {
        directive
            .parse::<tracing_subscriber::filter::LevelFilter>()
            .map_err(|_| wrong(format!("{directive:?} is none of error, warn, info, debug, trace, off")))?;
    }
    EnvFilter::builder().parse(filter).map_err(|error| wrong(error.to_string()))
}

impl LogControl {
    /// The filter in force.
    pub fn current(&self) -> String {
        self.current.lock().clone()
    }

    /// Puts another filter in force.
    ///
    /// # Errors
    /// `LogFilter`; the filter in force stays.
    pub fn set(&self, filter: &str) -> Result<(), TelemetryError> {
        let parsed = parse_filter(filter)?;
        let mut current = self.current.lock();
        self.handle.reload(parsed).map_err(|error| TelemetryError::LogFilter {
            filter: filter.to_owned(),
            problem: error.to_string(),
        })?;
        filter.clone_into(&mut current);
        Ok(())
    }
}

/// Sets logging up for the process, on standard error.
///
/// # Errors
/// `LogFilter`, or `LoggingTwice`.
pub fn init(filter: &str, format: LogFormat) -> Result<LogControl, TelemetryError> {
    let (subscriber, control) = subscriber(filter, format, io::stderr)?;
    subscriber.try_init().map_err(|_| TelemetryError::LoggingTwice)?;
    Ok(control)
}

/// The subscriber of [`init`], on any writer.
///
/// # Errors
/// `LogFilter`.
pub fn subscriber<W>(
    filter: &str,
    format: LogFormat,
    writer: W,
) -> Result<(impl Subscriber + Send + Sync + use<W>, LogControl), TelemetryError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let (filtering, handle) = reload::Layer::new(parse_filter(filter)?);
    let lines = tracing_subscriber::fmt::layer().with_writer(writer).event_format(Lines { format });
    let control = LogControl { handle, current: Arc::new(Mutex::new(filter.to_owned())) };
    Ok((tracing_subscriber::registry().with(filtering).with(lines), control))
}

struct Lines {
    format: LogFormat,
}

#[derive(Default)]
struct Fields {
    message: String,
    others: Map<String, Value>,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            value.clone_into(&mut self.message);
        } else {
            self.others.insert(field.name().to_owned(), Value::from(value));
        }
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.others.insert(field.name().to_owned(), Value::from(value));
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.others.insert(field.name().to_owned(), Value::from(value));
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.others.insert(field.name().to_owned(), Value::from(value));
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.others.insert(field.name().to_owned(), Value::from(value));
    }
    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.record_str(field, &value.to_string());
    }
}

fn level_word(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

#[derive(Serialize)]
struct Line<'a> {
    level: &'static str,
    time: String,
    scope: &'a str,
    message: String,
    #[serde(flatten)]
    fields: Map<String, Value>,
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let (level, time) = (level_word(*event.metadata().level()), rfc3339_millis(SystemTime::now()));
        let scope = event.metadata().target();
        match self.format {
            LogFormat::Json => {
                // The four fields of every line are not to be overwritten by an event's own.
                for reserved in ["level", "time", "scope", "message"] {
                    if let Some(value) = fields.others.remove(reserved) {
                        fields.others.insert(format!("{reserved}_"), value);
                    }
                }
                let line = Line { level, time, scope, message: fields.message, fields: fields.others };
                writeln!(writer, "{}", serde_json::to_string(&line).map_err(|_| fmt::Error)?)
            }
            LogFormat::Text => {
                let mut line = format!("{time} {level:5} {scope}: {}", fields.message.escape_debug());
                for (key, value) in &fields.others {
                    let _ = match value {
                        Value::String(text) => write!(line, " {key}={text:?}"),
                        other => write!(line, " {key}={other}"),
                    };
                }
                writeln!(writer, "{line}")
            }
        }
    }
}
