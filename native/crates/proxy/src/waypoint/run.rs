//! Puts the waypoint together, runs it, and takes it down.
use super::candidates::CandidateTable;
use super::dial::Dialer;
use super::discovery::{self, Sink};
use super::logging::RequestLogging;
use super::served::ServedTable;
use super::views::WaypointView;
use super::{CONNECTIONS, Config, Settings, Waypoint, hbone};
use crate::admin::{self, AdminSockets, Views};
use crate::admission::Admission;
use crate::connections::{self, Connections};
use crate::run::ending;
use anyhow::Context;
use meltemi_capture::Keepalive;
use meltemi_http::{Core, PoolLimits};
use meltemi_identity::{
    Alpn, CertificateStore, GrpcCa, GrpcCaOptions, RandomJitter, Served, StoreOptions, SystemClock,
};
use meltemi_state::{Mesh, MeshOptions};
use meltemi_telemetry::logging::LogControl;
use meltemi_telemetry::{AccessLog, Metrics, RequestTelemetry, Telemetry};
use meltemi_tunnel::{Limits, Pool};
use meltemi_types::{Identity, WorkloadUid};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Bytes a peer may send on one stream before they are taken: a waypoint holds them for both sides.
const STREAM_WINDOW: u32 = 256 << 10;
/// Spare memory is given back this often where nothing passes.
const TRIM: Duration = Duration::from_secs(30);

/// Runs until a signal or the control socket ends it.
pub(crate) async fn run(config: Config, logging: LogControl) -> anyhow::Result<()> {
    let config = Arc::new(config);
    let metrics = Metrics::new("waypoint", env!("CARGO_PKG_VERSION"));
    let access_log = AccessLog::open(config.access_log, &config.access_log_file, metrics.clone())?;
    let identity = Identity::new(&config.trust_domain, &config.namespace, &config.service_account)?;
    let ca = ca(&config)?;
    let certificates = certificates(&config, ca.clone(), &metrics);
    let claim = certificates.serve(&identity);
    let waypoint = waypoint(&config, identity, &certificates, &metrics, access_log.clone());
    let listener = TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("--listen {}: cannot listen", config.listen))?;
    let core =
        Core::new(waypoint.clone(), PoolLimits::default(), waypoint.tasks.clone(), waypoint.kill.clone());
    let sink = Sink::new(waypoint.clone(), core.clone());
    let stop = CancellationToken::new();
    let tasks = TaskTracker::new();
    let view = Arc::new(WaypointView {
        config: config.clone(),
        waypoint: waypoint.clone(),
        core: core.clone(),
        sink: sink.clone(),
    });
    let views = Views {
        readiness: view.clone(),
        config: view.clone(),
        certificates: certificates.clone(),
        connections: view.clone(),
        metrics: metrics.clone(),
        drain: view,
        logging,
    };
    let scraped = match config.metrics_address {
        Some(address) => {
            let listener = TcpListener::bind(address).await;
            Some(listener.with_context(|| format!("--metrics-address {address}: cannot listen"))?)
        }
        None => None,
    };
    if let Some(listener) = scraped {
        tasks.spawn(admin::serve_metrics(listener, views.clone(), stop.clone()));
    }
    tasks.spawn(admin::serve(AdminSockets::bind(&config.admin, &config.control)?, views, stop.clone()));
    let client = discovery::client(&config, sink, &waypoint.mesh, metrics.clone());
    tasks.spawn(client.run(stop.clone()));
    let recheck = connections::recheck(
        waypoint.connections.clone(),
        waypoint.mesh.clone(),
        certificates.trust().clone(),
    );
    spawn_until(&tasks, &stop, recheck);
    spawn_until(&tasks, &stop, follow(waypoint.clone()));
    let following = certificates.clone();
    spawn_until(&tasks, &stop, async move { ca.follow_trust(following, Arc::new(RandomJitter)).await });
    let tended = core.clone();
    spawn_until(&tasks, &stop, async move { tended.tend().await });
    spawn_until(&tasks, &stop, trim(waypoint.clone()));
    let accepting = hbone::accept(waypoint.clone(), core, Alpn::new(&["h2"]), listener);
    tasks.spawn(accepting);
    tracing::info!(waypoint = %waypoint.name, listen = %config.listen, "waypoint started");

    ending(&waypoint.drain).await?;
    drain(&waypoint, config.drain_timeout).await?;
    stop.cancel();
    end(claim, &certificates, tasks).await;
    tokio::task::spawn_blocking(move || access_log.flush(Duration::from_secs(2))).await?;
    Ok(())
}

