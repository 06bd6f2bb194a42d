//! Puts the data plane together, runs it, and takes it down.
use crate::admin::{self, AdminSockets, Views};
use crate::config::{Config, ServerUri};
use crate::connections::{self, Connections};
use crate::node::{Node, Settings};
use crate::pods::Pods;
use crate::views::NodeView;
use crate::zds;
use anyhow::Context;
use meltemi_capture::{HomeNetns, Keepalive};
use meltemi_identity::{
    Alpn, CertificateStore, GrpcCa, GrpcCaOptions, KeyKeeper, RandomJitter, StoreOptions, SystemClock,
};
use meltemi_state::{Mesh, MeshOptions};
use meltemi_telemetry::logging::LogControl;
use meltemi_telemetry::{AccessLog, Metrics, Telemetry};
use meltemi_tunnel::{Limits, Patience};
use meltemi_types::discovery::ResourceType;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Certificate requests under way at a time.
const CERTIFICATE_REQUESTS: usize = 8;
/// Whether traffic has stopped is looked at this often.
const TRIM: Duration = Duration::from_secs(5);
/// Reads within that time that are no traffic to keep memory for: keepalives and the like.
const QUIET_READS: u64 = 500;

/// Runs until a signal or the control socket ends it.
pub(crate) async fn run(config: Config, logging: LogControl) -> anyhow::Result<()> {
    let config = Arc::new(config);
    let home =
        HomeNetns::current(config.bpf_dir.clone()).context("cannot open this process's network namespace")?;
    let metrics = Metrics::new("ztunnel", env!("CARGO_PKG_VERSION"));
    let access_log = AccessLog::open(config.access_log, &config.access_log_file, metrics.clone())?;
    let telemetry = Telemetry::new(metrics.clone(), access_log.clone());
    let certificates = certificates(&config, &metrics)?;
    let keeper = config.keys.clone().map(KeyKeeper::new);
    if let Some(keeper) = &keeper {
        match certificates.restore_from(keeper).await {
            Ok(restored) => tracing::info!(restored, "kept certificates taken back"),
            Err(error) => tracing::warn!(%error, "kept certificates cannot be taken back"),
        }
    }
    let mesh = Arc::new(Mesh::new(MeshOptions {
        node: config.node.to_string(),
        on_demand: config.on_demand,
        ..MeshOptions::default()
    }));
    let node = Arc::new(Node {
        home,
        settings: settings(&config),
        mesh: mesh.clone(),
        certificates: certificates.clone(),
        telemetry,
        connections: Arc::new(Connections::default()),
        hbone: Alpn::new(&["h2"]),
    });
    let pods = Pods::new(node.clone());

    let stop = CancellationToken::new();
    let drain = CancellationToken::new();
    let tasks = TaskTracker::new();
    let (snapshots, snapshots_seen) = watch::channel(0);
    let view = Arc::new(NodeView {
        config: config.clone(),
        node: node.clone(),
        pods: pods.clone(),
        snapshots: snapshots_seen.clone(),
        drain: drain.clone(),
    });
    let sockets = AdminSockets::bind(&config.admin, &config.control)?;
    let views = Views {
        readiness: view.clone(),
        config: view.clone(),
        certificates: certificates.clone(),
        connections: view.clone(),
        metrics: metrics.clone(),
        drain: view,
        logging,
    };
    tasks.spawn(admin::serve(sockets, views, stop.clone()));
    let keeping = keeper.map(|keeper| certificates.keep_with(keeper));
    spawn_discovery(&config, &mesh, &metrics, &tasks, &stop);
    let recheck = connections::recheck(node.connections.clone(), mesh.clone(), certificates.trust().clone());
    spawn_until(&tasks, &stop, recheck);
    spawn_until(&tasks, &stop, after_snapshots(certificates.clone(), snapshots_seen));
    spawn_until(&tasks, &stop, trim(node.clone()));
    let following = pods.clone();
    let path = config.zds.clone();
    let zds_stop = CancellationToken::new();
    spawn_until(&tasks, &zds_stop, async move { zds::follow(&path, &following, &snapshots).await });

    ending(&drain).await?;
    tracing::info!(deadline_ms = config.drain_timeout.as_millis() as u64, "draining");
    // From here no pod is added; discovery and certificates go on for the connections that are open.
    zds_stop.cancel();
    tokio::select! {
        () = pods.drain(config.drain_timeout) => tracing::info!("drained"),
        result = ending_signal() => {
            result?;
            tracing::warn!("second signal, ending at once");
        }
    }
    stop.cancel();
    certificates.shut_down();
    if let Some(keeping) = keeping {
        keeping.abort();
    }
    tasks.close();
    // What remains is bounded: the admin servers' last answers.
    let _ = tokio::time::timeout(Duration::from_secs(1), tasks.wait()).await;
    tokio::task::spawn_blocking(move || access_log.flush(Duration::from_secs(2))).await?;
    Ok(())
}

