//! The data plane's flags and environment (docs/node-interfaces.md, "Data plane's command line"), read once, in
//! `main`, into the [`Config`] that `/config_dump` shows.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory as _, Parser, Subcommand};
use meltemi_identity::CaUri;
use meltemi_telemetry::logging::{LogFormat, parse_filter};
use meltemi_telemetry::{AccessLogFormat, AccessLogTarget};
use serde::{Serialize, Serializer};

/// Where a gRPC server listens: `unix:PATH` or `https://HOST:PORT`.
pub(crate) type ServerUri = CaUri;

#[derive(Debug, Parser)]
#[command(name = "meltemi-proxy", version, about = "Meltemi's data plane")]
struct Cli {
    #[command(subcommand)]
    role: Role,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// The node's data plane: captures its pods' connections and carries them over HBONE.
    Ztunnel(Box<Flags>),
    /// HTTP policy and routes before services and workloads that ask for it.
    Waypoint(Box<crate::waypoint::Flags>),
}

#[derive(Debug, Args)]
struct Flags {
    /// The node's name.
    #[arg(long, env = "NODE_NAME")]
    node: String,
    /// The node's run directory; the default place of all sockets.
    #[arg(long, value_name = "DIR")]
    run_dir: Option<PathBuf>,
    /// The agent's pod discovery [default: RUN_DIR/zds.sock].
    #[arg(long, value_name = "PATH")]
    zds: Option<PathBuf>,
    /// Discovery: unix:PATH or https://HOST:PORT [default: unix:RUN_DIR/xds.sock].
    #[arg(long, value_name = "URI")]
    xds: Option<ServerUri>,
    /// Certificates: unix:PATH or https://HOST:PORT [default: unix:RUN_DIR/xds.sock].
    #[arg(long, value_name = "URI")]
    ca: Option<ServerUri>,
    /// Where keys are deposited over a restart, or "none" [default: RUN_DIR/keys.sock].
    #[arg(long, value_name = "PATH|none")]
    keys: Option<PathBuf>,
    /// The directory of the agent's guard and redirection by BPF, or "none" [default: RUN_DIR/bpf where it exists].
    #[arg(long, env = "MELTEMI_BPF_DIR", value_name = "DIR|none")]
    bpf_dir: Option<PathBuf>,
    /// The reading admin socket [default: RUN_DIR/proxy-admin.sock].
    #[arg(long, value_name = "PATH")]
    admin: Option<PathBuf>,
    /// The changing admin socket [default: RUN_DIR/proxy-control.sock].
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
    /// PEM roots for an https --xds.
    #[arg(long, value_name = "PEM")]
    xds_root: Option<PathBuf>,
    /// PEM roots for an https --ca.
    #[arg(long, value_name = "PEM")]
    ca_root: Option<PathBuf>,
    /// Bearer token for https forms; read again at each use.
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
    /// error, warn, info, debug, trace, off, or directives such as info,meltemi_tunnel=debug.
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
    /// A connection that one end has closed its output of is ended after passing nothing for this long; 0: never.
    #[arg(long, default_value_t = 300_000)]
    half_closed_timeout_ms: u64,
    /// Any connection is ended after passing nothing for this long; 0: never.
    #[arg(long, default_value_t = 0)]
    idle_timeout_ms: u64,
    #[arg(long, default_value_t = 86_400)]
    certificate_ttl_s: u64,
    /// Ask discovery only for what is needed.
    #[arg(long, value_name = "true|false", default_value_t = true, action = clap::ArgAction::Set)]
    on_demand: bool,
}

