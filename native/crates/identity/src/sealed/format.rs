//! The bytes of the descriptor, version 1. Integers are little-endian; `blob` is a u32 length and that many bytes.
//!
//! ```text
//! "MLTMKEYS"  u16 version  u32 length of body  body  SHA-256 of everything before
//! body  = u16 roots, each blob (DER); u16 entries, each entry
//! entry = blob identity; u64 obtained at (Unix ms); 32 bytes private; 65 bytes public;
//!         u8 certificates, each blob (DER, leaf first)
//! ```
//! Read once, at start, from a descriptor that another process kept: every length is checked, and every entry is
//! validated like a CA's answer before it is used.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use meltemi_types::Identity;
use rustls_pki_types::CertificateDer;
use zeroize::Zeroizing;

use super::SealedError;
use crate::certificate::{MOST_CHAIN, MOST_ROOTS};
use crate::key::{PUBLIC_LENGTH, PrivateKey, SECRET_LENGTH};

const MAGIC: &[u8; 8] = b"MLTMKEYS";
const VERSION: u16 = 1;
const HEADER_LENGTH: usize = MAGIC.len() + 2 + 4;
/// One certificate, or one identity.
const MOST_BLOB: usize = 64 * 1024;
/// Identities of one node.
const MOST_ENTRIES: usize = 4_096;

/// One key with its chain, not yet validated.
#[derive(Debug)]
pub(crate) struct SealedEntry {
    pub(crate) identity: Identity,
    pub(crate) obtained_at: SystemTime,
    pub(crate) key: PrivateKey,
    pub(crate) chain: Vec<CertificateDer<'static>>,
}

/// Everything in a descriptor.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    pub(crate) roots: Vec<CertificateDer<'static>>,
    pub(crate) entries: Vec<SealedEntry>,
}

impl Contents {
    /// The bytes, in a buffer of the exact size (one that grew would leave copies behind) that wipes itself.
    pub(crate) fn encode(&self) -> Result<Zeroizing<Vec<u8>>, SealedError> {
        let too_many = |problem| SealedError::Format { at: 0, problem };
        if self.entries.len() > MOST_ENTRIES || self.roots.len() > MOST_ROOTS {
            return Err(too_many("more entries or roots than the format holds"));
        }
        let blobs = |chain: &[CertificateDer<'_>]| chain.iter().map(|der| 4 + der.len()).sum::<usize>();
        let entry_length = |entry: &SealedEntry| {
            4 + entry.identity.uri().len() + 8 + SECRET_LENGTH + PUBLIC_LENGTH + 1 + blobs(&entry.chain)
        };
        let body = 2 + blobs(&self.roots) + 2 + self.entries.iter().map(entry_length).sum::<usize>();
        let mut out = Zeroizing::new(Vec::with_capacity(HEADER_LENGTH + body + SHA256_OUTPUT_LEN));
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&u32::try_from(body).map_err(|_| too_many("too long"))?.to_le_bytes());
        put_count(&mut out, self.roots.len());
        self.roots.iter().for_each(|root| put_blob(&mut out, root));
        put_count(&mut out, self.entries.len());
        for entry in &self.entries {
            put_blob(&mut out, entry.identity.uri().as_bytes());
            let since = entry.obtained_at.duration_since(UNIX_EPOCH).unwrap_or_default();
            out.extend_from_slice(&u64::try_from(since.as_millis()).unwrap_or(u64::MAX).to_le_bytes());
            let secret = entry.key.secret()?;
            out.extend_from_slice(secret.as_ref());
            out.extend_from_slice(entry.key.public());
            out.push(u8::try_from(entry.chain.len()).map_err(|_| too_many("a chain is too long"))?);
            entry.chain.iter().for_each(|certificate| put_blob(&mut out, certificate));
        }
        let sum = digest(&SHA256, &out);
        out.extend_from_slice(sum.as_ref());
        debug_assert_eq!(out.len(), HEADER_LENGTH + body + SHA256_OUTPUT_LEN);
        Ok(out)
    }

