//! The admin servers over real sockets.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use meltemi_telemetry::Metrics;
use meltemi_telemetry::logging::{LogControl, LogFormat, subscriber};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::server::is_admitted;
use super::socket::SocketError;
use super::*;

const DEADLINE: Duration = Duration::from_secs(20);

#[derive(Default)]
struct Recorded {
    waiting: Mutex<Vec<&'static str>>,
    drained: AtomicBool,
    renewed: Mutex<Vec<Option<SystemTime>>>,
}

impl ReadinessView for Recorded {
    fn readiness(&self) -> Readiness {
        Readiness { waiting: self.waiting.lock().clone() }
    }
}
impl ConfigView for Recorded {
    fn config_dump(&self) -> Value {
        json!({ "version": "1", "pods": [] })
    }
}
impl CertificatesView for Recorded {
    fn certificates(&self) -> Vec<CertificateView> {
        Vec::new()
    }
    fn renew(&self, until: Option<SystemTime>) -> usize {
        self.renewed.lock().push(until);
        3
    }
}
impl ConnectionsView for Recorded {
    fn connections(&self) -> Vec<ConnectionSnapshot> {
        Vec::new()
    }
    fn close(&self, id: u64) -> bool {
        id == 7
    }
}
impl Drain for Recorded {
    fn drain(&self) {
        self.drained.store(true, Ordering::SeqCst);
    }
}

struct Served {
    recorded: Arc<Recorded>,
    logging: LogControl,
    admin: PathBuf,
    control: PathBuf,
    stop: CancellationToken,
    task: JoinHandle<()>,
    _subscriber: Box<dyn tracing::Subscriber + Send + Sync>,
    _directory: TempDir,
}

impl Served {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (admin, control) = (directory.path().join("run/admin.sock"), directory.path().join("run/c.sock"));
        let (subscriber, logging) = subscriber("info", LogFormat::Json, std::io::sink).unwrap();
        let recorded = Arc::new(Recorded::default());
        let views = Views {
            readiness: recorded.clone(),
            config: recorded.clone(),
            certificates: recorded.clone(),
            connections: recorded.clone(),
            metrics: Metrics::new("ztunnel", "test"),
            drain: recorded.clone(),
            logging: logging.clone(),
        };
        let stop = CancellationToken::new();
        let sockets = AdminSockets::bind(&admin, &control).unwrap();
        let task = tokio::spawn(serve(sockets, views, stop.clone()));
        let _subscriber: Box<dyn tracing::Subscriber + Send + Sync> = Box::new(subscriber);
        Self { recorded, logging, admin, control, stop, task, _subscriber, _directory: directory }
    }

    async fn ask(&self, socket: &Path, request: &str) -> (u16, Value) {
        let (status, body) = raw(socket, request).await;
        (status, serde_json::from_str(&body).unwrap_or(Value::String(body)))
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        self.ask(&self.admin, &format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")).await
    }

    async fn post(&self, path: &str, body: &str) -> (u16, Value) {
        self.ask(&self.control, &posting(path, body)).await
    }
}

fn posting(path: &str, body: &str) -> String {
    let length = body.len();
    format!("POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}")
}

async fn raw(socket: &Path, request: &str) -> (u16, String) {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    // The server may answer (and close) before it has read everything.
    let _ = stream.write_all(request.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer)).await.unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    (status, answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}

#[tokio::test]
async fn readiness_says_what_it_waits_for() {
    let served = Served::start();
    *served.recorded.waiting.lock() = vec!["zds snapshot", "discovery"];
    let waiting = json!({ "ready": false, "waiting": ["zds snapshot", "discovery"] });
    assert_eq!(served.get("/ready").await, (503, waiting));
    served.recorded.waiting.lock().clear();
    assert_eq!(served.get("/ready").await, (200, json!({ "ready": true })));
}

#[tokio::test]
async fn the_reading_socket_shows_every_page_and_changes_nothing() {
    let served = Served::start();
    assert_eq!(served.get("/config_dump").await, (200, json!({ "version": "1", "pods": [] })));
    assert_eq!(served.get("/certificates").await, (200, json!([])));
    assert_eq!(served.get("/connections").await, (200, json!([])));
    assert_eq!(served.get("/logging").await, (200, json!({ "level": "info" })));
    let (status, metrics) = served.get("/metrics").await;
    assert_eq!(status, 200);
    assert!(metrics.as_str().unwrap().contains("istio_build{component=\"ztunnel\",tag=\"test\"} 1\n"));
    assert_eq!(served.get("/drain").await.0, 404);
    let (status, _) = served.ask(&served.admin, &posting("/logging", "{\"level\":\"debug\"}")).await;
    assert_eq!((status, served.logging.current()), (405, "info".to_owned()));
    assert_eq!(served.ask(&served.admin, &posting("/drain", "")).await.0, 404);
    assert!(!served.recorded.drained.load(Ordering::SeqCst));
}

