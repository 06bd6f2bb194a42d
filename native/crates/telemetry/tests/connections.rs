//! A connection's accounting: metrics, the live table and the access record.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use meltemi_telemetry::{
    AccessLog, AccessLogFormat, AccessLogTarget, ConnectionInfo, Metrics, PolicyAction, Protocol, Reason,
    Reporter, SecurityPolicy, ServiceLabels, Telemetry, TrafficLabels, WorkloadLabels,
};
use parking_lot::Mutex;
use serde_json::Value;

const DEADLINE: Duration = Duration::from_secs(20);

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

impl Sink {
    fn lines(&self) -> Vec<String> {
        String::from_utf8(self.0.lock().clone()).unwrap().lines().map(str::to_owned).collect()
    }
}

fn telemetry(format: AccessLogFormat) -> (Arc<Telemetry>, Sink) {
    let (sink, metrics) = (Sink::default(), Metrics::new("ztunnel", "1.2.3"));
    let log = AccessLog::to_sink(format, Box::new(sink.clone()), Arc::clone(&metrics)).unwrap();
    (Telemetry::new(metrics, log), sink)
}

fn workload(name: &str) -> Arc<WorkloadLabels> {
    Arc::new(WorkloadLabels {
        workload: name.into(),
        namespace: "team".into(),
        canonical_service: name.into(),
        canonical_revision: "v1".into(),
        app: name.into(),
        version: "v1".into(),
        cluster: "Kubernetes".into(),
        ..WorkloadLabels::default()
    })
}

fn info(reporter: Reporter) -> ConnectionInfo {
    let address = |text: &str| text.parse::<SocketAddr>().unwrap();
    ConnectionInfo {
        protocol: Protocol::Hbone,
        accepted: Instant::now(),
        src_addr: address("10.0.0.1:40000"),
        dst_addr: address("[fd00::2]:80"),
        dst_hbone_addr: Some("10.0.0.2:8080".into()),
        src_workload: Some("curl-1".into()),
        dst_workload: Some("web-1".into()),
        labels: TrafficLabels {
            reporter,
            source: Some(workload("curl")),
            source_principal: Some("spiffe://cluster.local/ns/team/sa/curl".into()),
            destination: Some(workload("web")),
            destination_principal: Some("spiffe://cluster.local/ns/team/sa/web".into()),
            destination_service: Some(Arc::new(ServiceLabels {
                hostname: "web.team.svc.cluster.local".into(),
                name: "web".into(),
                namespace: "team".into(),
            })),
            security_policy: SecurityPolicy::MutualTls,
        },
    }
}

/// The value of each series of a family, by its `response_flags`.
fn by_flags(text: &str, name: &str) -> BTreeMap<String, u64> {
    let prefix = format!("{name}{{");
    text.lines()
        .filter(|line| line.starts_with(&prefix))
        .map(|line| {
            let flags = line.split("response_flags=\"").nth(1).unwrap().split('"').next().unwrap();
            (flags.to_owned(), line.rsplit(' ').next().unwrap().parse().unwrap())
        })
        .collect()
}

fn one(flags: &str, value: u64) -> BTreeMap<String, u64> {
    BTreeMap::from([(flags.to_owned(), value)])
}