fn settings(config: &Config) -> Settings {
    Settings {
        trust_domain: config.trust_domain.clone(),
        network: config.network.clone(),
        connect_timeout: config.connect_timeout,
        handshake_timeout: config.handshake_timeout,
        drain_timeout: config.drain_timeout,
        keepalive: Keepalive::default(),
        patience: Patience { half_closed: config.half_closed_timeout, idle: config.idle_timeout },
        limits: Limits {
            idle: config.pool_idle,
            handshake_timeout: config.handshake_timeout,
            // The peer answers after its own connect, which has as long.
            open_timeout: config.connect_timeout + Duration::from_secs(2),
            ..Limits::default()
        },
    }
}

fn certificates(config: &Config, metrics: &Arc<Metrics>) -> anyhow::Result<Arc<CertificateStore>> {
    let ca = GrpcCa::new(GrpcCaOptions {
        uri: config.ca.clone(),
        root_file: config.ca_root.clone(),
        token_file: config.auth_token.clone(),
        ttl: config.certificate_ttl,
        request_timeout: config.connect_timeout,
    })?;
    let options = StoreOptions {
        trust_domain: config.trust_domain.clone(),
        trust_domain_aliases: Vec::new(),
        concurrent_requests: CERTIFICATE_REQUESTS,
        clock: Arc::new(SystemClock),
        jitter: Arc::new(RandomJitter),
    };
    Ok(CertificateStore::new(options, Arc::new(ca), metrics.clone()))
}

fn spawn_discovery(
    config: &Config,
    mesh: &Arc<Mesh>,
    metrics: &Arc<Metrics>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) {
    let server = match config.xds.clone() {
        ServerUri::Unix(path) => meltemi_xds::Server::Unix(path),
        ServerUri::UnixTls(path) => meltemi_xds::Server::UnixTls(path),
        ServerUri::Https { host, port } => meltemi_xds::Server::Tls { host, port },
    };
    let info = meltemi_xds::NodeInfo {
        ip: Ipv4Addr::LOCALHOST.into(),
        name: config.node.to_string(),
        namespace: "meltemi-system".to_owned(),
        node_name: config.node.to_string(),
        cluster_id: config.cluster_id.to_string(),
    };
    let mut options = meltemi_xds::ClientOptions::new(server, info);
    options.root_file = config.xds_root.clone();
    options.token_file = config.auth_token.clone();
    options.on_demand = config.on_demand;
    options.connect_timeout = config.connect_timeout;
    let counts = Arc::new(DiscoveryMetrics(metrics.clone()));
    let client = meltemi_xds::Client::new(options, mesh.clone(), counts);
    mesh.connect(Arc::new(client.asker()));
    tasks.spawn(client.run(stop.clone()));
}

struct DiscoveryMetrics(Arc<Metrics>);

impl meltemi_xds::Metrics for DiscoveryMetrics {
    fn connected(&self, connected: bool) {
        self.0.set_xds_connected(connected);
    }
    fn nack(&self, resource_type: ResourceType) {
        self.0.xds_nack(resource_type.type_url());
    }
}

fn spawn_until(
    tasks: &TaskTracker,
    stop: &CancellationToken,
    work: impl Future<Output = ()> + Send + 'static,
) {
    let stop = stop.clone();
    tasks.spawn(async move {
        tokio::select! {
            () = work => {}
            () = stop.cancelled() => {}
        }
    });
}

/// Once the node's pods are known, keys of others are wiped; and an agent that was restarted is given the
/// keys to keep again.
async fn after_snapshots(certificates: Arc<CertificateStore>, mut snapshots: watch::Receiver<u64>) {
    while snapshots.changed().await.is_ok() {
        certificates.forget_unclaimed();
        certificates.deposit_again();
    }
}

/// Gives spare memory back once after traffic, or many connections, have stopped: connections that are open and
/// idle do not keep what others needed.
async fn trim(node: Arc<Node>) {
    let mut ticks = tokio::time::interval(TRIM);
    let (mut reads_before, mut open_before, mut spare) = (0, 0, false);
    loop {
        ticks.tick().await;
        let (reads, open) = (meltemi_tunnel::reads(), node.telemetry.open_connections());
        let quiet = reads - reads_before < QUIET_READS;
        spare |= !quiet || open < open_before;
        if quiet && spare && open >= open_before {
            meltemi_tunnel::release_spare();
            meltemi_capture::release_memory();
            spare = false;
        }
        (reads_before, open_before) = (reads, open);
    }
}

/// Completes when the process is told to end.
pub(crate) async fn ending(drain: &CancellationToken) -> anyhow::Result<()> {
    tokio::select! {
        result = ending_signal() => result,
        () = drain.cancelled() => Ok(()),
    }
}

pub(crate) async fn ending_signal() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
