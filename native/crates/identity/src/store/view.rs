//! `GET /certificates`: what is held, without keys.

use pem::{EncodeConfig, LineEnding, Pem, encode_config};
use rustls_pki_types::CertificateDer;
use serde::Serialize;

use super::CertificateStore;
use super::entry::Entry;
use crate::facts::CertificateFacts;
use meltemi_telemetry::rfc3339_seconds;
use meltemi_types::Identity;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CertificateState {
    Valid,
    /// None yet, and no request has failed.
    Requesting,
    /// None that is valid, and the last request failed.
    Failed,
}

/// One identity.
#[derive(Clone, Debug, Serialize)]
pub struct CertificateView {
    pub identity: Identity,
    pub state: CertificateState,
    /// Of the last request, if it failed; also while an older certificate is still valid.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    pub chain: Vec<CertificateInfo>,
    pub roots: Vec<RootInfo>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub renew_at: Option<String>,
    /// The node agent keeps it: a data plane that follows this one has it without asking the CA.
    pub kept: bool,
}

#[derive(Clone, Debug, Serialize)]
pub struct CertificateInfo {
    pub serial: String,
    pub subject_alt_names: Vec<String>,
    pub not_before: String,
    pub not_after: String,
    pub pem: String,
}

#[derive(Clone, Debug, Serialize)]
pub struct RootInfo {
    pub serial: String,
    pub not_after: String,
}

impl CertificateStore {
    /// Every identity served, sorted.
    pub fn certificates(&self) -> Vec<CertificateView> {
        let mut entries = self.shared.entries();
        entries.sort_by(|a, b| a.identity.cmp(&b.identity));
        let now = self.shared.clock.now();
        let roots: Vec<RootInfo> = self
            .shared
            .trust
            .roots()
            .certificates()
            .iter()
            .filter_map(|root| CertificateFacts::read(root).ok())
            .map(|facts| RootInfo { serial: facts.serial, not_after: rfc3339_seconds(facts.not_after) })
            .collect();
        entries.iter().map(|entry| view(entry, now, &roots)).collect()
    }
}

fn view(entry: &Entry, now: std::time::SystemTime, roots: &[RootInfo]) -> CertificateView {
    let (held, error) = entry.held();
    let state = match (&held, &error) {
        (Some(held), _) if held.is_valid_at(now) => CertificateState::Valid,
        (_, Some(_)) => CertificateState::Failed,
        _ => CertificateState::Requesting,
    };
    CertificateView {
        identity: entry.identity.clone(),
        state,
        error,
        chain: held.iter().flat_map(|held| held.chain()).filter_map(info).collect(),
        roots: roots.to_vec(),
        kept: held.as_ref().is_some_and(|held| held.is_kept()),
        renew_at: held.map(|held| rfc3339_seconds(held.renew_at())),
    }
}

fn info(certificate: &CertificateDer<'static>) -> Option<CertificateInfo> {
    let facts = CertificateFacts::read(certificate).ok()?;
    let pem = Pem::new("CERTIFICATE", certificate.as_ref());
    Some(CertificateInfo {
        serial: facts.serial,
        subject_alt_names: facts.names,
        not_before: rfc3339_seconds(facts.not_before),
        not_after: rfc3339_seconds(facts.not_after),
        pem: encode_config(&pem, EncodeConfig::new().set_line_ending(LineEnding::LF)),
    })
}
