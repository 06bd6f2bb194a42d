//! What a CNI plugin answers when it cannot do what it was asked: a code of the specification (section 5), a message
//! that names object and value, and in `details` what to do.

use serde_json::json;

use crate::version::Version;

/// The codes of the specification that this plugin uses, and its own from 100 on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    IncompatibleVersion = 1,
    UnsupportedField = 2,
    Environment = 4,
    Io = 5,
    Decode = 6,
    InvalidConfig = 7,
    /// A transient condition: the runtime should try again.
    TryAgainLater = 11,
    /// STATUS: this plugin cannot serve ADD now.
    NotAvailable = 50,
    /// The agent has understood the request and will not do it: trying again unchanged does not help.
    Refused = 100,
    /// CHECK: the pod is in the mesh, and its capture is not in force.
    NotInForce = 101,
}

#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failure {
    pub(crate) code: Code,
    pub(crate) message: String,
    pub(crate) details: String,
}

impl Failure {
    pub(crate) fn new(code: Code, message: impl Into<String>, details: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: details.into() }
    }

    pub(crate) fn io(message: impl Into<String>) -> Self {
        Self::new(Code::Io, message, "this is the node's doing, not the configuration's")
    }

    pub(crate) fn decode(message: impl Into<String>) -> Self {
        Self::new(
            Code::Decode,
            message,
            "a CNI runtime writes one JSON object, the plugin's configuration, to the plugin's stdin",
        )
    }

    pub(crate) fn environment(variable: &str, problem: impl std::fmt::Display) -> Self {
        Self::new(
            Code::Environment,
            format!("environment variable {variable} {problem}"),
            "a CNI runtime sets it for every call of this verb",
        )
    }

    pub(crate) fn config(message: impl Into<String>) -> Self {
        Self::new(
            Code::InvalidConfig,
            message,
            "the node agent writes this configuration; docs/cni.md lists its fields",
        )
    }

    /// One JSON object for stdout. `spoken` is the version of the caller's configuration, where it can be read.
    pub(crate) fn to_json(&self, spoken: Option<Version>) -> String {
        json!({
            "cniVersion": spoken.unwrap_or(Version::NEWEST).as_str(),
            "code": self.code as u32,
            "msg": self.message,
            "details": self.details,
        })
        .to_string()
    }
}