/// Everything that flags and environment say; it does not change while the process runs.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Config {
    pub(crate) node: Arc<str>,
    pub(crate) zds: PathBuf,
    #[serde(serialize_with = "as_text")]
    pub(crate) xds: ServerUri,
    #[serde(serialize_with = "as_text")]
    pub(crate) ca: ServerUri,
    /// Absent: keys are not kept over a restart.
    pub(crate) keys: Option<PathBuf>,
    /// Absent: the data plane's sockets are registered nowhere.
    pub(crate) bpf_dir: Option<PathBuf>,
    pub(crate) admin: PathBuf,
    pub(crate) control: PathBuf,
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
    /// Absent: never.
    #[serde(rename = "half_closed_timeout_ms", serialize_with = "as_optional_millis")]
    pub(crate) half_closed_timeout: Option<Duration>,
    /// Absent: never.
    #[serde(rename = "idle_timeout_ms", serialize_with = "as_optional_millis")]
    pub(crate) idle_timeout: Option<Duration>,
    #[serde(rename = "certificate_ttl_s", serialize_with = "as_seconds")]
    pub(crate) certificate_ttl: Duration,
    pub(crate) on_demand: bool,
}

/// What the process is, and all that it was told.
#[derive(Debug)]
pub(crate) enum Command {
    Ztunnel(Box<Config>),
    Waypoint(Box<crate::waypoint::Config>),
}

impl Command {
    /// Reads the process's flags and environment. Bad ones end the process with code 2 and a message on
    /// standard error that names the flag; `--help` and `--version` end it with code 0.
    pub(crate) fn from_process() -> Self {
        Self::parse(std::env::args_os()).unwrap_or_else(|error| error.exit())
    }

    /// Threads, log level and log format.
    pub(crate) fn process(&self) -> (usize, &str, LogFormat) {
        match self {
            Self::Ztunnel(config) => (config.workers, &config.log_level, config.log_format),
            Self::Waypoint(config) => (config.workers, &config.log_level, config.log_format),
        }
    }

    /// `arguments`: the program's name first.
    ///
    /// # Errors
    /// clap's, which knows its exit code.
    pub(crate) fn parse<I, T>(arguments: I) -> Result<Self, clap::Error>
    where
        I: IntoIterator<Item = T>,
        T: Into<OsString> + Clone,
    {
        let checked = match Cli::try_parse_from(arguments)?.role {
            Role::Ztunnel(flags) => flags.check().map(|config| Self::Ztunnel(Box::new(config))),
            Role::Waypoint(flags) => flags.check().map(|config| Self::Waypoint(Box::new(config))),
        };
        checked.map_err(|problem| Cli::command().error(ErrorKind::ValueValidation, problem))
    }
}

