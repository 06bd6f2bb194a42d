//! The plugin's configuration, as the runtime writes it to stdin: what the specification puts there, and our own
//! fields, which the agent has written into the node's network configuration.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use crate::api::{Api, RawApi};
use crate::failure::{Code, Failure};
use crate::version::{self, Version};

/// What is done with a pod of which neither the agent nor its list knows whether it asked for the mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WhenUnknown {
    /// It may have asked: the runtime is to try again.
    Retry,
    /// What its namespace asks for, as the agent has last seen it, is taken for its own wish.
    Namespace,
    /// It starts outside the mesh.
    Allow,
}

/// One attachment that the runtime still knows (GC).
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct ValidAttachment {
    #[serde(rename = "containerID")]
    pub(crate) container_id: String,
    #[serde(rename = "ifname")]
    pub(crate) interface: String,
}

#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) version: Version,
    /// The network's name, the same for every plugin of the chain.
    pub(crate) network: String,
    /// What the plugins before this one have made.
    pub(crate) previous: Option<Value>,
    /// Undefined where the runtime sent none: that is not "nothing is valid".
    pub(crate) valid: Option<Vec<ValidAttachment>>,
    pub(crate) socket: PathBuf,
    pub(crate) list: Option<PathBuf>,
    pub(crate) timeout: Duration,
    /// The longest that a pod waits which surely did not ask for the mesh.
    pub(crate) brief_timeout: Duration,
    pub(crate) when_unknown: WhenUnknown,
    pub(crate) api: Option<Api>,
    /// STATUS fails while the agent does not answer.
    pub(crate) status_needs_agent: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    name: Option<String>,
    prev_result: Option<Value>,
    #[serde(rename = "cni.dev/valid-attachments")]
    valid: Option<Vec<ValidAttachment>>,
    /// As libcni called it in 1.2.0.
    #[serde(rename = "cni.dev/attachments")]
    valid_before: Option<Vec<ValidAttachment>>,
    socket: Option<PathBuf>,
    list: Option<PathBuf>,
    timeout_ms: Option<u64>,
    brief_timeout_ms: Option<u64>,
    when_unknown: Option<String>,
    kubernetes: Option<RawApi>,
    #[serde(default)]
    status_needs_agent: bool,
}

const DEFAULT_TIMEOUT_MS: u64 = 10_000;
const DEFAULT_BRIEF_TIMEOUT_MS: u64 = 250;
const LONGEST_TIMEOUT_MS: u64 = 60_000;

/// The version of a configuration of which nothing else may be readable, to answer an error in.
pub(crate) fn spoken_version(input: &[u8]) -> Option<Version> {
    version_field(input).ok().flatten().and_then(|text| Version::parse(&text))
}

fn version_field(input: &[u8]) -> Result<Option<String>, Failure> {
    #[derive(Deserialize)]
    struct Spoken {
        #[serde(rename = "cniVersion")]
        version: Option<String>,
    }
    let spoken: Spoken = serde_json::from_slice(input).map_err(|error| {
        Failure::decode(format!("the configuration on stdin is not the JSON it should be: {error}"))
    })?;
    Ok(spoken.version)
}

impl Config {
    pub(crate) fn parse(input: &[u8]) -> Result<Self, Failure> {
        // First of all, as later versions may have other fields.
        let text = version_field(input)?;
        let version = text.as_deref().and_then(Version::parse).ok_or_else(|| {
            Failure::new(
                Code::IncompatibleVersion,
                match &text {
                    Some(text) => format!("cniVersion \"{text}\" is not supported"),
                    None => "the configuration has no cniVersion".to_owned(),
                },
                format!("supported are {}", version::supported().join(", ")),
            )
        })?;
        let raw: Raw = serde_json::from_slice(input).map_err(|error| {
            Failure::config(format!("the configuration has a field of the wrong kind: {error}"))
        })?;
        let timeout = milliseconds("timeoutMs", raw.timeout_ms, DEFAULT_TIMEOUT_MS)?;
        Ok(Self {
            version,
            network: raw
                .name
                .filter(|name| !name.is_empty())
                .ok_or_else(|| Failure::config("the configuration has no name of its network"))?,
            previous: raw.prev_result.filter(|value| !value.is_null()),
            valid: raw.valid.or(raw.valid_before),
            socket: absolute("socket", raw.socket)?.ok_or_else(|| {
                Failure::config("the configuration has no socket: the path of the node agent's")
            })?,
            list: absolute("list", raw.list)?,
            timeout,
            brief_timeout: milliseconds("briefTimeoutMs", raw.brief_timeout_ms, DEFAULT_BRIEF_TIMEOUT_MS)?
                .min(timeout),
            when_unknown: when_unknown(raw.when_unknown.as_deref())?,
            api: raw.kubernetes.map(Api::new).transpose()?,
            status_needs_agent: raw.status_needs_agent,
        })
    }

