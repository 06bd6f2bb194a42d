//! A CA in this process and a clock that follows tokio's (also when it is paused), for the tests of this crate
//! and of those that use it (feature `testing`).

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use meltemi_types::Identity;
use meltemi_types::ca::istio_certificate_service_server::{
    IstioCertificateService, IstioCertificateServiceServer,
};
use meltemi_types::ca::{IstioCertificateRequest, IstioCertificateResponse};
use parking_lot::Mutex;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, KeyPair, KeyUsagePurpose, PublicKeyData, SanType,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tonic::{Request, Response, Status};
use x509_parser::prelude::FromDer as _;

use crate::ca::{CaAnswer, CaClient, CaError};
use crate::{Clock, Jitter};

/// Starts at the machine's time and goes on with tokio's clock.
#[derive(Debug)]
pub struct TokioClock {
    base: SystemTime,
    start: tokio::time::Instant,
}

impl TokioClock {
    /// Inside of a runtime.
    pub fn start() -> Arc<Self> {
        Arc::new(Self { base: SystemTime::now(), start: tokio::time::Instant::now() })
    }
}

impl Clock for TokioClock {
    fn now(&self) -> SystemTime {
        self.base + self.start.elapsed()
    }
}

/// No chance: always this fraction.
#[derive(Clone, Copy, Debug)]
pub struct FixedJitter(pub f64);

impl Jitter for FixedJitter {
    fn fraction(&self) -> f64 {
        self.0
    }
}

/// What the CA does wrong.
#[derive(Clone, Debug)]
pub enum Fault {
    Unavailable,
    Refuses,
    /// The certificate is for a key that nobody has.
    WrongKey,
    WrongIdentity(Identity),
    /// Two URI names, the right one first.
    TwoIdentities(Identity),
    Expired,
    /// The bundle does not hold the root that signed.
    ForeignRoots,
    NoRoots,
    NotPem,
    /// Nothing but the date: it is that of ten minutes ago.
    Backdated,
}

struct Authority {
    root_pem: String,
    intermediate: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new(name: &str, now: SystemTime) -> Self {
        let root =
            CertifiedIssuer::self_signed(ca_params(&format!("{name} root"), now), key()).expect("root");
        let params = ca_params(&format!("{name} issuing"), now);
        let intermediate = CertifiedIssuer::signed_by(params, key(), &root).expect("intermediate");
        Self { root_pem: root.pem(), intermediate }
    }
}

fn key() -> KeyPair {
    KeyPair::generate().expect("a key")
}

fn ca_params(name: &str, now: SystemTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = (now - Duration::from_secs(3_600)).into();
    params.not_after = (now + Duration::from_secs(10 * 365 * 86_400)).into();
    params
}

struct State {
    authorities: Vec<Authority>,
    /// Which of them signs.
    issuing: usize,
    /// Which of them are in the bundle.
    trusted: Vec<usize>,
    ttl: Duration,
    faults: VecDeque<Fault>,
    lasting_fault: Option<Fault>,
    requests: Vec<Identity>,
    csrs: Vec<String>,
    tokens: Vec<Option<String>>,
}

/// A CA with a root and an issuing certificate, that can be told to rotate and to misbehave.
pub struct TestCa {
    state: Mutex<State>,
    clock: Arc<dyn Clock>,
    gate: Semaphore,
    asked: watch::Sender<usize>,
}

impl std::fmt::Debug for TestCa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TestCa").finish_non_exhaustive()
    }
}

impl TestCa {
    /// Issues for `ttl`.
    pub fn new(clock: Arc<dyn Clock>, ttl: Duration) -> Arc<Self> {
        let state = State {
            authorities: vec![Authority::new("first", clock.now())],
            issuing: 0,
            trusted: vec![0],
            ttl,
            faults: VecDeque::new(),
            lasting_fault: None,
            requests: Vec::new(),
            csrs: Vec::new(),
            tokens: Vec::new(),
        };
        let gate = Semaphore::new(Semaphore::MAX_PERMITS);
        Arc::new(Self { state: Mutex::new(state), clock, gate, asked: watch::channel(0).0 })
    }