    /// # Errors
    /// `Format` with the position of the first thing that is wrong.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, SealedError> {
        let mut reader = Reader { bytes, at: 0 };
        if reader.take(MAGIC.len())? != MAGIC {
            return Err(SealedError::Format { at: 0, problem: "no key descriptor" });
        }
        if reader.count()? != usize::from(VERSION) {
            return Err(SealedError::Format { at: MAGIC.len(), problem: "of another version" });
        }
        let body = reader.long()?;
        let sum_at = HEADER_LENGTH.saturating_add(body);
        if bytes.len() != sum_at.saturating_add(SHA256_OUTPUT_LEN) {
            return Err(reader.wrong("the length is not as stated"));
        }
        if digest(&SHA256, &bytes[..sum_at]).as_ref() != &bytes[sum_at..] {
            return Err(SealedError::Format { at: sum_at, problem: "the checksum differs" });
        }
        reader.bytes = &bytes[..sum_at];
        let contents = Self::read_body(&mut reader)?;
        if reader.at != sum_at {
            return Err(reader.wrong("bytes are left over"));
        }
        Ok(contents)
    }

    fn read_body(reader: &mut Reader<'_>) -> Result<Self, SealedError> {
        let roots = reader.count_at_most(MOST_ROOTS)?;
        let roots = (0..roots).map(|_| reader.certificate()).collect::<Result<_, _>>()?;
        let entries = reader.count_at_most(MOST_ENTRIES)?;
        let entries = (0..entries).map(|_| Self::read_entry(reader)).collect::<Result<_, _>>()?;
        Ok(Self { roots, entries })
    }

    fn read_entry(reader: &mut Reader<'_>) -> Result<SealedEntry, SealedError> {
        let at = reader.at;
        let identity = std::str::from_utf8(reader.blob()?)
            .ok()
            .and_then(|uri| uri.parse().ok())
            .ok_or(SealedError::Format { at, problem: "no identity" })?;
        let millis = reader.array().map(u64::from_le_bytes)?;
        let obtained_at = UNIX_EPOCH
            .checked_add(Duration::from_millis(millis))
            .ok_or(SealedError::Format { at, problem: "no time" })?;
        let secret = reader.take(SECRET_LENGTH)?;
        let key = PrivateKey::from_parts(secret, reader.take(PUBLIC_LENGTH)?)?;
        let certificates = usize::from(reader.take(1)?[0]);
        if certificates == 0 || certificates > MOST_CHAIN {
            return Err(reader.wrong("a chain of no or too many certificates"));
        }
        let chain = (0..certificates).map(|_| reader.certificate()).collect::<Result<_, _>>()?;
        Ok(SealedEntry { identity, obtained_at, key, chain })
    }
}

fn put_count(out: &mut Vec<u8>, count: usize) {
    // The callers' bounds fit.
    out.extend_from_slice(&u16::try_from(count).unwrap_or(u16::MAX).to_le_bytes());
}

fn put_blob(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(bytes);
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn wrong(&self, problem: &'static str) -> SealedError {
        SealedError::Format { at: self.at, problem }
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], SealedError> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let taken = rest.get(..length).ok_or_else(|| self.wrong("it ends too early"))?;
        self.at += length;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], SealedError> {
        let at = self.at;
        self.take(N)?.try_into().map_err(|_| SealedError::Format { at, problem: "it ends too early" })
    }

    fn count(&mut self) -> Result<usize, SealedError> {
        self.array().map(u16::from_le_bytes).map(usize::from)
    }

    fn count_at_most(&mut self, most: usize) -> Result<usize, SealedError> {
        let count = self.count()?;
        if count > most { Err(self.wrong("too many elements")) } else { Ok(count) }
    }

    fn long(&mut self) -> Result<usize, SealedError> {
        let value = self.array().map(u32::from_le_bytes)?;
        usize::try_from(value).map_err(|_| self.wrong("a length that no memory holds"))
    }

    fn blob(&mut self) -> Result<&'a [u8], SealedError> {
        let length = self.long()?;
        if length > MOST_BLOB {
            return Err(self.wrong("an element is too long"));
        }
        self.take(length)
    }

    fn certificate(&mut self) -> Result<CertificateDer<'static>, SealedError> {
        self.blob().map(|der| CertificateDer::from(der.to_vec()))
    }
}