#[test]
fn the_labels_are_istios() {
    let (telemetry, _sink) = telemetry(AccessLogFormat::Off);
    drop(telemetry.open(info(Reporter::Source)));
    let text = telemetry.metrics().text();
    let series = text.lines().find(|line| line.starts_with("istio_tcp_connections_opened_total{")).unwrap();
    assert_eq!(
        series,
        "istio_tcp_connections_opened_total{reporter=\"source\",\
         source_workload=\"curl\",source_workload_namespace=\"team\",\
         source_principal=\"spiffe://cluster.local/ns/team/sa/curl\",source_app=\"curl\",source_version=\"v1\",\
         source_canonical_service=\"curl\",source_canonical_revision=\"v1\",source_cluster=\"Kubernetes\",\
         source_region=\"unknown\",source_zone=\"unknown\",\
         destination_workload=\"web\",destination_workload_namespace=\"team\",\
         destination_principal=\"spiffe://cluster.local/ns/team/sa/web\",destination_app=\"web\",\
         destination_version=\"v1\",destination_canonical_service=\"web\",destination_canonical_revision=\"v1\",\
         destination_cluster=\"Kubernetes\",destination_region=\"unknown\",destination_zone=\"unknown\",\
         destination_service=\"web.team.svc.cluster.local\",destination_service_name=\"web\",\
         destination_service_namespace=\"team\",request_protocol=\"tcp\",response_flags=\"-\",\
         connection_security_policy=\"mutual_tls\"} 1"
    );
    assert!(text.contains("istio_build{component=\"ztunnel\",tag=\"1.2.3\"} 1\n"));
    assert!(text.contains("# TYPE istio_tcp_connections_opened_total counter\n"));
    assert!(text.contains("# HELP istio_tcp_connections_opened_total "));
    assert!(text.contains("# TYPE istio_build gauge\n"));
    assert!(!text.contains("# EOF"));
}

#[test]
fn bytes_take_the_services_side_in_metrics_and_the_pods_in_records() {
    for (reporter, sent, received) in [(Reporter::Source, 30, 500), (Reporter::Destination, 500, 30)] {
        let (telemetry, sink) = telemetry(AccessLogFormat::Json);
        let record = telemetry.open(info(reporter));
        let bytes = record.bytes();
        bytes.from_client(10);
        bytes.to_client(500);
        bytes.from_client(20);
        // Open, and seen all the same.
        let text = telemetry.metrics().text();
        assert_eq!(by_flags(&text, "istio_tcp_received_bytes_total"), one("-", 30));
        assert_eq!(by_flags(&text, "istio_tcp_sent_bytes_total"), one("-", 500));
        assert_eq!(by_flags(&text, "istio_tcp_connections_closed_total"), one("-", 0));
        let shown = telemetry.connections();
        assert_eq!((shown[0].bytes_sent, shown[0].bytes_received), (sent, received));
        drop(record);
        let text = telemetry.metrics().text();
        assert_eq!(by_flags(&text, "istio_tcp_received_bytes_total"), one("-", 30), "counted once");
        assert_eq!(by_flags(&text, "istio_tcp_connections_closed_total"), one("-", 1));
        assert!(telemetry.access_log().flush(DEADLINE));
        let lines = sink.lines();
        assert_eq!(lines.len(), 1);
        let line: Value = serde_json::from_str(&lines[0]).unwrap();
        assert_eq!((&line["bytes_sent"], &line["bytes_received"]), (&sent.into(), &received.into()));
    }
}

#[test]
fn a_record_names_everything_that_is_known() {
    let (telemetry, sink) = telemetry(AccessLogFormat::Json);
    let mut record = telemetry.open(info(Reporter::Destination));
    record.set_policy("team/allow-curl".into(), PolicyAction::Allow);
    record.set_dry_run_policies(vec!["team/try".into()]);
    record.set_dry_run_denied_by(vec!["team/try-allow".into()]);
    assert_eq!(telemetry.connections()[0].policy.as_deref(), Some("team/allow-curl"));
    drop(record);
    telemetry.access_log().flush(DEADLINE);
    let mut line: Value = serde_json::from_str(&sink.lines()[0]).unwrap();
    let fields = line.as_object_mut().unwrap();
    assert!(fields.remove("time").unwrap().as_str().unwrap().ends_with('Z'));
    assert!(fields.remove("duration_ms").unwrap().is_u64());
    assert_eq!(
        line,
        serde_json::json!({
            "level": "info", "scope": "access", "message": "connection complete",
            "direction": "inbound", "protocol": "hbone",
            "src_addr": "10.0.0.1:40000", "src_workload": "curl-1", "src_namespace": "team",
            "src_identity": "spiffe://cluster.local/ns/team/sa/curl",
            "dst_addr": "[fd00::2]:80", "dst_hbone_addr": "10.0.0.2:8080",
            "dst_service": "web.team.svc.cluster.local", "dst_workload": "web-1", "dst_namespace": "team",
            "dst_identity": "spiffe://cluster.local/ns/team/sa/web",
            "bytes_sent": 0, "bytes_received": 0,
            "policy": "team/allow-curl", "policy_action": "allow", "dry_run_policies": ["team/try"],
            "dry_run_denied_by": ["team/try-allow"],
        })
    );
}