    /// Adds a root; returns its number. It neither signs nor is it in the bundle yet.
    pub fn add_root(&self) -> usize {
        let mut state = self.state.lock();
        let authority = Authority::new(&format!("root {}", state.authorities.len()), self.clock.now());
        state.authorities.push(authority);
        state.authorities.len() - 1
    }

    /// From now on, this root signs and those are in the bundle.
    pub fn set_roots(&self, issuing: usize, trusted: &[usize]) {
        let mut state = self.state.lock();
        state.issuing = issuing;
        state.trusted = trusted.to_vec();
    }

    /// The PEM bundle.
    pub fn bundle(&self) -> String {
        let state = self.state.lock();
        state.trusted.iter().map(|index| state.authorities[*index].root_pem.as_str()).collect()
    }

    /// The next answer is wrong in this way.
    pub fn fail_once(&self, fault: Fault) {
        self.state.lock().faults.push_back(fault);
    }

    /// All answers are, until it is `None`.
    pub fn fail_always(&self, fault: Option<Fault>) {
        self.state.lock().lasting_fault = fault;
    }

    /// Holds requests back; each call of [`TestCa::let_through`] answers so many.
    pub fn hold(&self) {
        self.gate.forget_permits(self.gate.available_permits());
    }

    pub fn let_through(&self, requests: usize) {
        self.gate.add_permits(requests);
    }

    /// Who was asked for, in order of arrival (held back or not).
    pub fn requests(&self) -> Vec<Identity> {
        self.state.lock().requests.clone()
    }

    pub fn csrs(&self) -> Vec<String> {
        self.state.lock().csrs.clone()
    }

    /// The `authorization` values that came over gRPC.
    pub fn tokens(&self) -> Vec<Option<String>> {
        self.state.lock().tokens.clone()
    }

    /// Waits until so many requests have come.
    pub async fn asked(&self, requests: usize) {
        // The sender lives in self.
        let _ = self.asked.subscribe().wait_for(|count| *count >= requests).await;
    }

    /// Signs the CSR for the identity.
    ///
    /// # Errors
    /// The status that the CA's gRPC service answers.
    pub async fn sign(&self, identity: &Identity, csr_pem: &str) -> Result<Vec<String>, Status> {
        {
            let mut state = self.state.lock();
            state.requests.push(identity.clone());
            state.csrs.push(csr_pem.to_owned());
        }
        self.asked.send_modify(|count| *count += 1);
        self.gate.acquire().await.map_err(|_| Status::unavailable("closed"))?.forget();
        let fault = {
            let mut state = self.state.lock();
            let next = state.faults.pop_front();
            next.or_else(|| state.lasting_fault.clone())
        };
        match &fault {
            Some(Fault::Unavailable) => return Err(Status::unavailable("the CA is away")),
            Some(Fault::Refuses) => return Err(Status::permission_denied("not for you")),
            Some(Fault::NotPem) => return Ok(vec!["not PEM".to_owned(), "-----BEGIN".to_owned()]),
            _ => {}
        }
        self.issue(identity, csr_pem, fault.as_ref()).map_err(Status::invalid_argument)
    }

