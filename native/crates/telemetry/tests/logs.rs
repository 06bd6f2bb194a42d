//! The process's log: its fields, and the level changed while it runs.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::io::{self, Write};
use std::sync::Arc;

use meltemi_telemetry::logging::{LogFormat, parse_filter, subscriber};
use parking_lot::Mutex;
use serde_json::Value;
use tracing_subscriber::fmt::MakeWriter;

#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Sink {
    type Writer = Sink;
    fn make_writer(&'a self) -> Sink {
        self.clone()
    }
}

impl Sink {
    fn take(&self) -> String {
        String::from_utf8(std::mem::take(&mut *self.0.lock())).unwrap()
    }
}

#[test]
fn json_lines_have_the_fields_of_the_typescript_side() {
    let sink = Sink::default();
    let (subscriber, _control) = subscriber("info", LogFormat::Json, sink.clone()).unwrap();
    tracing::subscriber::with_default(subscriber, || {
        let error = io::Error::other("broken\npipe");
        tracing::warn!(target: "meltemi_test", pods = 3, ok = true, node = %"n1", error = %error, "pods served");
        tracing::info!(target: "meltemi_test", level = "mine", time = 1, "reserved names");
    });
    let lines: Vec<Value> = sink.take().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut first = lines[0].clone();
    let time = first.as_object_mut().unwrap().remove("time").unwrap();
    assert!(meltemi_telemetry::parse_rfc3339(time.as_str().unwrap()).is_some());
    assert_eq!(
        first,
        serde_json::json!({
            "level": "warn", "scope": "meltemi_test", "message": "pods served",
            "pods": 3, "ok": true, "node": "n1", "error": "broken\npipe",
        })
    );
    assert_eq!((&lines[1]["level"], &lines[1]["level_"]), (&"info".into(), &"mine".into()));
    assert_eq!(lines[1]["time_"], 1);
}

#[test]
fn the_level_changes_while_it_runs_and_a_bad_one_changes_nothing() {
    let sink = Sink::default();
    let (subscriber, control) = subscriber("info", LogFormat::Text, sink.clone()).unwrap();
    tracing::subscriber::with_default(subscriber, || {
        let speak = || {
            tracing::debug!(target: "meltemi_test", "quiet");
            tracing::info!(target: "meltemi_test", name = "a\nb", "loud");
        };
        speak();
        let text = sink.take();
        assert!(!text.contains("quiet") && text.contains("loud"), "{text}");
        assert!(text.ends_with("info  meltemi_test: loud name=\"a\\nb\"\n"), "{text}");
        control.set("meltemi_test=debug,warn").unwrap();
        assert_eq!(control.current(), "meltemi_test=debug,warn");
        speak();
        assert!(sink.take().contains("quiet"));
        for wrong in ["", "loud", "meltemi_test=loud", "info,,x"] {
            let error = control.set(wrong).unwrap_err().to_string();
            assert!(error.contains("log level"), "{error}");
        }
        assert_eq!(control.current(), "meltemi_test=debug,warn");
        speak();
        assert!(sink.take().contains("quiet"));
        control.set("off").unwrap();
        speak();
        assert_eq!(sink.take(), "");
    });
    assert!(parse_filter("info,meltemi_tunnel=debug").is_ok());
}