impl Flags {
    fn check(self) -> Result<Config, String> {
        let run_dir = self.run_dir;
        let place = |flag: &str, given: Option<PathBuf>, name: &str| match (given, &run_dir) {
            (Some(path), _) if path.as_os_str().is_empty() => Err(format!("{flag}: the path is empty")),
            (Some(path), _) => Ok(path),
            (None, Some(dir)) => Ok(dir.join(name)),
            (None, None) => Err(format!("{flag}: give it, or --run-dir DIR")),
        };
        let xds_socket = || place("--xds", None, "xds.sock").map(ServerUri::Unix);
        let xds = self.xds.map_or_else(xds_socket, Ok)?;
        let ca_socket = || place("--ca", None, "xds.sock").map(ServerUri::Unix);
        let ca = self.ca.map_or_else(ca_socket, Ok)?;
        for (flag, uri, root_flag, root) in
            [("--xds", &xds, "--xds-root", &self.xds_root), ("--ca", &ca, "--ca-root", &self.ca_root)]
        {
            if !matches!(uri, ServerUri::Unix(_)) && root.is_none() {
                return Err(format!(
                    "{flag} {uri}: needs {root_flag} PEM, the roots that its server is checked against"
                ));
            }
        }
        let keys = match self.keys {
            Some(path) if path.as_os_str() == "none" => None,
            given => Some(place("--keys", given, "keys.sock")?),
        };
        let bpf_dir = match self.bpf_dir {
            Some(path) if path.as_os_str() == "none" => None,
            Some(path) if path.as_os_str().is_empty() => {
                return Err("--bpf-dir: the path is empty".to_owned());
            }
            Some(path) => Some(path),
            None => run_dir.as_ref().map(|dir| dir.join("bpf")).filter(|dir| dir.is_dir()),
        };
        name("--node", &self.node)?;
        name("--cluster-id", &self.cluster_id)?;
        trust_domain(&self.trust_domain)?;
        if self.workers == 0 || self.workers > 1_024 {
            return Err(format!("--workers {}: want 1 to 1024", self.workers));
        }
        parse_filter(&self.log_level).map_err(|error| format!("--log-level: {error}"))?;
        Ok(Config {
            node: self.node.into(),
            zds: place("--zds", self.zds, "zds.sock")?,
            xds,
            ca,
            keys,
            bpf_dir,
            admin: place("--admin", self.admin, "proxy-admin.sock")?,
            control: place("--control", self.control, "proxy-control.sock")?,
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
            // A drain of nothing is a choice; waiting for nothing elsewhere would refuse everything.
            drain_timeout: Duration::from_millis(self.drain_timeout_ms),
            connect_timeout: Duration::from_millis(positive(
                "--connect-timeout-ms",
                self.connect_timeout_ms,
            )?),
            handshake_timeout: Duration::from_millis(positive(
                "--handshake-timeout-ms",
                self.handshake_timeout_ms,
            )?),
            pool_idle: Duration::from_millis(positive("--pool-idle-ms", self.pool_idle_ms)?),
            half_closed_timeout: unless_zero(self.half_closed_timeout_ms),
            idle_timeout: unless_zero(self.idle_timeout_ms),
            certificate_ttl: Duration::from_secs(positive("--certificate-ttl-s", self.certificate_ttl_s)?),
            on_demand: self.on_demand,
        })
    }
}

pub(crate) fn positive(flag: &str, value: u64) -> Result<u64, String> {
    if value == 0 { Err(format!("{flag} 0: want at least 1")) } else { Ok(value) }
}

fn unless_zero(ms: u64) -> Option<Duration> {
    (ms > 0).then(|| Duration::from_millis(ms))
}

pub(crate) fn name(flag: &str, value: &str) -> Result<(), String> {
    let fits = !value.is_empty()
        && value.len() <= 253
        && value.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
    if fits {
        Ok(())
    } else {
        Err(format!("{flag} {value:?}: want 1 to 253 letters, digits, '.', '-' and '_'"))
    }
}

pub(crate) fn trust_domain(value: &str) -> Result<(), String> {
    meltemi_types::Identity::new(value, "namespace", "account")
        .map(|_| ())
        .map_err(|_| format!("--trust-domain {value:?}: want a-z, 0-9, '.', '-' and '_', at most 255"))
}

pub(crate) fn as_text<T: fmt::Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

pub(crate) fn target_as_text<S: Serializer>(
    target: &AccessLogTarget,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match target {
        AccessLogTarget::Stdout => serializer.serialize_str("-"),
        AccessLogTarget::File(path) => path.serialize(serializer),
    }
}

pub(crate) fn as_millis<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(value.as_millis()).unwrap_or(u64::MAX))
}

fn as_optional_millis<S: Serializer>(value: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => as_millis(value, serializer),
        None => serializer.serialize_none(),
    }
}