#[tokio::test]
async fn the_control_socket_acts() {
    let served = Served::start();
    assert_eq!(served.post("/logging", "{\"level\":\"debug\"}").await, (200, json!({ "level": "debug" })));
    assert_eq!(served.logging.current(), "debug");
    for wrong in ["", "{}", "{\"level\":\"loud\"}", "{\"level\":\"info\",\"more\":1}", "nonsense"] {
        let (status, answer) = served.post("/logging", wrong).await;
        assert_eq!(status, 400, "{wrong}: {answer}");
    }
    assert_eq!(served.logging.current(), "debug");

    assert_eq!(served.post("/connections/7/close", "").await, (202, json!({ "closing": 7 })));
    assert_eq!(served.post("/connections/8/close", "").await.0, 404);
    assert_eq!(served.post("/connections/x/close", "").await.0, 400);

    assert_eq!(served.post("/certificates/renew", "").await, (202, json!({ "renewing": 3 })));
    let until = "{\"not_before_until\":\"1970-01-01T00:00:09Z\"}";
    assert_eq!(served.post("/certificates/renew", until).await.0, 202);
    assert_eq!(served.post("/certificates/renew", "{\"not_before_until\":\"today\"}").await.0, 400);
    assert_eq!(*served.recorded.renewed.lock(), [None, Some(UNIX_EPOCH + Duration::from_secs(9))]);

    assert_eq!(served.post("/drain", "").await, (202, json!({ "draining": true })));
    assert!(served.recorded.drained.load(Ordering::SeqCst));
    assert_eq!(served.post("/nothing", "").await.0, 404);
    let get = "GET /drain HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    assert_eq!(served.ask(&served.control, get).await.0, 405);
}

#[tokio::test]
async fn large_requests_and_other_protocols_are_refused() {
    let served = Served::start();
    let body = "x".repeat(17 * 1024);
    assert_eq!(served.post("/logging", &body).await.0, 413);
    let header = format!("GET /ready HTTP/1.1\r\nhost: x\r\na: {}\r\n\r\n", "y".repeat(40 * 1024));
    assert_eq!(raw(&served.admin, &header).await.0, 431);
    assert_eq!(raw(&served.admin, "\x16\x03\x01\x00\x05hello\r\n\r\n").await.0, 400);
    assert_eq!(served.get("/ready").await.0, 200);
}

#[tokio::test]
async fn a_client_that_sends_nothing_is_closed_and_others_are_served() {
    let served = Served::start();
    let mut silent = UnixStream::connect(&served.admin).await.unwrap();
    silent.write_all(b"GET /rea").await.unwrap();
    assert_eq!(served.get("/ready").await.0, 200);
    let mut rest = Vec::new();
    tokio::time::timeout(DEADLINE, silent.read_to_end(&mut rest)).await.unwrap().unwrap();
    assert!(!String::from_utf8_lossy(&rest).contains(" 200 "));
}

#[tokio::test]
async fn sockets_are_the_owners_alone_and_go_with_the_server() {
    let served = Served::start();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&served.admin), 0o600);
    assert_eq!(mode(&served.control), 0o600);
    assert_eq!(mode(served.admin.parent().unwrap()), 0o700);
    served.stop.cancel();
    tokio::time::timeout(DEADLINE, served.task).await.unwrap().unwrap();
    assert!(!served.admin.exists() && !served.control.exists());
}

#[test]
fn other_users_are_not_admitted() {
    assert!(is_admitted(1000, 1000) && is_admitted(0, 1000));
    assert!(!is_admitted(1001, 1000) && !is_admitted(1000, 0));
}

#[tokio::test]
async fn what_is_in_the_way_is_replaced_only_if_nobody_serves_it() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let (admin, control) = (at("admin.sock"), at("control.sock"));
    drop(std::os::unix::net::UnixListener::bind(&admin).unwrap());
    assert!(admin.exists(), "a stale socket is left");
    let sockets = AdminSockets::bind(&admin, &control).unwrap();
    assert!(matches!(AdminSockets::bind(&admin, &at("other.sock")), Err(SocketError::InUse { .. })));
    drop(sockets);
    std::fs::write(&admin, "precious").unwrap();
    assert!(matches!(AdminSockets::bind(&admin, &control), Err(SocketError::NoSocket { .. })));
    assert_eq!(std::fs::read_to_string(&admin).unwrap(), "precious");
    let open = at("open");
    std::fs::create_dir(&open).unwrap();
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o777)).unwrap();
    let refused = AdminSockets::bind(&open.join("a.sock"), &control);
    assert!(matches!(refused, Err(SocketError::OpenDirectory { mode: 0o777, .. })), "{refused:?}");
}