    /// ADD and CHECK of a chained plugin have something to build on.
    pub(crate) fn required_previous(&self) -> Result<&Value, Failure> {
        self.previous.as_ref().filter(|value| value.is_object()).ok_or_else(|| {
            Failure::new(
                Code::InvalidConfig,
                "the configuration has no prevResult",
                "meltemi-cni makes no interfaces: chain it after the plugins that do, in a .conflist",
            )
        })
    }

    pub(crate) fn at_least(&self, needed: Version, verb: &str) -> Result<(), Failure> {
        if self.version >= needed {
            return Ok(());
        }
        Err(Failure::new(
            Code::IncompatibleVersion,
            format!(
                "{verb} exists since version {needed}, and the configuration's cniVersion is {}",
                self.version
            ),
            format!("set cniVersion {needed} or newer in the network's configuration"),
        ))
    }
}

fn absolute(field: &str, path: Option<PathBuf>) -> Result<Option<PathBuf>, Failure> {
    match path {
        Some(path) if !path.is_absolute() => {
            Err(Failure::config(format!("{field} is \"{}\", expected an absolute path", path.display())))
        }
        path => Ok(path),
    }
}

fn milliseconds(field: &str, value: Option<u64>, default: u64) -> Result<Duration, Failure> {
    let value = value.unwrap_or(default);
    if (1..=LONGEST_TIMEOUT_MS).contains(&value) {
        return Ok(Duration::from_millis(value));
    }
    Err(Failure::config(format!("{field} is {value}, expected 1 to {LONGEST_TIMEOUT_MS} milliseconds")))
}

fn when_unknown(value: Option<&str>) -> Result<WhenUnknown, Failure> {
    match value {
        None | Some("retry") => Ok(WhenUnknown::Retry),
        Some("namespace") => Ok(WhenUnknown::Namespace),
        Some("allow") => Ok(WhenUnknown::Allow),
        Some(other) => Err(Failure::new(
            Code::UnsupportedField,
            format!("whenUnknown is \"{other}\", which is not supported"),
            "supported are retry, namespace and allow (docs/cni.md)",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(input: &str) -> Failure {
        Config::parse(input.as_bytes()).expect_err(input)
    }

    #[test]
    fn refuses_with_the_specifications_codes() {
        let cases = [
            ("", Code::Decode, "JSON"),
            ("[]", Code::Decode, "JSON"),
            (r#"{"cniVersion":"1.0.0""#, Code::Decode, "JSON"),
            (r#"{"cniVersion":1}"#, Code::Decode, "JSON"),
            (r#"{"name":"n"}"#, Code::IncompatibleVersion, "no cniVersion"),
            (r#"{"cniVersion":"0.2.0","name":"n"}"#, Code::IncompatibleVersion, "0.2.0"),
            (r#"{"cniVersion":"2.0.0","name":"n"}"#, Code::IncompatibleVersion, "2.0.0"),
            (r#"{"cniVersion":"1.0.0","socket":"/s"}"#, Code::InvalidConfig, "name"),
            (r#"{"cniVersion":"1.0.0","name":"n"}"#, Code::InvalidConfig, "socket"),
            (r#"{"cniVersion":"1.0.0","name":"n","socket":"s"}"#, Code::InvalidConfig, "\"s\""),
            (
                r#"{"cniVersion":"1.0.0","name":"n","socket":"/s","timeoutMs":0}"#,
                Code::InvalidConfig,
                "timeoutMs is 0",
            ),
            (
                r#"{"cniVersion":"1.0.0","name":"n","socket":"/s","timeoutMs":"1"}"#,
                Code::InvalidConfig,
                "wrong kind",
            ),
            (
                r#"{"cniVersion":"1.0.0","name":"n","socket":"/s","whenUnknown":"x"}"#,
                Code::UnsupportedField,
                "\"x\"",
            ),
        ];
        for (input, code, part) in cases {
            let failure = refusal(input);
            assert_eq!(failure.code, code, "{input}");
            assert!(failure.message.contains(part), "{input}: {}", failure.message);
            assert!(!failure.details.is_empty());
        }
    }

    #[test]
    fn answers_an_error_in_the_callers_version() {
        let json = refusal(r#"{"cniVersion":"0.4.0","name":"n"}"#)
            .to_json(spoken_version(br#"{"cniVersion":"0.4.0"}"#));
        let value: Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!(value["cniVersion"], "0.4.0");
        assert_eq!(value["code"], 7);
        assert_eq!(spoken_version(b"{"), None);
    }

    #[test]
    fn reads_the_agents_configuration() {
        let config = Config::parse(
            br#"{"cniVersion":"1.1.0","name":"n","type":"meltemi-cni","socket":"/run/s","list":"/var/l","timeoutMs":3000,
                "briefTimeoutMs":9000,"whenUnknown":"namespace","prevResult":{"ips":[]},"runtimeConfig":{},
                "cni.dev/valid-attachments":[{"containerID":"c","ifname":"eth0"}]}"#,
        )
        .expect("config");
        assert_eq!(config.timeout, Duration::from_secs(3));
        assert_eq!(config.brief_timeout, config.timeout);
        assert_eq!(config.when_unknown, WhenUnknown::Namespace);
        assert_eq!(config.valid.expect("attachments")[0].container_id, "c");
    }
}