pub(crate) fn as_seconds<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(value.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(flags: &[&str]) -> Result<Config, clap::Error> {
        match Command::parse(["meltemi-proxy", "ztunnel"].iter().chain(flags))? {
            Command::Ztunnel(config) => Ok(*config),
            Command::Waypoint(_) => unreachable!("another role"),
        }
    }

    #[test]
    fn the_run_directory_places_every_socket() {
        let config = parse(&["--node", "n1", "--run-dir", "/run/n1"]).unwrap();
        assert_eq!(config.zds, PathBuf::from("/run/n1/zds.sock"));
        assert_eq!(config.keys, Some(PathBuf::from("/run/n1/keys.sock")));
        assert_eq!(config.bpf_dir, None, "there is no /run/n1/bpf");
        let shown = serde_json::to_value(&config).unwrap();
        assert_eq!(shown["xds"], "unix:/run/n1/xds.sock");
        assert_eq!(shown["ca"], "unix:/run/n1/xds.sock");
        assert_eq!(shown["admin"], "/run/n1/proxy-admin.sock");
        assert_eq!(shown["control"], "/run/n1/proxy-control.sock");
        assert_eq!(shown["trust_domain"], "cluster.local");
        assert_eq!(shown["drain_timeout_ms"], 10_000);
        assert_eq!(shown["pool_idle_ms"], 300_000);
        assert_eq!(shown["half_closed_timeout_ms"], 300_000);
        assert_eq!(shown["idle_timeout_ms"], serde_json::Value::Null);
        assert_eq!(shown["certificate_ttl_s"], 86_400);
        assert_eq!(shown["workers"], 2);
        assert_eq!(shown["access_log"], "json");
        assert_eq!(shown["access_log_file"], "-");
        assert_eq!(shown["on_demand"], true);
    }

    #[test]
    fn single_flags_win_over_the_run_directory() {
        let config = parse(&[
            "--node",
            "n1",
            "--run-dir",
            "/run/n1",
            "--zds",
            "/z",
            "--keys",
            "none",
            "--bpf-dir",
            "/b",
            "--ca",
            "https://ca.example:15012",
            "--ca-root",
            "/ca.pem",
            "--on-demand",
            "false",
            "--access-log-file",
            "/log/access",
            "--log-level",
            "info,meltemi_tunnel=debug",
        ])
        .unwrap();
        assert_eq!(config.zds, PathBuf::from("/z"));
        assert_eq!(config.keys, None);
        assert_eq!(config.bpf_dir, Some(PathBuf::from("/b")));
        assert_eq!(config.ca.to_string(), "https://ca.example:15012");
        assert!(!config.on_demand);
        assert_eq!(config.access_log_file, AccessLogTarget::File("/log/access".into()));
    }

    #[test]
    fn every_mistake_exits_with_2_and_names_its_flag() {
        let base = ["--node", "n1", "--run-dir", "/run/n1"];
        for (flags, flag) in [
            (vec!["--node", "n1"], "--run-dir"),
            (vec!["--run-dir", "/run"], "--node"),
            ([&base[..], &["--xds", "http://a:1"]].concat(), "--xds"),
            ([&base[..], &["--xds", "https://a:1"]].concat(), "--xds-root"),
            ([&base[..], &["--ca", "https://a:1"]].concat(), "--ca-root"),
            ([&base[..], &["--bpf-dir", ""]].concat(), "--bpf-dir"),
            ([&base[..], &["--workers", "0"]].concat(), "--workers"),
            ([&base[..], &["--workers", "many"]].concat(), "--workers"),
            ([&base[..], &["--trust-domain", "A B"]].concat(), "--trust-domain"),
            ([&base[..], &["--access-log", "xml"]].concat(), "--access-log"),
            ([&base[..], &["--log-level", "loud"]].concat(), "--log-level"),
            ([&base[..], &["--log-format", "xml"]].concat(), "--log-format"),
            ([&base[..], &["--connect-timeout-ms", "0"]].concat(), "--connect-timeout-ms"),
            ([&base[..], &["--certificate-ttl-s=-1"]].concat(), "--certificate-ttl-s"),
            ([&base[..], &["--on-demand", "maybe"]].concat(), "--on-demand"),
            ([&base[..], &["--nonsense"]].concat(), "--nonsense"),
        ] {
            let error = parse(&flags).expect_err(&format!("{flags:?}"));
            assert_eq!(error.exit_code(), 2, "{flags:?}");
            let message = error.to_string();
            assert!(message.contains(flag), "{flags:?}: {message}");
        }
    }
}
