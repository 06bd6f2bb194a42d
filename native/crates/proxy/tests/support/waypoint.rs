//! A waypoint that runs, callers and endpoints in this process, all on loopback addresses of a sandbox.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "tests")]

use crate::support::control::{Control, Object};
use crate::support::objects::PodSpec;
use crate::support::sandbox::shell;
use crate::support::{DEADLINE, soon};
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming as Body;
use hyper_util::rt::{TokioExecutor, TokioIo};
use meltemi_identity::testing::{FixedJitter, TestCa, TokioClock, serve_on_unix};
use meltemi_identity::{Alpn, CertificateStore, Served, StoreOptions, server_name};
use meltemi_telemetry::Metrics;
use meltemi_tunnel::{
    ClientTunnel, Incoming, Limits, OpenError, OpenRequest, TraceParent, TunnelIo, forwarded,
};
use meltemi_types::Identity;
use meltemi_types::discovery::ResourceType;
use meltemi_types::meltemi as wire;
use prost::Message;
use serde_json::Value;
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, UnixStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub const WAYPOINT: Ipv4Addr = Ipv4Addr::new(127, 0, 1, 1);
pub const VIP: Ipv4Addr = Ipv4Addr::new(127, 0, 9, 9);
pub const HOST: &str = "web.default.svc.cluster.local";
pub const KEY: &str = "default/web.default.svc.cluster.local";

pub fn pod(name: &'static str, last: u8) -> PodSpec {
    PodSpec {
        name,
        ip: Ipv4Addr::new(127, 0, 2, last),
        account: name,
        node: "n1",
        hbone: true,
        services: vec![],
        policies: vec![],
    }
}

/// One of the waypoint's own resources.
pub fn resource(kind: ResourceType, name: &str, message: &impl Message) -> Object {
    Object {
        kind,
        name: name.into(),
        aliases: vec![],
        body: message.encode_to_vec(),
        node: None,
        endpoint_of: vec![],
    }
}

pub fn served(name: &str, ports: &[(u32, wire::served_port::Protocol)]) -> Object {
    let ports = ports.iter().map(|(port, protocol)| wire::ServedPort {
        port: *port,
        protocol: (*protocol).into(),
        http2_backend: false,
    });
    resource(ResourceType::Served, name, &wire::Served { ports: ports.collect(), ..Default::default() })
}

/// What an endpoint was asked with.
#[derive(Debug, Clone)]
pub struct Asked {
    pub authority: String,
    pub headers: HeaderMap,
}

/// A caller's end or an endpoint's: an identity with a certificate.
struct Party {
    identity: Identity,
    store: Arc<CertificateStore>,
    _served: Served,
}

pub struct Mesh {
    pub control: Control,
    pub ca: Arc<TestCa>,
    pub directory: tempfile::TempDir,
}

impl Mesh {
    /// A control plane with the waypoint `default/wp` and the service `web` of port 80, whose endpoints are at
    /// 8080. Inside of a sandbox.
    pub fn make() -> Self {
        shell("ip link set lo up");
        let directory = tempfile::tempdir().unwrap();
        let control = Control::start(&directory.path().join("xds.sock"));
        let ca = TestCa::new(TokioClock::start(), Duration::from_secs(3600));
        serve_on_unix(&ca, &directory.path().join("ca.sock")).unwrap();
        control.put(PodSpec { ip: WAYPOINT, ..pod("wp", 0) }.object());
        control.put(crate::support::objects::service(HOST, VIP, 80, 8080));
        Self { control, ca, directory }
    }

    fn party(&self, account: &str) -> Party {
        let options = StoreOptions {
            trust_domain: "cluster.local".into(),
            trust_domain_aliases: vec![],
            concurrent_requests: 1,
            clock: TokioClock::start(),
            jitter: Arc::new(FixedJitter(1.0)),
        };
        let store = CertificateStore::new(options, self.ca.clone(), Metrics::new("test", "0"));
        let identity = Identity::new("cluster.local", "default", account).unwrap();
        let served = store.serve(&identity);
        Party { identity, store, _served: served }
    }