    fn issue(
        &self,
        identity: &Identity,
        csr_pem: &str,
        fault: Option<&Fault>,
    ) -> Result<Vec<String>, String> {
        let key = match fault {
            Some(Fault::WrongKey) => Point(key().public_key_raw().to_vec()),
            _ => Point::of_csr(csr_pem)?,
        };
        let uri = |identity: &Identity| {
            identity.uri().try_into().map(SanType::URI).map_err(|error: rcgen::Error| error.to_string())
        };
        let (now, state) = (self.clock.now(), self.state.lock());
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = match fault {
            Some(Fault::WrongIdentity(other)) => vec![uri(other)?],
            Some(Fault::TwoIdentities(other)) => vec![uri(identity)?, uri(other)?],
            _ => vec![uri(identity)?],
        };
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = (now - Duration::from_secs(if fault.is_some() { 600 } else { 1 })).into();
        params.not_after = match fault {
            Some(Fault::Expired) => (now - Duration::from_secs(60)).into(),
            _ => (now + state.ttl).into(),
        };
        let authority = &state.authorities[state.issuing];
        let leaf = params.signed_by(&key, &authority.intermediate).map_err(|error| error.to_string())?;
        let roots = match fault {
            Some(Fault::NoRoots) => String::new(),
            Some(Fault::ForeignRoots) => Authority::new("foreign", now).root_pem,
            _ => state.trusted.iter().map(|index| state.authorities[*index].root_pem.as_str()).collect(),
        };
        Ok(vec![leaf.pem(), authority.intermediate.pem(), roots])
    }
}

/// A P-256 public key to be signed.
struct Point(Vec<u8>);

impl Point {
    fn of_csr(csr_pem: &str) -> Result<Self, String> {
        let csr = pem::parse(csr_pem).map_err(|error| error.to_string())?;
        let (_, request) =
            x509_parser::certification_request::X509CertificationRequest::from_der(csr.contents())
                .map_err(|error| error.to_string())?;
        let info = &request.certification_request_info;
        let point = info.subject_pki.subject_public_key.data.to_vec();
        // Proof of possession, as every CA asks for.
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &point)
            .verify(info.raw, &request.signature_value.data)
            .map_err(|_| "the CSR is not signed by its own key".to_owned())?;
        Ok(Self(point))
    }
}

impl PublicKeyData for Point {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }
    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl CaClient for TestCa {
    fn create_certificate<'a>(&'a self, identity: &'a Identity, csr_pem: String) -> CaAnswer<'a> {
        Box::pin(async move {
            self.sign(identity, &csr_pem).await.map_err(|status| CaError::Refused {
                uri: "in process".to_owned(),
                code: format!("{:?}", status.code()),
                problem: status.message().to_owned(),
            })
        })
    }
}

/// The CA as a gRPC service.
#[derive(Clone, Debug)]
pub struct TestCaService(pub Arc<TestCa>);

#[tonic::async_trait]
impl IstioCertificateService for TestCaService {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let token = request.metadata().get("authorization").and_then(|token| token.to_str().ok());
        self.0.state.lock().tokens.push(token.map(str::to_owned));
        let request = request.into_inner();
        let asked =
            request.metadata.as_ref().and_then(|metadata| metadata.fields.get("ImpersonatedIdentity"));
        let identity = match asked.and_then(|value| value.kind.as_ref()) {
            Some(prost_types::value::Kind::StringValue(uri)) => uri.parse::<Identity>(),
            _ => return Err(Status::invalid_argument("no ImpersonatedIdentity")),
        };
        let identity = identity.map_err(|error| Status::invalid_argument(error.to_string()))?;
        let cert_chain = self.0.sign(&identity, &request.csr).await?;
        Ok(Response::new(IstioCertificateResponse { cert_chain }))
    }
}

/// Serves the CA on a Unix socket until the task is aborted. Inside of a runtime.
///
/// # Errors
/// If the socket cannot be bound.
pub fn serve_on_unix(ca: &Arc<TestCa>, path: &Path) -> std::io::Result<JoinHandle<()>> {
    let (listener, ca) = (UnixListener::bind(path)?, Arc::clone(ca));
    Ok(tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve_connection(Arc::clone(&ca), stream));
        }
    }))
}

/// Serves the CA on one connection (cleartext HTTP/2, or inside of TLS that is already there).
pub async fn serve_connection<S>(ca: Arc<TestCa>, stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = TowerToHyperService::new(IstioCertificateServiceServer::new(TestCaService(ca)));
    let served =
        http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
    if let Err(error) = served {
        tracing::debug!(error = %error, "test ca connection ended");
    }
}
