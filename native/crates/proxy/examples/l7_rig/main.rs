//! What stands around a waypoint and an Envoy while `npm run bench -- l7` measures them: the control plane and CA,
//! the callers' ends, the endpoints. All on loopback addresses of a sandbox's own network namespace.
//!
//! Plain TCP comes in at fronts, as from an application, and leaves them in tunnels (to the waypoint) or in TLS (to
//! Envoy, or right to the backend: what a connection costs without a proxy). The endpoints' ends of both lead to
//! the same answers in this process. A line with the addresses is printed when all is ready; `route TEXT` on
//! standard input changes the `x-version` that the routes answer with.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a tool for people")]
#[path = "../../tests/support/mod.rs"]
mod support;

mod answer;
mod configuration;
mod party;

use clap::Parser;
use configuration::{Routes, VIP, WAYPOINT};
use meltemi_identity::testing::{TestCa, TokioClock, serve_on_unix};
use party::Party;
use serde_json::json;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use support::control::Control;
use support::objects::PodSpec;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};

#[derive(Debug, Parser)]
struct Flags {
    /// The data plane's program.
    #[arg(long)]
    proxy: PathBuf,
    /// Of this instance alone.
    #[arg(long)]
    directory: PathBuf,
    /// Rules in the route table.
    #[arg(long, default_value_t = 1)]
    routes: usize,
    /// Requests need the right caller, method and path.
    #[arg(long)]
    policy: bool,
    /// Where Envoy will listen with TLS: towards HTTP/1.1 and HTTP/2 backends.
    #[arg(long, value_delimiter = ',')]
    envoy: Vec<SocketAddr>,
}

/// Tunnels over which the callers' connections are spread.
const TUNNELS: usize = 4;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let flags = Flags::parse();
    std::fs::create_dir_all(&flags.directory).unwrap();
    std::fs::set_permissions(&flags.directory, std::fs::Permissions::from_mode(0o700)).unwrap();
    let control = Control::start(&flags.directory.join("xds.sock"));
    let ca = TestCa::new(TokioClock::start(), Duration::from_secs(24 * 3600));
    serve_on_unix(&ca, &flags.directory.join("ca.sock")).unwrap();
    let routes = Routes { rules: flags.routes, policy: flags.policy };
    for object in routes.objects("v1") {
        control.put(object);
    }
    let endpoint = Arc::new(Party::new(&ca, "web"));
    endpoint.write_pem(&flags.directory).await;
    let tunnels = listen(Ipv4Addr::new(127, 0, 2, 1).into(), 15008).await;
    tokio::spawn(party::endpoint(endpoint.clone(), tunnels));
    let backend = listen(Ipv4Addr::LOCALHOST.into(), 0).await;
    let backend_tls = listen(Ipv4Addr::LOCALHOST.into(), 0).await;
    let (plain_at, tls_at) = (backend.local_addr().unwrap(), backend_tls.local_addr().unwrap());
    tokio::spawn(accept(backend, answer::serve));
    tokio::spawn(party::endpoint_tls(endpoint.clone(), backend_tls));

    let mut waypoint = waypoint(&flags).await;
    let caller = Arc::new(Party::new(&ca, "caller"));
    let mut fronts = serde_json::Map::new();
    for (name, port) in [("meltemi_http1", 80), ("meltemi_http2", 81)] {
        let listener = listen(Ipv4Addr::LOCALHOST.into(), 0).await;
        fronts.insert(name.into(), json!(listener.local_addr().unwrap().to_string()));
        let mut open = Vec::new();
        for _ in 0..TUNNELS {
            open.push(caller.tunnel(SocketAddr::from((WAYPOINT, 15008))).await);
        }
        let caller = party::Callers::new(open, format!("{VIP}:{port}"));
        tokio::spawn(accept(listener, move |tcp| {
            let caller = caller.clone();
            async move { join(tcp, caller.open().await).await }
        }));
    }
    let envoys = ["envoy_http1", "envoy_http2"].into_iter().zip(flags.envoy.iter().copied());
    for (name, to) in envoys.chain([("direct", tls_at)]) {
        let listener = listen(Ipv4Addr::LOCALHOST.into(), 0).await;
        fronts.insert(name.into(), json!(listener.local_addr().unwrap().to_string()));
        let caller = caller.clone();
        tokio::spawn(accept(listener, move |tcp| {
            let caller = caller.clone();
            async move { join(tcp, caller.tls(to).await).await }
        }));
    }
    let ready = json!({
        "ready": true, "waypoint": waypoint.id(), "fronts": fronts,
        "backend": plain_at.to_string(), "backend_tls": tls_at.to_string(),
    });
    println!("{ready}");

    let (send, mut lines) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            let _ = send.send(line);
        }
    });
    while let Some(line) = lines.recv().await {
        if let Some(version) = line.strip_prefix("route ") {
            control.put(routes.route(version));
        }
    }
    for nack in control.nacks() {
        eprintln!("refused by the waypoint: {nack}");
    }
    waypoint.kill().unwrap();
    waypoint.wait().unwrap();
}

async fn listen(ip: IpAddr, port: u16) -> TcpListener {
    TcpListener::bind((ip, port)).await.unwrap()
}

async fn accept<F, R>(listener: TcpListener, serve: F)
where
    F: Fn(TcpStream) -> R,
    R: Future<Output = ()> + Send + 'static,
{
    while let Ok((tcp, _)) = listener.accept().await {
        tcp.set_nodelay(true).unwrap();
        tokio::spawn(serve(tcp));
    }
}

/// Carries bytes both ways until one end has enough.
async fn join(mut near: TcpStream, mut far: impl AsyncRead + AsyncWrite + Unpin) {
    let _ = tokio::io::copy_bidirectional_with_sizes(&mut near, &mut far, 32 << 10, 32 << 10).await;
}

async fn waypoint(flags: &Flags) -> Child {
    let directory = flags.directory.join("waypoint");
    std::fs::create_dir(&directory).unwrap();
    std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o700)).unwrap();
    let shared = flags.directory.display();
    let log = std::fs::File::create(flags.directory.join("waypoint.log")).unwrap();
    let child = Command::new(&flags.proxy)
        .args(["waypoint", "--namespace", "default", "--name", "wp"])
        .args(["--listen", &format!("{WAYPOINT}:15008"), "--run-dir", &directory.display().to_string()])
        .args(["--xds", &format!("unix:{shared}/xds.sock"), "--ca", &format!("unix:{shared}/ca.sock")])
        .args(["--access-log", "off", "--log-level", "warn"])
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap();
    support::soon("the waypoint", async {
        while !is_ready(&directory).await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    child
}

async fn is_ready(directory: &Path) -> bool {
    let Ok(mut stream) = UnixStream::connect(directory.join("proxy-admin.sock")).await else { return false };
    let request = b"GET /ready HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let mut answer = String::new();
    stream.write_all(request).await.is_ok()
        && stream.read_to_string(&mut answer).await.is_ok()
        && answer.contains("\"ready\":true")
}

/// An endpoint or caller at a loopback address.
fn pod(name: &'static str, ip: Ipv4Addr) -> PodSpec {
    PodSpec { name, ip, account: name, node: "n1", hbone: true, services: vec![], policies: vec![] }
}