    pub async fn waypoint(&self, flags: &[&str]) -> Waypoint {
        let directory = self.directory.path().join("waypoint");
        std::fs::create_dir(&directory).unwrap();
        std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o700)).unwrap();
        let shared = self.directory.path().display();
        let log = directory.join("access.log").display().to_string();
        let binary = env!("CARGO_BIN_EXE_meltemi-proxy");
        let child = Command::new(binary)
            .args(["waypoint", "--namespace", "default", "--name", "wp"])
            .args(["--listen", &format!("{WAYPOINT}:15008"), "--run-dir", &directory.display().to_string()])
            .args(["--xds", &format!("unix:{shared}/xds.sock"), "--ca", &format!("unix:{shared}/ca.sock")])
            .args(["--access-log-file", &log, "--log-format", "text"])
            .args(flags)
            .env("RUST_BACKTRACE", "1")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let waypoint = Waypoint { child, directory };
        soon("ready", async {
            while !waypoint.get("/ready").await.contains("\"ready\":true") {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
        waypoint
    }

    /// An endpoint of `web`: accepts tunnels at its address and serves what is asked for.
    pub async fn endpoint<F, R>(&self, spec: &PodSpec, serve: F) -> mpsc::UnboundedReceiver<Asked>
    where
        F: Fn(TunnelIo) -> R + Send + Clone + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        self.control.put(PodSpec { services: vec![(HOST, 80, 8080)], ..spec.clone() }.object());
        let (asked, receiver) = mpsc::unbounded_channel();
        let party = self.party(spec.account);
        let listener = TcpListener::bind(SocketAddr::from((spec.ip, 15008))).await.unwrap();
        tokio::spawn(async move {
            let party = Arc::new(party);
            while let Ok((tcp, _)) = listener.accept().await {
                let (party, asked, serve) = (party.clone(), asked.clone(), serve.clone());
                tokio::spawn(async move {
                    let alpn = Alpn::new(&["h2"]);
                    let config = party.store.server_config(&party.identity, &alpn, DEADLINE).await.unwrap();
                    let Ok(tls) = tokio_rustls::TlsAcceptor::from(config).accept(tcp).await else { return };
                    let token = CancellationToken::new();
                    let tasks = TaskTracker::new();
                    let handle = move |mut incoming: Incoming| {
                        let authority = incoming.parts.uri.to_string();
                        let headers = std::mem::take(&mut incoming.parts.headers);
                        let _ = asked.send(Asked { authority, headers });
                        let serve = serve.clone();
                        async move { serve(incoming.accept().unwrap().into()).await }
                    };
                    let limits = Limits::default();
                    let _ = meltemi_tunnel::serve(tls, &limits, &token, &token, &tasks, handle).await;
                });
            }
        });
        receiver
    }

    /// A tunnel to the waypoint from an address, as an account.
    pub async fn caller(&self, account: &str, ip: Ipv4Addr) -> Caller {
        let party = self.party(account);
        let expected = [Identity::new("cluster.local", "default", "wp").unwrap()];
        let alpn = Alpn::new(&["h2"]);
        let config = party.store.client_config(&party.identity, &expected, &alpn, DEADLINE).await.unwrap();
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from((ip, 0))).unwrap();
        let tcp = soon("tcp", socket.connect(SocketAddr::from((WAYPOINT, 15008)))).await.unwrap();
        let connecting = tokio_rustls::TlsConnector::from(config).connect(server_name(), tcp);
        let tls = soon("tls", connecting).await.unwrap();
        let (tunnel, driver) = ClientTunnel::begin(tls, Limits::default()).await.unwrap();
        tokio::spawn(driver);
        Caller { tunnel, ip: ip.into(), _party: party }
    }
}

pub struct Caller {
    tunnel: ClientTunnel,
    ip: IpAddr,
    _party: Party,
}

impl Caller {
    /// Opens a connection; the port 4711 is what its node says of it.
    pub async fn open(&self, authority: &str) -> Result<TunnelIo, OpenError> {
        let request = OpenRequest {
            authority: authority.into(),
            baggage: Some(http::HeaderValue::from_static(
                "k8s.namespace.name=default,k8s.deployment.name=front",
            )),
            forwarded: forwarded(SocketAddr::new(self.ip, 4711), Some(HOST)),
            trace: TraceParent::new(),
        };
        soon("open", self.tunnel.open(&request, &Limits::default())).await.map(TunnelIo::from)
    }

    /// One request on a connection of its own.
    pub async fn get(&self, path: &str, headers: &str) -> String {
        let mut io = self.open(&format!("{VIP}:80")).await.unwrap();
        let text = format!("GET {path} HTTP/1.1\r\nhost: web\r\nconnection: close\r\n{headers}\r\n");
        io.write_all(text.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let _ = soon("answer", io.read_to_end(&mut answer)).await;
        String::from_utf8(answer).unwrap()
    }

    /// The status and the explanation of a CONNECT that must be refused.
    pub async fn refused(&self, authority: &str) -> (u16, String) {
        match self.open(authority).await {
            Err(OpenError::Refused { status, refusal }) => {
                (status.as_u16(), refusal.map(|refusal| refusal.to_string()).unwrap_or_default())
            }
            other => panic!("{authority}: {other:?}"),
        }
    }
}

/// Echoes bytes.
pub async fn echo(mut io: TunnelIo) {
    while let Ok(Some(bytes)) = io.read_bytes().await {
        if io.write_all(&bytes).await.is_err() {
            return;
        }
    }
    let _ = io.shutdown().await;
}

/// Answers each request with its line, its headers and its body.
pub async fn http_echo(io: TunnelIo) {
    let service = hyper::service::service_fn(|request: Request<Body>| async move {
        let (parts, body) = request.into_parts();
        let headers =
            parts.headers.iter().map(|(name, value)| format!("{name}: {}\n", value.to_str().unwrap()));
        let head = format!("{} {}\n{}", parts.method, parts.uri, headers.collect::<String>());
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let text = format!("{head}\n{}", String::from_utf8_lossy(&body));
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(text))))
    });
    let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
    let _ = builder.serve_connection(TokioIo::new(io), service).await;
}

pub struct Waypoint {
    pub child: Child,
    pub directory: PathBuf,
}

impl Drop for Waypoint {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Waypoint {
    pub async fn get(&self, path: &str) -> String {
        let Ok(mut stream) = UnixStream::connect(self.directory.join("proxy-admin.sock")).await else {
            return String::new();
        };
        let text = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default()
    }

    pub fn terminate(&self) {
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    }

    /// Waits for a record.
    pub async fn record(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        soon(what, async {
            loop {
                let text = std::fs::read_to_string(self.directory.join("access.log")).unwrap();
                let mut records = text.lines().filter_map(|line| serde_json::from_str(line).ok());
                if let Some(found) = records.find(&wanted) {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await
    }
}
