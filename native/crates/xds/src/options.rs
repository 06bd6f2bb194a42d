//! Where the client connects to, as whom, and how patiently.

use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use meltemi_types::discovery::ResourceType;

/// A server, in the forms of the flags `--xds` and `--ca`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Server {
    /// `unix:PATH`: cleartext HTTP/2 to the node agent.
    Unix(PathBuf),
    /// `unix-tls:PATH`: TLS on a Unix socket; the server's certificate must be for `localhost`.
    UnixTls(PathBuf),
    /// `https://HOST:PORT`.
    Tls {
        /// Names the server, and is what its certificate must be for.
        host: String,
        port: u16,
    },
}

impl FromStr for Server {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fail = || format!("`{text}` is no server: want unix:PATH, unix-tls:PATH or https://HOST:PORT");
        if let Some(path) = text.strip_prefix("unix:") {
            return (!path.is_empty()).then(|| Self::Unix(path.into())).ok_or_else(fail);
        }
        if let Some(path) = text.strip_prefix("unix-tls:") {
            return (!path.is_empty()).then(|| Self::UnixTls(path.into())).ok_or_else(fail);
        }
        let uri: http::Uri = text.parse().map_err(|_| fail())?;
        let plain = matches!(uri.path(), "" | "/") && uri.query().is_none();
        match (uri.scheme_str(), uri.host(), uri.port_u16()) {
            (Some("https"), Some(host), Some(port)) if plain && !host.is_empty() => {
                Ok(Self::Tls { host: host.trim_matches(['[', ']']).to_owned(), port })
            }
            _ => Err(fail()),
        }
    }
}

/// What the client says of itself.
#[derive(Debug, Clone)]
pub struct NodeInfo {
    pub ip: IpAddr,
    pub name: String,
    pub namespace: String,
    pub node_name: String,
    pub cluster_id: String,
}

/// Waits between attempts: each up to twice the last, between `first` and `longest`, at random.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    pub first: Duration,
    pub longest: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first: Duration::from_millis(50), longest: Duration::from_secs(10) }
    }
}

#[derive(Debug, Clone)]
pub struct ClientOptions {
    pub server: Server,
    /// PEM of the roots that the server's certificate is checked against; read at every connect.
    pub root_file: Option<PathBuf>,
    /// Sent as `authorization: Bearer ...`; read at every connect.
    pub token_file: Option<PathBuf>,
    pub node: NodeInfo,
    /// The first part of the node's id: what kind of proxy asks.
    pub role: &'static str,
    /// What is asked for.
    pub types: &'static [ResourceType],
    /// Addresses are asked for by name. Otherwise all are sent.
    pub on_demand: bool,
    /// Names unused for so long are unsubscribed. `None` towards servers that do not take back what
    /// had come along with a name.
    pub idle_limit: Option<Duration>,
    pub idle_check: Duration,
    pub connect_timeout: Duration,
    /// A server that does not answer pings for two of these is gone.
    pub keepalive: Duration,
    pub backoff: Backoff,
    /// After a large first answer, silence for so long means that no further part of it follows.
    pub quiet: Duration,
}

impl ClientOptions {
    /// Options with the defaults of a node.
    pub fn new(server: Server, node: NodeInfo) -> Self {
        Self {
            server,
            root_file: None,
            token_file: None,
            node,
            role: "ztunnel",
            types: &ResourceType::ALL,
            on_demand: true,
            idle_limit: Some(Duration::from_secs(3600)),
            idle_check: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(10),
            keepalive: Duration::from_secs(20),
            backoff: Backoff::default(),
            quiet: Duration::from_millis(250),
        }
    }
}

/// What the client counts. Every method has an empty body so that one takes what one wants.
pub trait Metrics: Send + Sync {
    /// A stream is up, or is so no longer.
    fn connected(&self, _connected: bool) {}
    /// A response was taken.
    fn response(&self, _resource_type: ResourceType, _resources: usize, _removed: usize, _bytes: usize) {}
    /// A response was answered with a NACK.
    fn nack(&self, _resource_type: ResourceType) {}
    /// A name was asked for.
    fn demand(&self) {}
}

/// Counts nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoMetrics;

impl Metrics for NoMetrics {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_have_two_forms() {
        assert_eq!("unix:/run/x.sock".parse(), Ok(Server::Unix("/run/x.sock".into())));
        assert_eq!("unix-tls:/run/x.sock".parse(), Ok(Server::UnixTls("/run/x.sock".into())));
        let tls = |host: &str, port| Server::Tls { host: host.into(), port };
        assert_eq!(
            "https://istiod.istio-system.svc:15012".parse(),
            Ok(tls("istiod.istio-system.svc", 15012))
        );
        assert_eq!("https://[::1]:15012/".parse(), Ok(tls("::1", 15012)));
        for bad in ["", "unix:", "/run/x", "http://a:1", "https://a", "https://a:1/x", "https://a:1?x", "a:1"]
        {
            assert!(bad.parse::<Server>().is_err(), "accepted {bad:?}");
        }
    }
}
