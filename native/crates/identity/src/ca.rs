//! The CA's client: `istio.v1.auth.IstioCertificateService/CreateCertificate`.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::str::FromStr;
use std::time::Duration;

use meltemi_types::Identity;
use meltemi_types::ca::IstioCertificateRequest;
use meltemi_types::ca::istio_certificate_service_client::IstioCertificateServiceClient;
use prost_types::value::Kind;
use prost_types::{Struct, Value};
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::{Channel, Endpoint};

use crate::connector::CaConnector;

/// Bytes of an answer: a chain and the roots, with room.
const MOST_ANSWER_BYTES: usize = 1024 * 1024;

/// Why a certificate request failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CaError {
    /// `--ca` is neither form.
    #[error("--ca {0:?}: want unix:PATH, unix-tls:PATH or https://HOST:PORT")]
    Uri(String),
    /// The token cannot be read.
    #[error("--auth-token {}: {problem}", .path.display())]
    Token { path: PathBuf, problem: String },
    /// The CA cannot be reached or did not answer in time.
    #[error("the CA at {uri} cannot be asked: {problem}")]
    Unreachable { uri: String, problem: String },
    /// The CA refused.
    #[error("the CA at {uri} refused ({code}): {problem}")]
    Refused { uri: String, code: String, problem: String },
}

/// Where the CA listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CaUri {
    Unix(PathBuf),
    /// TLS on a Unix socket; the server's certificate must be for `localhost`.
    UnixTls(PathBuf),
    Https {
        host: String,
        port: u16,
    },
}

impl FromStr for CaUri {
    type Err = CaError;

    fn from_str(text: &str) -> Result<Self, CaError> {
        let wrong = || CaError::Uri(text.to_owned());
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.is_empty() { Err(wrong()) } else { Ok(Self::Unix(PathBuf::from(path))) };
        }
        if let Some(path) = text.strip_prefix("unix-tls:").filter(|path| !path.is_empty()) {
            return Ok(Self::UnixTls(PathBuf::from(path)));
        }
        let rest = text.strip_prefix("https://").ok_or_else(wrong)?;
        let (host, port) = rest.trim_end_matches('/').rsplit_once(':').ok_or_else(wrong)?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?;
        if host.is_empty() || host.contains(['/', '@', '?', '#']) {
            return Err(wrong());
        }
        Ok(Self::Https { host: host.to_owned(), port })
    }
}

impl fmt::Display for CaUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::UnixTls(path) => write!(f, "unix-tls:{}", path.display()),
            Self::Https { host, port } if host.contains(':') => write!(f, "https://[{host}]:{port}"),
            Self::Https { host, port } => write!(f, "https://{host}:{port}"),
        }
    }
}

/// A certificate request under way.
pub type CaAnswer<'a> = Pin<Box<dyn Future<Output = Result<Vec<String>, CaError>> + Send + 'a>>;

/// Who signs. The answer is `cert_chain` as it came: PEM texts, the last one the bundle of roots.
pub trait CaClient: fmt::Debug + Send + Sync {
    fn create_certificate<'a>(&'a self, identity: &'a Identity, csr_pem: String) -> CaAnswer<'a>;
}

/// What [`GrpcCa`] needs.
#[derive(Clone, Debug)]
pub struct GrpcCaOptions {
    pub uri: CaUri,
    /// PEM bundle that the CA's server certificate must lead to (https); read again at each connect.
    pub root_file: Option<PathBuf>,
    /// Bearer token (https, where the kubelet or the agent put it); read again at each request.
    pub token_file: Option<PathBuf>,
    /// The life asked for; the CA may give less.
    pub ttl: Duration,
    /// For one request, connecting included.
    pub request_timeout: Duration,
}

/// The CA behind gRPC, on a Unix socket (the agent relays) or over TLS.
#[derive(Debug)]
pub struct GrpcCa {
    options: GrpcCaOptions,
    channel: Channel,
}