/// Lets what is open end, for as long as it may take.
async fn drain(waypoint: &Waypoint, timeout: Duration) -> anyhow::Result<()> {
    tracing::info!(deadline_ms = timeout.as_millis() as u64, "draining");
    waypoint.drain.cancel();
    // Tunnels end when their last stream has; connections to endpoints outlive them, idle.
    let drained = async {
        while waypoint.streams.available_permits() < CONNECTIONS {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        ended = tokio::time::timeout(timeout, drained) => match ended {
            Ok(()) => tracing::info!("drained"),
            Err(_) => tracing::warn!("connections are left at the end of the time to drain"),
        },
        result = crate::run::ending_signal() => {
            result?;
            tracing::warn!("second signal, ending at once");
        }
    }
    waypoint.kill.cancel();
    waypoint.tasks.close();
    // What remains is bounded: answers on their way, records of what was ended.
    let _ = tokio::time::timeout(Duration::from_secs(2), waypoint.tasks.wait()).await;
    Ok(())
}

async fn end(claim: Served, certificates: &CertificateStore, tasks: TaskTracker) {
    drop(claim);
    certificates.shut_down();
    tasks.close();
    let _ = tokio::time::timeout(Duration::from_secs(1), tasks.wait()).await;
}

fn waypoint(
    config: &Config,
    identity: Identity,
    certificates: &Arc<CertificateStore>,
    metrics: &Arc<Metrics>,
    access_log: AccessLog,
) -> Arc<Waypoint> {
    let settings = Settings {
        network: config.network.clone(),
        connect_timeout: config.connect_timeout,
        handshake_timeout: config.handshake_timeout,
        keepalive: Keepalive::default(),
        limits: limits(config),
    };
    let kill = CancellationToken::new();
    let dialer = Dialer {
        identity: identity.clone(),
        settings: settings.clone(),
        certificates: certificates.clone(),
        metrics: metrics.clone(),
        alpn: Alpn::new(&["h2"]),
    };
    let pool = Pool::new(dialer, settings.limits.clone(), kill.child_token());
    Arc::new(Waypoint {
        name: format!("{}/{}", config.namespace, config.name).into(),
        identity,
        settings,
        mesh: Arc::new(Mesh::new(MeshOptions { on_demand: config.on_demand, ..MeshOptions::default() })),
        certificates: certificates.clone(),
        telemetry: Telemetry::new(metrics.clone(), access_log),
        requests: RequestTelemetry::new(metrics),
        logging: RequestLogging::default(),
        connections: Arc::new(Connections::default()),
        pool,
        served: ServedTable::default(),
        candidates: CandidateTable::default(),
        handshakes: Admission::handshakes(),
        tunnels: Admission::tunnels(),
        streams: Arc::new(Semaphore::new(CONNECTIONS)),
        next_http: AtomicU64::new(1),
        tasks: TaskTracker::new(),
        drain: CancellationToken::new(),
        kill,
    })
}

fn limits(config: &Config) -> Limits {
    let default = Limits::default();
    Limits {
        stream_window: STREAM_WINDOW,
        connection_window: STREAM_WINDOW * default.max_streams,
        idle: config.pool_idle,
        handshake_timeout: config.handshake_timeout,
        // The peer answers after its own connect, which has as long.
        open_timeout: config.connect_timeout + Duration::from_secs(2),
        ..default
    }
}

fn ca(config: &Config) -> anyhow::Result<Arc<GrpcCa>> {
    Ok(Arc::new(GrpcCa::new(GrpcCaOptions {
        uri: config.ca.clone(),
        root_file: config.ca_root.clone(),
        token_file: config.auth_token.clone(),
        ttl: config.certificate_ttl,
        request_timeout: config.connect_timeout,
    })?))
}

fn certificates(config: &Config, ca: Arc<GrpcCa>, metrics: &Arc<Metrics>) -> Arc<CertificateStore> {
    let options = StoreOptions {
        trust_domain: config.trust_domain.clone(),
        trust_domain_aliases: Vec::new(),
        concurrent_requests: 2,
        clock: Arc::new(SystemClock),
        jitter: Arc::new(RandomJitter),
    };
    CertificateStore::new(options, ca, metrics.clone())
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

/// Keeps the tunnels to endpoints in step with what is known: ends those to peers that are no longer trusted or
/// whose workload is gone, and leaves those with an old certificate.
async fn follow(waypoint: Arc<Waypoint>) {
    let mut mesh = waypoint.mesh.changes();
    let mut certificates = waypoint.certificates.changes();
    let mut roots = waypoint.certificates.trust().changes();
    let mut serial = None;
    loop {
        tokio::select! {
            changed = mesh.changed() => if changed.is_err() { return },
            changed = roots.changed() => if changed.is_err() { return },
            changed = certificates.changed() => {
                if changed.is_err() {
                    return;
                }
                let current = waypoint.certificates.current(&waypoint.identity);
                let current = current.map(|certificate| certificate.obtained_at());
                if serial.is_some() && serial != current {
                    waypoint.pool.retire();
                }
                serial = current;
                continue;
            }
        }
        let trust = waypoint.certificates.trust();
        waypoint.pool.retain(|key, standing| {
            let known = WorkloadUid::new(key.workload.clone()).is_ok_and(|uid| {
                waypoint.mesh.workload(&uid).is_some_and(|w| w.ips.contains(&key.address.ip()))
            });
            known && trust.still_trusted(standing.chain())
        });
    }
}

/// Gives spare memory back once nothing is open any more.
async fn trim(waypoint: Arc<Waypoint>) {
    let mut ticks = tokio::time::interval(TRIM);
    let mut busy = false;
    loop {
        ticks.tick().await;
        let open = waypoint.streams.available_permits() < CONNECTIONS;
        if !open && busy {
            meltemi_tunnel::release_spare();
            meltemi_capture::release_memory();
        }
        busy = open;
    }
}
