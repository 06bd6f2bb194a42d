//! What is read from a certificate besides its signature.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use meltemi_types::Identity;
use rustls_pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::time::ASN1Time;

use crate::PeerError;

/// The parts of a certificate that are compared or shown.
#[derive(Clone, Debug)]
pub(crate) struct CertificateFacts {
    /// Hexadecimal, in pairs separated by colons.
    pub(crate) serial: String,
    pub(crate) uris: Vec<String>,
    /// All alternative names, as text.
    pub(crate) names: Vec<String>,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
    /// DER SubjectPublicKeyInfo.
    pub(crate) public_key_info: Vec<u8>,
}

impl CertificateFacts {
    pub(crate) fn read(certificate: &CertificateDer<'_>) -> Result<Self, String> {
        let (rest, parsed) =
            x509_parser::parse_x509_certificate(certificate).map_err(|error| error.to_string())?;
        if !rest.is_empty() {
            return Err("bytes follow the certificate".to_owned());
        }
        let (uris, names) = alternative_names(&parsed)?;
        Ok(Self {
            serial: parsed.raw_serial_as_string(),
            uris,
            names,
            not_before: system_time(parsed.validity().not_before),
            not_after: system_time(parsed.validity().not_after),
            public_key_info: parsed.public_key().raw.to_vec(),
        })
    }

    /// The one SPIFFE identity (SPIFFE X.509-SVID section 2: exactly one URI SAN).
    pub(crate) fn identity(&self) -> Result<Identity, String> {
        match self.uris.as_slice() {
            [uri] => uri.parse().map_err(|error: meltemi_types::IdentityError| error.to_string()),
            [] => Err("it has no URI name".to_owned()),
            many => Err(format!("it has {} URI names", many.len())),
        }
    }
}

fn alternative_names(parsed: &X509Certificate<'_>) -> Result<(Vec<String>, Vec<String>), String> {
    let extension = parsed.subject_alternative_name().map_err(|error| error.to_string())?;
    let (mut uris, mut names) = (Vec::new(), Vec::new());
    for name in extension.iter().flat_map(|extension| &extension.value.general_names) {
        match name {
            GeneralName::URI(uri) => {
                uris.push((*uri).to_owned());
                names.push((*uri).to_owned());
            }
            GeneralName::DNSName(dns) => names.push((*dns).to_owned()),
            GeneralName::Invalid(..) => return Err("an alternative name cannot be read".to_owned()),
            other => names.push(other.to_string()),
        }
    }
    Ok((uris, names))
}

fn system_time(time: ASN1Time) -> SystemTime {
    // Before 1970 counts as 1970: expired, either way.
    UNIX_EPOCH + Duration::from_secs(u64::try_from(time.timestamp()).unwrap_or(0))
}

/// The identity in a chain's leaf. It proves nothing: the chain is to be verified first.
///
/// # Errors
/// `BadIdentity` unless there is exactly one URI name and it is an identity of the mesh's form.
pub fn peer_identity(chain: &[CertificateDer<'_>]) -> Result<Identity, PeerError> {
    let leaf = chain.first().ok_or_else(|| PeerError::BadIdentity("there is no certificate".to_owned()))?;
    CertificateFacts::read(leaf).and_then(|facts| facts.identity()).map_err(PeerError::BadIdentity)
}
