//! The waypoint's flags and environment, read once, in `main`.

use crate::config::{
    ServerUri, as_millis, as_seconds, as_text, name, positive, target_as_text, trust_domain,
};
use clap::Args;
use meltemi_telemetry::logging::{LogFormat, parse_filter};
use meltemi_telemetry::{AccessLogFormat, AccessLogTarget};
use serde::Serialize;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// The namespace of the waypoint's Gateway.
    #[arg(long, env = "POD_NAMESPACE")]
    namespace: String,
    /// The Gateway's name.
    #[arg(long, env = "GATEWAY_NAME")]
    name: String,
    /// The service account whose identity it has [default: the Gateway's name].
    #[arg(long, env = "SERVICE_ACCOUNT")]
    service_account: Option<String>,
    /// Where tunnels are accepted. A wildcard IPv6 address takes IPv4, too.
    #[arg(long, default_value = "0.0.0.0:15008", value_name = "IP:PORT")]
    listen: SocketAddr,
    /// The default place of all sockets.
    #[arg(long, value_name = "DIR")]
    run_dir: PathBuf,
    /// Discovery: unix:PATH, unix-tls:PATH or https://HOST:PORT.
    #[arg(long, value_name = "URI")]
    xds: ServerUri,
    /// Certificates: the same forms [default: as --xds].
    #[arg(long, value_name = "URI")]
    ca: Option<ServerUri>,
    /// The reading admin socket [default: RUN_DIR/proxy-admin.sock].
    #[arg(long, value_name = "PATH")]
    admin: Option<PathBuf>,
    /// The changing admin socket [default: RUN_DIR/proxy-control.sock].
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
    /// Where metrics (/metrics, /stats/prometheus) and readiness (/healthz/ready) are served, or none.
    #[arg(long, value_name = "IP:PORT|none", default_value = "none")]
    metrics_address: String,
    /// PEM roots for an --xds with TLS.
    #[arg(long, value_name = "PEM")]
    xds_root: Option<PathBuf>,
    /// PEM roots for a --ca with TLS.
    #[arg(long, value_name = "PEM")]
    ca_root: Option<PathBuf>,
    /// Bearer token for both; read again at each use.
    #[arg(long, value_name = "FILE")]
    auth_token: Option<PathBuf>,
    #[arg(long, default_value = "cluster.local")]
    trust_domain: String,
    #[arg(long, default_value = "Kubernetes")]
    cluster_id: String,
    #[arg(long, default_value = "")]
    network: String,
    /// Threads that carry traffic.
    #[arg(long, default_value_t = 2)]
    workers: usize,
    /// json, text or off.
    #[arg(long, default_value = "json")]
    access_log: AccessLogFormat,
    /// A file to append to, or "-" for standard output.
    #[arg(long, value_name = "PATH|-", default_value = "-")]
    access_log_file: String,
    /// error, warn, info, debug, trace, off, or directives such as info,meltemi_http=debug.
    #[arg(long, value_name = "FILTER", default_value = "info")]
    log_level: String,
    /// json or text.
    #[arg(long, default_value = "json")]
    log_format: LogFormat,
    #[arg(long, default_value_t = 10_000)]
    drain_timeout_ms: u64,
    #[arg(long, default_value_t = 10_000)]
    connect_timeout_ms: u64,
    #[arg(long, default_value_t = 10_000)]
    handshake_timeout_ms: u64,
    #[arg(long, default_value_t = 300_000)]
    pool_idle_ms: u64,
    #[arg(long, default_value_t = 86_400)]
    certificate_ttl_s: u64,
    /// Ask discovery for addresses by name. The server must then send the L4 policies of what is served.
    #[arg(long, value_name = "true|false", default_value_t = false, action = clap::ArgAction::Set)]
    on_demand: bool,
}

