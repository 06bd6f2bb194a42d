//! Channels to a server: over the agent's Unix socket, or TLS.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, InvalidDnsNameError, ServerName};
use tokio::net::{TcpStream, UnixStream};
use tonic::transport::{Channel, Endpoint};

use crate::options::Server;

/// Why there is no channel.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    #[error("cannot read {what} {path}: {source}")]
    Read { what: &'static str, path: PathBuf, source: io::Error },
    #[error("{path} holds no usable root certificate: {problem}")]
    Roots { path: PathBuf, problem: String },
    #[error("https needs a root certificate to check the server against; give its PEM file")]
    NoRoots,
    #[error("{0} is no name that a server certificate can be for")]
    ServerName(String, #[source] InvalidDnsNameError),
    #[error("the bearer token in {0} is empty or has characters that a header cannot have")]
    Token(PathBuf),
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    #[error("cannot connect: {0}")]
    Connect(#[from] tonic::transport::Error),
}

/// Connects. `keepalive` is the interval of HTTP/2 pings; a peer that leaves one unanswered for as
/// long again is taken for gone.
pub async fn channel(
    server: &Server,
    root_file: Option<&Path>,
    connect_timeout: Duration,
    keepalive: Duration,
) -> Result<Channel, TransportError> {
    let endpoint = |uri: &'static str| {
        Endpoint::from_static(uri)
            .connect_timeout(connect_timeout)
            .http2_keep_alive_interval(keepalive)
            .keep_alive_timeout(keepalive)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(4 << 20)
            .initial_connection_window_size(8 << 20)
    };
    match server {
        Server::Unix(path) => {
            let path = path.clone();
            let connector = tower::service_fn(move |_| {
                let path = path.clone();
                async move { Ok::<_, io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
            });
            Ok(endpoint("http://agent").connect_with_connector(connector).await?)
        }
        Server::UnixTls(path) => {
            let config = Arc::new(tls_config(root_file.ok_or(TransportError::NoRoots)?).await?);
            let path = path.clone();
            let connector = tower::service_fn(move |_| {
                let (path, config) = (path.clone(), config.clone());
                async move {
                    let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
                    let unix = UnixStream::connect(path).await?;
                    let tls = tokio_rustls::TlsConnector::from(config).connect(name, unix).await?;
                    Ok::<_, io::Error>(TokioIo::new(tls))
                }
            });
            let origin = http::Uri::from_static("https://localhost");
            Ok(endpoint("https://localhost").origin(origin).connect_with_connector(connector).await?)
        }
        Server::Tls { host, port } => {
            let config = Arc::new(tls_config(root_file.ok_or(TransportError::NoRoots)?).await?);
            let name = ServerName::try_from(host.clone())
                .map_err(|error| TransportError::ServerName(host.clone(), error))?;
            let (host, port) = (host.clone(), *port);
            let authority = format!("https://{}:{port}", bracketed(&host))
                .parse()
                .unwrap_or_else(|_| http::Uri::from_static("https://discovery"));
            let connector = tower::service_fn(move |_| {
                let (host, name, config) = (host.clone(), name.clone(), config.clone());
                async move {
                    let tcp = TcpStream::connect((host.as_str(), port)).await?;
                    tcp.set_nodelay(true)?;
                    let tls = tokio_rustls::TlsConnector::from(config).connect(name, tcp).await?;
                    Ok::<_, io::Error>(TokioIo::new(tls))
                }
            });
            Ok(endpoint("https://discovery").origin(authority).connect_with_connector(connector).await?)
        }
    }
}

fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

async fn tls_config(root_file: &Path) -> Result<rustls::ClientConfig, TransportError> {
    let pem = read("the roots", root_file).await?;
    let unusable = |problem: String| TransportError::Roots { path: root_file.into(), problem };
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| unusable(error.to_string()))?;
        roots.add(certificate).map_err(|error| unusable(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(unusable("it holds no certificate".into()));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// The value of an `authorization` header, from a file.
pub(crate) async fn bearer(
    path: &Path,
) -> Result<tonic::metadata::MetadataValue<tonic::metadata::Ascii>, TransportError> {
    let bytes = read("the bearer token", path).await?;
    let token = String::from_utf8(bytes).unwrap_or_default();
    let token = token.trim();
    let invalid = || TransportError::Token(path.into());
    if token.is_empty() {
        return Err(invalid());
    }
    let mut value: tonic::metadata::MetadataValue<_> =
        format!("Bearer {token}").parse().map_err(|_| invalid())?;
    value.set_sensitive(true);
    Ok(value)
}

async fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, TransportError> {
    tokio::fs::read(path).await.map_err(|source| TransportError::Read { what, path: path.into(), source })
}
