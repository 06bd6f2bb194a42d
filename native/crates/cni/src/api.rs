//! A bounded look at the Kubernetes API, where the configuration has one: what the pod's and its namespace's labels
//! ask for now. Only asked while the agent does not answer.

use std::fs;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use serde::Deserialize;

use crate::attachment::Pod;
use crate::bounded::Bounded;
use crate::failure::Failure;
use crate::wish::{Labels, WishLabel, wish};

const DEFAULT_TIMEOUT_MS: u64 = 1_000;
const LONGEST_TIMEOUT_MS: u64 = 10_000;
const MAX_ANSWER_BYTES: u64 = 4 << 20;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RawApi {
    /// `ADDRESS:PORT`: a name would need a resolver, which knows no deadline.
    server: String,
    server_name: Option<String>,
    ca_file: PathBuf,
    token_file: PathBuf,
    timeout_ms: Option<u64>,
    wish: Vec<WishLabel>,
}

#[derive(Debug)]
pub(crate) struct Api {
    server: SocketAddr,
    name: ServerName<'static>,
    ca_file: PathBuf,
    token_file: PathBuf,
    timeout: Duration,
    wish: Vec<WishLabel>,
}

#[derive(Deserialize)]
struct Object {
    metadata: Metadata,
}

#[derive(Deserialize)]
struct Metadata {
    #[serde(default)]
    uid: String,
    #[serde(default)]
    labels: Labels,
}

impl Api {
    pub(crate) fn new(raw: RawApi) -> Result<Self, Failure> {
        let wrong = |field: &str, value: &str, expected: &str| {
            Failure::config(format!("kubernetes.{field} is \"{value}\", expected {expected}"))
        };
        let server: SocketAddr = raw
            .server
            .parse()
            .map_err(|_| wrong("server", &raw.server, "ADDRESS:PORT, with an IP address"))?;
        let name = match raw.server_name {
            None => ServerName::IpAddress(server.ip().into()),
            Some(name) => ServerName::try_from(name.clone())
                .map_err(|_| wrong("serverName", &name, "a DNS name or IP address"))?,
        };
        let timeout_ms = raw.timeout_ms.unwrap_or(DEFAULT_TIMEOUT_MS);
        if !(1..=LONGEST_TIMEOUT_MS).contains(&timeout_ms) {
            let expected = format!("1 to {LONGEST_TIMEOUT_MS} milliseconds");
            return Err(wrong("timeoutMs", &timeout_ms.to_string(), &expected));
        }
        let timeout = Duration::from_millis(timeout_ms);
        Ok(Self { server, name, ca_file: raw.ca_file, token_file: raw.token_file, timeout, wish: raw.wish })
    }

    /// Whether the pod asks for the mesh; Err says why that is not known, for a person.
    pub(crate) fn asks(&self, pod: &Pod) -> Result<bool, String> {
        let end = Instant::now() + self.timeout;
        let path = format!("/api/v1/namespaces/{}", path_segment(&pod.namespace)?);
        let found = self.get(&format!("{path}/pods/{}", path_segment(&pod.name)?), end)?.metadata;
        if pod.uid.as_ref().is_some_and(|uid| *uid != found.uid) {
            return Err(format!("the API has another pod of that name, with uid {}", found.uid));
        }
        if let Some(own) = wish(&self.wish, &found.labels) {
            return Ok(own);
        }
        let namespace = self.get(&path, end)?.metadata;
        Ok(wish(&self.wish, &namespace.labels).unwrap_or(false))
    }

