//! How the CA is reached: a Unix socket, or TCP with TLS 1.3 checked against a file of roots.

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore, version};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::Uri;
use tower::Service;

use crate::ca::{CaError, CaUri, GrpcCaOptions};
use crate::tls::provider;

#[derive(Clone, Debug)]
pub(crate) enum CaConnector {
    Unix(PathBuf),
    UnixTls { path: PathBuf, root_file: PathBuf },
    Https { host: String, port: u16, root_file: PathBuf },
}

impl CaConnector {
    pub(crate) fn new(options: &GrpcCaOptions) -> Result<Self, CaError> {
        match (&options.uri, &options.root_file) {
            (CaUri::Unix(path), _) => Ok(Self::Unix(path.clone())),
            (CaUri::UnixTls(path), Some(root_file)) => {
                Ok(Self::UnixTls { path: path.clone(), root_file: root_file.clone() })
            }
            (CaUri::Https { host, port }, Some(root_file)) => {
                Ok(Self::Https { host: host.clone(), port: *port, root_file: root_file.clone() })
            }
            (CaUri::Https { .. } | CaUri::UnixTls(_), None) => {
                Err(CaError::Uri(format!("{} without --ca-root: give the CA's root as PEM", options.uri)))
            }
        }
    }

    async fn connect(self) -> io::Result<CaStream> {
        match self {
            Self::Unix(path) => Ok(CaStream::Unix(UnixStream::connect(path).await?)),
            Self::UnixTls { path, root_file } => {
                let config = config_from(&root_file).await?;
                let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
                let unix = UnixStream::connect(path).await?;
                let stream = TlsConnector::from(Arc::new(config)).connect(name, unix).await?;
                Ok(CaStream::UnixTls(Box::new(stream)))
            }
            Self::Https { host, port, root_file } => {
                let config = config_from(&root_file).await?;
                let name = ServerName::try_from(host.clone()).map_err(io::Error::other)?;
                let tcp = TcpStream::connect((host.as_str(), port)).await?;
                tcp.set_nodelay(true)?;
                let stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await?;
                Ok(CaStream::Tls(Box::new(stream)))
            }
        }
    }
}

async fn config_from(root_file: &Path) -> io::Result<ClientConfig> {
    let pem = tokio::fs::read(root_file).await.map_err(|error| {
        io::Error::new(error.kind(), format!("--ca-root {}: {error}", root_file.display()))
    })?;
    tls_config(&pem)
}

fn tls_config(roots_pem: &[u8]) -> io::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(roots_pem) {
        roots.add(certificate.map_err(io::Error::other)?).map_err(io::Error::other)?;
    }
    if roots.is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "--ca-root holds no certificate"));
    }
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&version::TLS13])
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

impl Service<Uri> for CaConnector {
    type Response = TokioIo<CaStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _uri: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move { connector.connect().await.map(TokioIo::new) })
    }
}

/// One of the transports.
#[derive(Debug)]
pub(crate) enum CaStream {
    Unix(UnixStream),
    UnixTls(Box<TlsStream<UnixStream>>),
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for CaStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::UnixTls(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for CaStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::UnixTls(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Self::UnixTls(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::UnixTls(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