#[test]
fn the_first_reason_stands_and_failures_are_counted_apart() {
    let (telemetry, sink) = telemetry(AccessLogFormat::Json);
    let mut refused = telemetry.open(info(Reporter::Destination));
    refused.set_policy("team/deny".into(), PolicyAction::Deny);
    refused.fail(Reason::PolicyDenied, "denied by policy \"team/deny\"");
    refused.fail(Reason::Reset, "and then the socket was closed");
    drop(refused);
    let mut drained = telemetry.open(info(Reporter::Destination));
    drained.fail(Reason::Draining, "the data plane stops");
    drop(drained);
    let text = telemetry.metrics().text();
    assert_eq!(by_flags(&text, "istio_tcp_connections_opened_total"), one("-", 2));
    assert_eq!(by_flags(&text, "istio_tcp_connections_failed_total"), one("DENY", 1));
    let closed = BTreeMap::from([("-".to_owned(), 1), ("DENY".to_owned(), 1)]);
    assert_eq!(by_flags(&text, "istio_tcp_connections_closed_total"), closed);
    telemetry.access_log().flush(DEADLINE);
    let lines: Vec<Value> = sink.lines().iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    let brief = |line: &Value| [&line["level"], &line["message"], &line["reason"]].map(|v| v.to_string());
    assert_eq!(brief(&lines[0]), ["\"error\"", "\"connection failed\"", "\"policy_denied\""]);
    assert_eq!(lines[0]["error"], "denied by policy \"team/deny\"");
    assert_eq!(brief(&lines[1]), ["\"info\"", "\"connection complete\"", "\"draining\""]);
}

#[test]
fn a_cancelled_task_still_accounts_for_its_connection() {
    let (telemetry, sink) = telemetry(AccessLogFormat::Json);
    let inside = Arc::clone(&telemetry);
    let panicked = std::thread::spawn(move || {
        let _record = inside.open(info(Reporter::Source));
        panic!("as a bug would");
    });
    assert!(panicked.join().is_err());
    assert_eq!(telemetry.open_connections(), 0);
    assert_eq!(by_flags(&telemetry.metrics().text(), "istio_tcp_connections_closed_total"), one("-", 1));
    telemetry.access_log().flush(DEADLINE);
    assert_eq!(sink.lines().len(), 1);
}

#[test]
fn text_stays_on_one_line_whatever_it_holds() {
    let (telemetry, sink) = telemetry(AccessLogFormat::Text);
    let mut record = telemetry.open(info(Reporter::Source));
    record.fail(Reason::TlsFailed, "a \"quoted\"\nmessage");
    drop(record);
    telemetry.access_log().flush(DEADLINE);
    let lines = sink.lines();
    assert_eq!(lines.len(), 1);
    assert!(lines[0].starts_with("time=\"20"), "{}", lines[0]);
    for part in [
        " level=\"error\" ",
        " scope=\"access\" ",
        " message=\"connection failed\" ",
        " direction=\"outbound\" ",
        " src_addr=\"10.0.0.1:40000\" ",
        " bytes_sent=\"0\" ",
        " reason=\"tls_failed\" ",
        " error=\"a \\\"quoted\\\"\\nmessage\"",
    ] {
        assert!(lines[0].contains(part), "{part} in {}", lines[0]);
    }
}

