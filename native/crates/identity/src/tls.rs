//! TLS configurations: version 1.3 only, mutual, no resumption, no SNI, X25519MLKEM768 first.

use std::sync::{Arc, LazyLock};

use meltemi_types::Identity;
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, ServerConfig, version};
use rustls_pki_types::{IpAddr, Ipv4Addr, ServerName};

use crate::CertificateError;
use crate::trust::Trust;
use crate::verifier::{ExpectedServer, MeshClients};

/// The application protocols of a configuration, the preferred first.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Alpn(Arc<[Vec<u8>]>);

impl Alpn {
    pub fn new(protocols: &[&str]) -> Self {
        Self(protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect())
    }
}

/// Stands where rustls wants a server's name: peers are checked by identity, and no name is sent.
pub fn server_name() -> ServerName<'static> {
    ServerName::IpAddress(IpAddr::V4(Ipv4Addr::from([0, 0, 0, 0])))
}

static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites = vec![
        aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
        aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
        aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    ];
    provider.kx_groups = vec![
        aws_lc_rs::kx_group::X25519MLKEM768,
        aws_lc_rs::kx_group::X25519,
        aws_lc_rs::kx_group::SECP256R1,
        aws_lc_rs::kx_group::SECP384R1,
    ];
    Arc::new(provider)
});

/// The suites and groups of every configuration here.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::clone(&PROVIDER)
}

fn refused(error: rustls::Error) -> CertificateError {
    CertificateError::Tls(error.to_string())
}

pub(crate) fn server_config(
    trust: &Arc<Trust>,
    key: &Arc<CertifiedKey>,
    alpn: &Alpn,
) -> Result<ServerConfig, CertificateError> {
    let verifier = Arc::new(MeshClients { trust: Arc::clone(trust), provider: provider() });
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&version::TLS13])
        .map_err(refused)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(key))));
    config.alpn_protocols = alpn.0.to_vec();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(config)
}

pub(crate) fn client_config(
    trust: &Arc<Trust>,
    key: &Arc<CertifiedKey>,
    expected: &[Identity],
    alpn: &Alpn,
) -> Result<ClientConfig, CertificateError> {
    let verifier = Arc::new(ExpectedServer {
        trust: Arc::clone(trust),
        provider: provider(),
        expected: expected.to_vec(),
    });
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&version::TLS13])
        .map_err(refused)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(key))));
    config.alpn_protocols = alpn.0.to_vec();
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    config.enable_early_data = false;
    Ok(config)
}

#[cfg(test)]
mod tests;