    fn get(&self, path: &str, end: Instant) -> Result<Object, String> {
        let failed = |what: &str, error: &dyn std::fmt::Display| {
            format!("the API at {}: {what}: {error}", self.server)
        };
        let token = fs::read_to_string(&self.token_file)
            .map_err(|error| failed(&format!("its token {}", self.token_file.display()), &error))?;
        let client =
            ClientConnection::new(self.tls()?, self.name.clone()).map_err(|error| failed("TLS", &error))?;
        let stream = Bounded::connect(&self.server, end).map_err(|error| failed("connecting", &error))?;
        let mut stream = StreamOwned::new(client, stream);
        // Of HTTP/1.0, so that the answer is in one piece and ends with the connection.
        let request = format!(
            "GET {path} HTTP/1.0\r\nhost: {}\r\nauthorization: Bearer {}\r\naccept: application/json\r\nuser-agent: meltemi-cni\r\n\r\n",
            self.server,
            token.trim()
        );
        stream.write_all(request.as_bytes()).map_err(|error| failed("asking", &error))?;
        let mut answer = Vec::new();
        // An end without a close is found by the length of what was promised.
        let read = stream.take(MAX_ANSWER_BYTES).read_to_end(&mut answer);
        if let Err(error) = read
            && error.kind() != std::io::ErrorKind::UnexpectedEof
        {
            return Err(failed("reading", &error));
        }
        body(&answer)
            .and_then(|body| serde_json::from_slice(body).map_err(|error| error.to_string()))
            .map_err(|error| failed(path, &error))
    }

    fn tls(&self) -> Result<Arc<ClientConfig>, String> {
        let failed =
            |error: &dyn std::fmt::Display| format!("the API's roots {}: {error}", self.ca_file.display());
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(&self.ca_file).map_err(|error| failed(&error))? {
            roots.add(certificate.map_err(|error| failed(&error))?).map_err(|error| failed(&error))?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| failed(&error))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Arc::new(config))
    }
}

/// Names of Kubernetes need no escaping; what does is none.
fn path_segment(name: &str) -> Result<&str, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    if !name.is_empty() && name.chars().all(plain) && name != "." && name != ".." {
        return Ok(name);
    }
    Err(format!("\"{name}\" is no name of Kubernetes"))
}

fn body(answer: &[u8]) -> Result<&[u8], String> {
    let end =
        answer.windows(4).position(|four| four == b"\r\n\r\n").ok_or("the answer ended before its head")?;
    let (head, body) = (String::from_utf8_lossy(&answer[..end]), &answer[end + 4..]);
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap_or_default();
    match status.split(' ').nth(1) {
        Some("200") => {}
        Some(code) => return Err(format!("it answered {code}")),
        None => return Err("this is no HTTP".to_owned()),
    }
    let length = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse::<usize>().ok());
    match length {
        Some(length) if length != body.len() => Err(format!("{} bytes of an answer of {length}", body.len())),
        _ => Ok(body),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn believes_whole_answers_only() {
        assert_eq!(body(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}"), Ok(&b"{}"[..]));
        for (bad, part) in [
            (&b"HTTP/1.0 200 OK\r\n"[..], "before its head"),
            (b"HTTP/1.0 200 OK\r\ncontent-length: 3\r\n\r\n{}", "2 bytes of an answer of 3"),
            (b"HTTP/1.0 403 Forbidden\r\n\r\n{}", "403"),
        ] {
            assert!(body(bad).expect_err("bad").contains(part));
        }
    }

    #[test]
    fn asks_for_no_path_that_a_name_makes_up() {
        for bad in ["", ".", "..", "a/b", "a?b", "a b", "a%2fb"] {
            assert!(path_segment(bad).is_err(), "{bad}");
        }
        assert_eq!(path_segment("cart-0.v1"), Ok("cart-0.v1"));
    }

    #[test]
    fn refuses_what_it_could_not_bound_or_verify() {
        let of = |server: &str, more: &str| {
            let text = format!(r#"{{"server":"{server}","caFile":"/c","tokenFile":"/t","wish":[]{more}}}"#);
            Api::new(serde_json::from_str(&text).expect("raw"))
        };
        assert!(of("10.0.0.1:443", "").is_ok());
        assert!(of("[fd00::1]:6443", r#","serverName":"kubernetes.default.svc""#).is_ok());
        for (server, more, part) in [
            ("kubernetes.default:443", "", "kubernetes.server"),
            ("10.0.0.1:443", r#","serverName":"a b""#, "kubernetes.serverName"),
            ("10.0.0.1:443", r#","timeoutMs":0"#, "kubernetes.timeoutMs"),
        ] {
            assert!(of(server, more).expect_err(server).message.contains(part));
        }
    }
}
