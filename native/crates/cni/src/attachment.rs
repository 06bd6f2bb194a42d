//! Whom a call is about: a container's interface, and the pod that it belongs to, where there is one.

use std::collections::HashMap;

use crate::environment::Environment;
use crate::failure::Failure;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pod {
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// Older runtimes do not tell.
    pub(crate) uid: Option<String>,
}

impl Pod {
    pub(crate) fn key(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// None where the runtime runs a container of nobody's cluster.
    fn of(mut arguments: HashMap<String, String>) -> Option<Self> {
        let mut take = |key: &str| arguments.remove(key).filter(|value| !value.is_empty());
        Some(Self {
            namespace: take("K8S_POD_NAMESPACE")?,
            name: take("K8S_POD_NAME")?,
            uid: take("K8S_POD_UID"),
        })
    }
}

#[derive(Debug)]
pub(crate) struct Attachment {
    pub(crate) container_id: String,
    pub(crate) interface: String,
    pub(crate) pod: Option<Pod>,
}

impl Attachment {
    pub(crate) fn of(environment: &Environment) -> Result<Self, Failure> {
        Ok(Self {
            container_id: environment.container_id()?,
            interface: environment.interface()?,
            pod: Pod::of(environment.arguments()?),
        })
    }
}
