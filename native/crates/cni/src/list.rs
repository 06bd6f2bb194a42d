//! The agent's list of what asks for the mesh on this node (docs/cni.md, "The list"): what is known of a pod while
//! the agent does not answer. It is as the agent has last seen the cluster, and outlives a reboot.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::unistd::geteuid;
use serde::Deserialize;

use crate::attachment::Pod;

/// What the list says of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It surely did not ask.
    DidNotAsk,
    Asked {
        by: &'static str,
    },
    /// Its namespace does not ask, as last seen; whether the pod itself does is not known.
    NamespaceDoesNotAsk,
    NotKnown,
}

#[derive(Debug, Deserialize)]
struct Content {
    version: u64,
    /// Namespaces of which no pod is ever enrolled.
    never: Vec<String>,
    /// Whether a namespace's own label asks for the mesh.
    namespaces: HashMap<String, bool>,
    /// This node's pods by `NAMESPACE/NAME`.
    pods: HashMap<String, Listed>,
}

#[derive(Debug, Deserialize)]
struct Listed {
    /// Empty where the agent's source has none.
    uid: String,
    asks: bool,
}

const VERSION: u64 = 1;
const MAX_BYTES: u64 = 64 << 20;

#[derive(Debug)]
pub(crate) struct List(Content);

impl List {
    /// Err says why there is none, for a person.
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let failed = |problem: String| format!("the agent's list {}: {problem}", path.display());
        let file = File::open(path).map_err(|error| failed(error.to_string()))?;
        let found = file.metadata().map_err(|error| failed(error.to_string()))?;
        if found.uid() != 0 && found.uid() != geteuid().as_raw() || found.mode() & 0o022 != 0 {
            return Err(failed(format!(
                "is not trusted: it belongs to user {} with mode {:o}, and others may write it",
                found.uid(),
                found.mode() & 0o7777
            )));
        }
        let mut text = Vec::new();
        file.take(MAX_BYTES).read_to_end(&mut text).map_err(|error| failed(error.to_string()))?;
        let content: Content = serde_json::from_slice(&text).map_err(|error| failed(error.to_string()))?;
        if content.version != VERSION {
            return Err(failed(format!("has version {}, expected {VERSION}", content.version)));
        }
        Ok(Self(content))
    }

    pub(crate) fn standing(&self, pod: &Pod) -> Standing {
        if self.0.never.contains(&pod.namespace) {
            return Standing::DidNotAsk;
        }
        // A pod of the same name and another uid is another pod, with labels that nobody here has seen.
        let same = |listed: &&Listed| listed.uid.is_empty() || Some(&listed.uid) == pod.uid.as_ref();
        match self.0.pods.get(&pod.key()).filter(same) {
            Some(Listed { asks: false, .. }) => return Standing::DidNotAsk,
            Some(Listed { asks: true, .. }) => {
                return Standing::Asked { by: "the pod is in the agent's list" };
            }
            None => {}
        }
        match self.0.namespaces.get(&pod.namespace) {
            Some(true) => Standing::Asked { by: "its namespace asks for it" },
            Some(false) => Standing::NamespaceDoesNotAsk,
            None => Standing::NotKnown,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn pod(namespace: &str, name: &str, uid: Option<&str>) -> Pod {
        Pod { namespace: namespace.into(), name: name.into(), uid: uid.map(str::to_owned) }
    }

    #[test]
    fn tells_what_is_sure_from_what_is_not() {
        let list = List(
            serde_json::from_str(
                r#"{"version":1,"never":["kube-system"],"namespaces":{"shop":true,"old":false},
                    "pods":{"shop/legacy":{"uid":"u1","asks":false},"old/new":{"uid":"u2","asks":true},
                            "old/anonymous":{"uid":"","asks":false}}}"#,
            )
            .expect("list"),
        );
        let asked = |standing| matches!(standing, Standing::Asked { .. });
        assert_eq!(list.standing(&pod("kube-system", "dns", None)), Standing::DidNotAsk);
        assert_eq!(list.standing(&pod("shop", "legacy", Some("u1"))), Standing::DidNotAsk);
        assert!(asked(list.standing(&pod("shop", "legacy", Some("another")))));
        assert!(asked(list.standing(&pod("shop", "legacy", None))));
        assert!(asked(list.standing(&pod("old", "new", Some("u2")))));
        assert_eq!(list.standing(&pod("old", "new", Some("another"))), Standing::NamespaceDoesNotAsk);
        assert_eq!(list.standing(&pod("old", "anonymous", Some("any"))), Standing::DidNotAsk);
        assert_eq!(list.standing(&pod("elsewhere", "x", None)), Standing::NotKnown);
    }

    #[test]
    fn does_not_believe_what_others_may_have_written() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("list.json");
        fs::write(&path, r#"{"version":1,"never":[],"namespaces":{},"pods":{}}"#).expect("write");
        fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("mode");
        assert!(List::read(&path).is_ok());
        fs::set_permissions(&path, Permissions::from_mode(0o620)).expect("mode");
        assert!(List::read(&path).expect_err("group may write").contains("not trusted"));
        fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("mode");
        for (text, part) in [
            (r#"{"version":2,"never":[],"namespaces":{},"pods":{}}"#, "has version 2"),
            (r#"{"version":1}"#, "never"),
            ("{", "EOF"),
        ] {
            fs::write(&path, text).expect("write");
            let problem = List::read(&path).expect_err(text);
            assert!(problem.contains(part) && problem.contains("list.json"), "{problem}");
        }
    }
}
