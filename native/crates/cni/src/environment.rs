//! The parameters of a call, which a runtime passes in CNI_* variables (specification, section 2).

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::PathBuf;

use crate::failure::Failure;

/// The kernel's IFNAMSIZ, with its terminating zero.
const INTERFACE_NAME_BYTES: usize = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Add,
    Del,
    Check,
    Gc,
    Status,
    Version,
}

/// Variables as found; each is checked when a verb asks for it.
#[derive(Debug, Default)]
pub(crate) struct Environment {
    variables: HashMap<String, OsString>,
}

impl Environment {
    pub(crate) fn of_process() -> Self {
        let own = |(name, value): (OsString, OsString)| {
            name.into_string().ok().filter(|name| name.starts_with("CNI_")).map(|name| (name, value))
        };
        Self { variables: std::env::vars_os().filter_map(own).collect() }
    }

    #[cfg(test)]
    pub(crate) fn of(variables: &[(&str, &str)]) -> Self {
        Self { variables: variables.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect() }
    }

    pub(crate) fn verb(&self) -> Result<Verb, Failure> {
        match self.required("CNI_COMMAND")?.as_str() {
            "ADD" => Ok(Verb::Add),
            "DEL" => Ok(Verb::Del),
            "CHECK" => Ok(Verb::Check),
            "GC" => Ok(Verb::Gc),
            "STATUS" => Ok(Verb::Status),
            "VERSION" => Ok(Verb::Version),
            other => Err(Failure::environment(
                "CNI_COMMAND",
                format_args!("is \"{other}\", expected ADD, DEL, CHECK, GC, STATUS or VERSION"),
            )),
        }
    }

    pub(crate) fn container_id(&self) -> Result<String, Failure> {
        let id = self.required("CNI_CONTAINERID")?;
        let first = id.starts_with(|c: char| c.is_ascii_alphanumeric());
        if first && id.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c)) {
            return Ok(id);
        }
        Err(Failure::environment(
            "CNI_CONTAINERID",
            format_args!("is \"{id}\", expected a letter or digit, then letters, digits, _ . and -"),
        ))
    }

    pub(crate) fn interface(&self) -> Result<String, Failure> {
        let name = self.required("CNI_IFNAME")?;
        let bad = name.len() >= INTERFACE_NAME_BYTES
            || name == "."
            || name == ".."
            || name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace());
        if !bad {
            return Ok(name);
        }
        Err(Failure::environment(
            "CNI_IFNAME",
            format_args!(
                "is \"{name}\", expected an interface name of at most 15 characters without / : or space"
            ),
        ))
    }

    pub(crate) fn netns(&self) -> Result<PathBuf, Failure> {
        self.required("CNI_NETNS").map(PathBuf::from)
    }

    /// Where a sandbox is taken down its namespace may be gone already.
    pub(crate) fn netns_if_any(&self) -> Option<PathBuf> {
        self.variables.get("CNI_NETNS").filter(|path| !path.is_empty()).map(PathBuf::from)
    }

    /// The specification's own switch for a namespace that is the runtime's.
    pub(crate) fn netns_override(&self) -> bool {
        self.variables.get("CNI_NETNS_OVERRIDE").is_some_and(|value| value == "true" || value == "1")
    }

    /// `KEY=VALUE;KEY=VALUE`.
    pub(crate) fn arguments(&self) -> Result<HashMap<String, String>, Failure> {
        let Some(value) = self.variables.get("CNI_ARGS").filter(|value| !value.is_empty()) else {
            return Ok(HashMap::new());
        };
        let text = value.to_str().ok_or_else(|| Failure::environment("CNI_ARGS", "is not UTF-8"))?;
        text.split(';')
            .filter(|pair| !pair.is_empty())
            .map(|pair| match pair.split_once('=') {
                Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
                _ => Err(Failure::environment(
                    "CNI_ARGS",
                    format_args!("has \"{pair}\", expected KEY=VALUE pairs separated by ;"),
                )),
            })
            .collect()
    }

    fn required(&self, name: &str) -> Result<String, Failure> {
        let value = self.variables.get(name).filter(|value| !value.is_empty());
        let value = value.ok_or_else(|| Failure::environment(name, "is missing"))?;
        value.to_str().map(str::to_owned).ok_or_else(|| Failure::environment(name, "is not UTF-8"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Code;

    #[test]
    fn names_the_variable_that_is_missing_or_wrong() {
        let cases: [(&str, Result<String, Failure>); 6] = [
            ("CNI_COMMAND", Environment::default().verb().map(|verb| format!("{verb:?}"))),
            (
                "CNI_COMMAND",
                Environment::of(&[("CNI_COMMAND", "add")]).verb().map(|verb| format!("{verb:?}")),
            ),
            ("CNI_CONTAINERID", Environment::of(&[("CNI_CONTAINERID", "../x")]).container_id()),
            ("CNI_IFNAME", Environment::of(&[("CNI_IFNAME", "a-name-that-is-too-long")]).interface()),
            ("CNI_IFNAME", Environment::of(&[("CNI_IFNAME", "..")]).interface()),
            ("CNI_ARGS", Environment::of(&[("CNI_ARGS", "K8S_POD_NAME")]).arguments().map(|_| String::new())),
        ];
        for (variable, result) in cases {
            let failure = result.expect_err(variable);
            assert_eq!(failure.code, Code::Environment);
            assert!(failure.message.contains(variable), "{}", failure.message);
        }
    }

    #[test]
    fn reads_what_kubelets_runtimes_send() {
        let environment = Environment::of(&[
            ("CNI_CONTAINERID", "6f1f2a"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=cart-0;K8S_POD_UID=a=b"),
        ]);
        assert_eq!(environment.container_id().expect("id"), "6f1f2a");
        assert_eq!(environment.interface().expect("interface"), "eth0");
        let arguments = environment.arguments().expect("arguments");
        assert_eq!(arguments["K8S_POD_NAME"], "cart-0");
        assert_eq!(arguments["K8S_POD_UID"], "a=b");
    }
}