/// Everything that flags and environment say; it does not change while the process runs.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Config {
    pub(crate) namespace: Arc<str>,
    pub(crate) name: Arc<str>,
    pub(crate) service_account: Arc<str>,
    pub(crate) listen: SocketAddr,
    #[serde(serialize_with = "as_text")]
    pub(crate) xds: ServerUri,
    #[serde(serialize_with = "as_text")]
    pub(crate) ca: ServerUri,
    pub(crate) admin: PathBuf,
    pub(crate) control: PathBuf,
    pub(crate) metrics_address: Option<SocketAddr>,
    pub(crate) xds_root: Option<PathBuf>,
    pub(crate) ca_root: Option<PathBuf>,
    pub(crate) auth_token: Option<PathBuf>,
    pub(crate) trust_domain: Arc<str>,
    pub(crate) cluster_id: Arc<str>,
    pub(crate) network: Arc<str>,
    pub(crate) workers: usize,
    pub(crate) access_log: AccessLogFormat,
    #[serde(serialize_with = "target_as_text")]
    pub(crate) access_log_file: AccessLogTarget,
    pub(crate) log_level: String,
    pub(crate) log_format: LogFormat,
    #[serde(rename = "drain_timeout_ms", serialize_with = "as_millis")]
    pub(crate) drain_timeout: Duration,
    #[serde(rename = "connect_timeout_ms", serialize_with = "as_millis")]
    pub(crate) connect_timeout: Duration,
    #[serde(rename = "handshake_timeout_ms", serialize_with = "as_millis")]
    pub(crate) handshake_timeout: Duration,
    #[serde(rename = "pool_idle_ms", serialize_with = "as_millis")]
    pub(crate) pool_idle: Duration,
    #[serde(rename = "certificate_ttl_s", serialize_with = "as_seconds")]
    pub(crate) certificate_ttl: Duration,
    pub(crate) on_demand: bool,
}

impl Flags {
    /// # Errors
    /// A text that names the flag.
    pub(crate) fn check(self) -> Result<Config, String> {
        let ca = self.ca.unwrap_or_else(|| self.xds.clone());
        for (flag, uri, root_flag, root) in
            [("--xds", &self.xds, "--xds-root", &self.xds_root), ("--ca", &ca, "--ca-root", &self.ca_root)]
        {
            if !matches!(uri, ServerUri::Unix(_)) && root.is_none() {
                return Err(format!(
                    "{flag} {uri}: needs {root_flag} PEM, the roots that its server is checked against"
                ));
            }
        }
        name("--name", &self.name)?;
        name("--namespace", &self.namespace)?;
        name("--cluster-id", &self.cluster_id)?;
        trust_domain(&self.trust_domain)?;
        let metrics_address = match self.metrics_address.as_str() {
            "none" => None,
            text => Some(text.parse().map_err(|_| {
                format!("--metrics-address {text:?}: want IP:PORT, such as 0.0.0.0:15020, or none")
            })?),
        };
        let service_account = self.service_account.unwrap_or_else(|| self.name.clone());
        name("--service-account", &service_account)?;
        if self.workers == 0 || self.workers > 1_024 {
            return Err(format!("--workers {}: want 1 to 1024", self.workers));
        }
        parse_filter(&self.log_level).map_err(|error| format!("--log-level: {error}"))?;
        let millis = |flag: &str, value| positive(flag, value).map(Duration::from_millis);
        Ok(Config {
            namespace: self.namespace.into(),
            name: self.name.into(),
            service_account: service_account.into(),
            listen: self.listen,
            xds: self.xds,
            ca,
            admin: self.admin.unwrap_or_else(|| self.run_dir.join("proxy-admin.sock")),
            control: self.control.unwrap_or_else(|| self.run_dir.join("proxy-control.sock")),
            metrics_address,
            xds_root: self.xds_root,
            ca_root: self.ca_root,
            auth_token: self.auth_token,
            trust_domain: self.trust_domain.into(),
            cluster_id: self.cluster_id.into(),
            network: self.network.into(),
            workers: self.workers,
            access_log: self.access_log,
            access_log_file: match self.access_log_file.as_str() {
                "" => return Err("--access-log-file: the path is empty; \"-\" is standard output".to_owned()),
                "-" => AccessLogTarget::Stdout,
                path => AccessLogTarget::File(path.into()),
            },
            log_level: self.log_level,
            log_format: self.log_format,
            drain_timeout: Duration::from_millis(self.drain_timeout_ms),
            connect_timeout: millis("--connect-timeout-ms", self.connect_timeout_ms)?,
            handshake_timeout: millis("--handshake-timeout-ms", self.handshake_timeout_ms)?,
            pool_idle: millis("--pool-idle-ms", self.pool_idle_ms)?,
            certificate_ttl: Duration::from_secs(positive("--certificate-ttl-s", self.certificate_ttl_s)?),
            on_demand: self.on_demand,
        })
    }
}