#[test]
fn label_sets_beyond_the_bound_share_a_series() {
    let metrics = Metrics::with_bound("ztunnel", "test", 10);
    let log = AccessLog::open(AccessLogFormat::Off, &AccessLogTarget::Stdout, metrics.clone()).unwrap();
    let telemetry = Telemetry::new(metrics, log);
    for number in 0..100 {
        let mut connection = info(Reporter::Destination);
        connection.labels.source = Some(workload(&format!("peer-{number}")));
        let record = telemetry.open(connection);
        record.bytes().from_client(1);
    }
    let text = telemetry.metrics().text();
    let opened: Vec<&str> =
        text.lines().filter(|line| line.starts_with("istio_tcp_connections_opened_total{")).collect();
    assert_eq!(opened.len(), 11);
    let overflow = opened.iter().find(|line| line.contains("source_workload=\"unknown\"")).unwrap();
    assert!(overflow.ends_with(" 90"), "{overflow}");
    let sum: u64 = text
        .lines()
        .filter(|line| line.starts_with("istio_tcp_received_bytes_total{"))
        .map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
        .sum();
    assert_eq!(sum, 100, "nothing is lost");
}

/// Blocks in the first write until it is let go.
struct Slow {
    entered: SyncSender<()>,
    go_on: Receiver<()>,
    slow: bool,
    sink: Sink,
}

impl Write for Slow {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if std::mem::take(&mut self.slow) {
            self.entered.send(()).unwrap();
            self.go_on.recv().unwrap();
        }
        self.sink.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn dropped(metrics: &Metrics) -> usize {
    let text = metrics.text();
    let line = text.lines().find(|line| line.starts_with("meltemi_access_records_dropped_total ")).unwrap();
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn a_stuck_sink_costs_records_and_never_the_data_path() {
    let metrics = Metrics::new("ztunnel", "test");
    let (entered, has_entered) = sync_channel(1);
    let (let_go, go_on) = sync_channel(1);
    let sink = Sink::default();
    let slow = Slow { entered, go_on, slow: true, sink: sink.clone() };
    let log = AccessLog::to_sink(AccessLogFormat::Json, Box::new(slow), metrics.clone()).unwrap();
    let telemetry = Telemetry::new(metrics.clone(), log);
    drop(telemetry.open(info(Reporter::Source)));
    has_entered.recv_timeout(DEADLINE).unwrap();
    for _ in 0..20_000 {
        drop(telemetry.open(info(Reporter::Source)));
    }
    let lost = dropped(&metrics);
    assert!((1..20_000).contains(&lost), "{lost}");
    assert!(!telemetry.access_log().flush(Duration::from_millis(50)), "a flush gives up too");
    let_go.send(()).unwrap();
    assert!(telemetry.access_log().flush(DEADLINE));
    assert_eq!(sink.lines().len() + dropped(&metrics), 20_001);
    assert!(sink.lines().iter().all(|line| serde_json::from_str::<Value>(line).is_ok()));
}

#[test]
fn a_reader_that_went_away_is_survived() {
    let metrics = Metrics::new("ztunnel", "test");
    let (reader, writer) = io::pipe().unwrap();
    let log = AccessLog::to_sink(AccessLogFormat::Json, Box::new(writer), metrics.clone()).unwrap();
    let telemetry = Telemetry::new(metrics.clone(), log);
    drop(reader);
    for _ in 0..3 {
        drop(telemetry.open(info(Reporter::Source)));
    }
    assert!(telemetry.access_log().flush(DEADLINE), "the writer is alive");
    assert_eq!(dropped(&metrics), 3);
}

#[test]
fn files_are_appended_to_and_a_bad_one_is_named() {
    let directory = std::env::temp_dir().join(format!("meltemi-telemetry-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let path = directory.join("access.log");
    std::fs::write(&path, "{\"kept\":true}\n").unwrap();
    let open = |target: &std::path::Path| {
        let metrics = Metrics::new("ztunnel", "test");
        let target = AccessLogTarget::File(target.to_owned());
        AccessLog::open(AccessLogFormat::Json, &target, metrics.clone())
            .map(|log| Telemetry::new(metrics, log))
    };
    let telemetry = open(&path).unwrap();
    drop(telemetry.open(info(Reporter::Source)));
    telemetry.access_log().flush(DEADLINE);
    let written = std::fs::read_to_string(&path).unwrap();
    let error = open(&directory.join("absent/access.log")).unwrap_err().to_string();
    std::fs::remove_dir_all(&directory).unwrap();
    assert!(written.starts_with("{\"kept\":true}\n{\"time\":"), "{written}");
    assert!(error.contains("--access-log-file") && error.contains("absent"), "{error}");
}
