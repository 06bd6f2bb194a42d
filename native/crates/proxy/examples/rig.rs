//! Two pods, `pa` (10.77.0.2) and `pb` (10.77.0.3), on two nodes, for measuring and for interoperation by hand.
//! Run inside `unshare --user --map-root-user --net --mount --pid --fork --mount-proc`.
//!
//! `MELTEMI_PROXY`: our binary. `ZTUNNEL`: a ztunnel, which then serves the nodes named in `ZTUNNEL_NODES`
//! ("n1", "n2" or "n1,n2"). `POLICY=deny-a`: pb refuses pa. The arguments are a command that is run when all is
//! ready, with the proxies' process ids after it.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a tool for people")]
#[path = "../tests/support/mod.rs"]
mod support;

use meltemi_identity::testing::serve_connection;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::Arc;
use support::agent::{Agent, Session};
use support::objects::{PodSpec, deny_account};
use support::world::World;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

fn spec(name: &'static str, last: u8, node: &'static str) -> PodSpec {
    let policies = if std::env::var_os("POLICY").is_some() { vec!["deny-a"] } else { Vec::new() };
    PodSpec {
        name,
        ip: Ipv4Addr::new(10, 77, 0, last),
        account: name,
        node,
        hbone: true,
        services: Vec::new(),
        policies,
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 1)]
async fn main() {
    let world = World::make(vec![spec("pa", 2, "n1"), spec("pb", 3, "n2")]);
    if std::env::var_os("POLICY").is_some() {
        world.control.put(deny_account("deny-a", "pa"));
    }
    let foreign = std::env::var("ZTUNNEL_NODES").unwrap_or_default();
    let mut ours = Vec::new();
    let mut theirs = Vec::new();
    for node in ["n1", "n2"] {
        if foreign.split(',').any(|name| name == node) {
            // One process for all of its nodes: it has fixed ports.
            if theirs.is_empty() {
                theirs.push(ztunnel(&world, &foreign).await);
            }
        } else {
            ours.push(world.proxy_with(node, &["--access-log", "off"]).await);
        }
    }
    if std::env::var_os("RECORDS").is_some() {
        ours.clear();
        for node in ["n1", "n2"].into_iter().filter(|node| !foreign.split(',').any(|name| name == *node)) {
            ours.push(world.proxy(node).await);
        }
    }
    let pids = ours.iter().map(|proxy| proxy.child.id()).chain(theirs.iter().map(|(child, _)| child.id()));
    let pids: Vec<_> = pids.map(|pid| pid.to_string()).collect();
    let mut command = std::env::args().skip(1).collect::<Vec<_>>().into_iter();
    if let Some(program) = command.next() {
        let running = tokio::task::spawn_blocking(move || {
            Command::new(program).args(command).args(pids).status().unwrap()
        });
        println!("{}", running.await.unwrap());
    }
    for proxy in &ours {
        let recorded = proxy.directory.join("access.log").exists();
        for record in if recorded { proxy.records() } else { Vec::new() } {
            println!("record {record}");
        }
    }
    for (child, _) in &mut theirs {
        child.kill().unwrap();
    }
}

/// A ztunnel in our place, with our pods and our CA.
async fn ztunnel(world: &World, nodes: &str) -> (Child, Session) {
    let directory = world.directory.path().join("ztunnel");
    std::fs::create_dir(&directory).unwrap();
    let agent = Agent::listen(&directory.join("zds.sock"));
    let port = certificate_authority(world, &directory).await;
    std::fs::write(directory.join("token"), "token").unwrap();
    std::fs::write(directory.join("workloads.yaml"), workloads(nodes)).unwrap();
    let mut command = Command::new(std::env::var("ZTUNNEL").unwrap());
    let at = |name: &str| directory.join(name).display().to_string();
    command
        .env("PROXY_MODE", "shared")
        .env("NODE_NAME", nodes)
        .env("CLUSTER_ID", "Kubernetes")
        .env("INPOD_UDS", at("zds.sock"))
        .env("CA_ADDRESS", format!("https://localhost:{port}"))
        .env("CA_ROOT_CA", at("ca-root.pem"))
        .env("XDS_ADDRESS", "")
        .env("LOCAL_XDS_PATH", at("workloads.yaml"))
        .env("AUTH_TOKEN", at("token"))
        .env("RUST_LOG", std::env::var("ZTUNNEL_LOG").unwrap_or_else(|_| "warn".to_owned()));
    let child = command.spawn().unwrap();
    let session = agent.accept().await;
    for pod in world.pods.values().filter(|pod| nodes.contains(pod.spec.node)) {
        session.add(&pod.spec.uid(), pod.spec.name, pod.spec.account, &pod.file()).await.unwrap();
    }
    session.snapshot().await.unwrap();
    (child, session)
}

/// The test CA behind TLS, as a ztunnel wants it.
async fn certificate_authority(world: &World, directory: &Path) -> u16 {
    let own = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    std::fs::write(directory.join("ca-root.pem"), own.cert.pem()).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::Pkcs8(own.signing_key.serialize_der().into());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let ca = world.ca.clone();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let (acceptor, ca) = (acceptor.clone(), ca.clone());
            tokio::spawn(async move {
                if let Ok(tls) = acceptor.accept(tcp).await {
                    serve_connection(ca, tls).await;
                }
            });
        }
    });
    port
}

/// A ztunnel takes for local what names its node as the ztunnel itself does.
fn workloads(nodes: &str) -> String {
    let denied = std::env::var_os("POLICY").is_some();
    let policies = if denied {
        "\npolicies:\n- action: Deny\n  name: deny-a\n  namespace: default\n  scope: Namespace\n  dryRun: false\n  rules:\n  - - - principals:\n      - Exact: spiffe://cluster.local/ns/default/sa/pa\n"
    } else {
        ""
    };
    let entries: Vec<_> = [("pa", 2, "n1"), ("pb", 3, "n2")]
        .iter()
        .map(|(name, last, node)| {
            let node = if nodes.contains(node) { nodes } else { node };
            format!(
                "- uid: Kubernetes//Pod/default/{name}\n  name: {name}\n  namespace: default\n  trustDomain: cluster.local\n  serviceAccount: {name}\n  workloadIps: [\"10.77.0.{last}\"]\n  protocol: HBONE\n  node: {node}\n  network: \"\"\n  clusterId: Kubernetes\n  services: {{}}\n"
            )
        })
        .collect();
    format!("workloads:\n{}{policies}", entries.concat())
}