impl GrpcCa {
    /// Connects at the first request, and again whenever the connection is lost. To be called inside of a
    /// runtime.
    ///
    /// # Errors
    /// `Uri` if https is given without `root_file`: a CA that is not authenticated is not asked.
    pub fn new(options: GrpcCaOptions) -> Result<Self, CaError> {
        let connector = CaConnector::new(&options)?;
        // The connector decides where to connect; this is only the request's authority.
        let endpoint = match &options.uri {
            CaUri::Unix(_) | CaUri::UnixTls(_) => Endpoint::from_static("http://localhost"),
            CaUri::Https { .. } => {
                Endpoint::from_shared(options.uri.to_string().replacen("https://", "http://", 1))
                    .map_err(|_| CaError::Uri(options.uri.to_string()))?
            }
        };
        let channel = endpoint
            .connect_timeout(options.request_timeout)
            .http2_keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(10))
            .connect_with_connector_lazy(connector);
        Ok(Self { options, channel })
    }

    async fn request(&self, identity: &Identity, csr_pem: String) -> Result<Vec<String>, CaError> {
        let metadata = BTreeMap::from([(
            "ImpersonatedIdentity".to_owned(),
            Value { kind: Some(Kind::StringValue(identity.uri().to_owned())) },
        )]);
        let request = self
            .authorized(IstioCertificateRequest {
                csr: csr_pem,
                validity_duration: i64::try_from(self.options.ttl.as_secs()).unwrap_or(i64::MAX),
                metadata: Some(Struct { fields: metadata }),
            })
            .await?;
        let mut client = IstioCertificateServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MOST_ANSWER_BYTES);
        match tokio::time::timeout(self.options.request_timeout, client.create_certificate(request)).await {
            Ok(Ok(answer)) => Ok(answer.into_inner().cert_chain),
            Ok(Err(status)) => Err(self.failed(&status)),
            Err(_) => Err(self.no_answer()),
        }
    }

    /// A request with the token, as it is now.
    pub(crate) async fn authorized<T>(&self, message: T) -> Result<tonic::Request<T>, CaError> {
        let mut request = tonic::Request::new(message);
        if let Some(token) = self.token().await? {
            request.metadata_mut().insert("authorization", token);
        }
        Ok(request)
    }

    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    pub(crate) fn request_timeout(&self) -> Duration {
        self.options.request_timeout
    }

    pub(crate) fn failed(&self, status: &tonic::Status) -> CaError {
        failure(self.options.uri.to_string(), status)
    }

    pub(crate) fn no_answer(&self) -> CaError {
        let problem = format!("no answer in {} ms", self.options.request_timeout.as_millis());
        CaError::Unreachable { uri: self.options.uri.to_string(), problem }
    }

    async fn token(&self) -> Result<Option<AsciiMetadataValue>, CaError> {
        let Some(path) = &self.options.token_file else { return Ok(None) };
        let wrong = |problem: String| CaError::Token { path: path.clone(), problem };
        let text = tokio::fs::read_to_string(path).await.map_err(|error| wrong(error.to_string()))?;
        let mut value = AsciiMetadataValue::try_from(format!("Bearer {}", text.trim()))
            .map_err(|_| wrong("holds characters that no header may have".to_owned()))?;
        // Kept out of logs and of the HTTP/2 header table.
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

fn failure(uri: String, status: &tonic::Status) -> CaError {
    let problem = match std::error::Error::source(status) {
        Some(source) => format!("{}: {}", status.message(), innermost(source)),
        None => status.message().to_owned(),
    };
    match status.code() {
        tonic::Code::Unavailable | tonic::Code::DeadlineExceeded | tonic::Code::Unknown => {
            CaError::Unreachable { uri, problem }
        }
        code => CaError::Refused { uri, code: format!("{code:?}"), problem },
    }
}

/// The transport wraps what happened several times over; the last one says it.
fn innermost<'a>(mut error: &'a (dyn std::error::Error + 'static)) -> &'a (dyn std::error::Error + 'static) {
    while let Some(source) = error.source() {
        error = source;
    }
    error
}

impl CaClient for GrpcCa {
    fn create_certificate<'a>(&'a self, identity: &'a Identity, csr_pem: String) -> CaAnswer<'a> {
        Box::pin(self.request(identity, csr_pem))
    }
}

#[cfg(test)]
mod tests;
