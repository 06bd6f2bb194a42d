//! Workload certificates: keys, requests, rotation, trust, TLS configurations, the sealed key descriptor.
//!
//! The public interface, as it is filled in (this list is replaced by the items themselves):
//! ```text
//! harden_process() -> Result<(), HardenError>                     // first thing in main
//!
//! // --- the CA's client ---
//! CaUri: FromStr ("unix:PATH" | "https://HOST:PORT")
//! GrpcCa::new(GrpcCaOptions { uri: CaUri, root_file: Option<PathBuf>, token_file: Option<PathBuf>,
//!     ttl: Duration, request_timeout: Duration }) -> Result<GrpcCa, CaError>       // impl CaClient
//!
//! // --- the store ---
//! CertificateStore::new(StoreOptions { trust_domain: Arc<str>, trust_domain_aliases: Vec<Arc<str>>,
//!     concurrent_requests: usize, clock: Arc<dyn Clock>, jitter: Arc<dyn Jitter> },
//!     Arc<dyn CaClient>, Arc<Metrics>) -> Arc<CertificateStore>
//! store.serve(&Identity) -> Served             // RAII reference; the first starts a request, the last wipes
//! store.get(&Identity, wait: Duration).await -> Result<Arc<WorkloadCertificate>, CertificateError>
//! store.current(&Identity) -> Option<Arc<WorkloadCertificate>>     // valid now, without waiting
//! store.server_config(&Identity, &Alpn, wait).await -> Result<Arc<rustls::ServerConfig>, CertificateError>
//! store.client_config(&Identity, expected: &[Identity], &Alpn, wait).await
//!     -> Result<Arc<rustls::ClientConfig>, CertificateError>
//! store.renew(not_before_until: Option<SystemTime>) -> usize       // POST /certificates/renew
//! store.certificates() -> Vec<CertificateView>                     // GET /certificates (Serialize)
//! store.trust() -> &Arc<Trust>
//! store.changes() -> watch::Receiver<u64>      // a certificate was replaced or removed
//! store.shut_down()                            // stops renewal tasks
//! Alpn::new(&[&str]) -> Alpn                   // e.g. Alpn::new(&["h2"]); cheap clone
//! // tokio_rustls::TlsConnector::from(config).connect(identity::server_name(), stream)  (no SNI is sent)
//!
//! // --- trust ---
//! trust.changes() -> watch::Receiver<u64>      // the set of roots changed: re-check live connections
//! trust.still_trusted(&[CertificateDer]) -> bool
//! peer_identity(&[CertificateDer]) -> Result<Identity, PeerError>  // of a verified chain
//! HandshakeFailure::of_io(&io::Error) / ::of_tls(&rustls::Error) -> HandshakeFailure
//! failure.as_str() (metric label), failure.reason() -> meltemi_telemetry::Reason
//!
//! // --- the sealed key descriptor ---
//! KeyKeeper::new(PathBuf /* keys.sock */) ; store.restore_from(&keeper).await -> usize (restored)
//! store.keep_with(keeper) -> JoinHandle        // deposits after every change, debounced
//! store.forget_unclaimed()                     // after the first ZDS snapshot
//! ```
