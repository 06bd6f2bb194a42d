//! A private key: made here, in memory, and shown to nobody.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::encoding::{AsBigEndian, EcPrivateKeyBin};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use meltemi_types::Identity;
use rcgen::{CertificateParams, DistinguishedName, PublicKeyData, SanType};
use rustls::sign::{Signer, SigningKey};
use rustls::{SignatureAlgorithm, SignatureScheme};

use crate::CertificateError;

/// Bytes of a P-256 private number.
pub(crate) const SECRET_LENGTH: usize = 32;
/// Bytes of an uncompressed P-256 point.
pub(crate) const PUBLIC_LENGTH: usize = 65;

/// A P-256 key. aws-lc wipes it when the last clone goes.
#[derive(Clone)]
pub(crate) struct PrivateKey(Arc<EcdsaKeyPair>);

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(P-256, redacted)")
    }
}

impl PrivateKey {
    pub(crate) fn generate() -> Result<Self, CertificateError> {
        EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING)
            .map(|pair| Self(Arc::new(pair)))
            .map_err(|_| CertificateError::Crypto("a P-256 key could not be generated"))
    }

    /// From the sealed descriptor; refused if the two parts do not belong together.
    pub(crate) fn from_parts(secret: &[u8], public: &[u8]) -> Result<Self, CertificateError> {
        EcdsaKeyPair::from_private_key_and_public_key(&ECDSA_P256_SHA256_ASN1_SIGNING, secret, public)
            .map(|pair| Self(Arc::new(pair)))
            .map_err(|_| CertificateError::Crypto("private and public key do not belong together"))
    }

    /// The private number, in a buffer that wipes itself.
    pub(crate) fn secret(&self) -> Result<EcPrivateKeyBin<'static>, CertificateError> {
        self.0.private_key().as_be_bytes().map_err(|_| CertificateError::Crypto("a key could not be read"))
    }

    /// The uncompressed point.
    pub(crate) fn public(&self) -> &[u8] {
        self.0.public_key().as_ref()
    }

    /// The DER SubjectPublicKeyInfo.
    pub(crate) fn public_key_info(&self) -> Vec<u8> {
        self.subject_public_key_info()
    }

    /// A PEM CSR with the identity as URI SAN and an empty subject, as Istio's CA wants it.
    pub(crate) fn csr(&self, identity: &Identity) -> Result<String, CertificateError> {
        let wrong = |error: rcgen::Error| CertificateError::Request(error.to_string());
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(identity.uri().try_into().map_err(wrong)?)];
        params.serialize_request(self).and_then(|request| request.pem()).map_err(wrong)
    }

    fn signature(&self, message: &[u8]) -> Option<Vec<u8>> {
        self.0.sign(&SystemRandom::new(), message).ok().map(|signature| signature.as_ref().to_vec())
    }
}

impl PublicKeyData for PrivateKey {
    fn der_bytes(&self) -> &[u8] {
        self.public()
    }
    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for PrivateKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.signature(message).ok_or(rcgen::Error::RingUnspecified)
    }
}

impl SigningKey for PrivateKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        offered.contains(&SignatureScheme::ECDSA_NISTP256_SHA256).then(|| Box::new(self.clone()) as _)
    }
    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }
}

impl Signer for PrivateKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        self.signature(message).ok_or_else(|| rustls::Error::General("signing failed".to_owned()))
    }
    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ECDSA_NISTP256_SHA256
    }
}
