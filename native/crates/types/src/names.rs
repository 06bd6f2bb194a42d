//! Names of the mesh's resources, as xDS carries them.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// A text that is no name of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no {kind}: want {want}")]
pub struct NameError {
    kind: &'static str,
    want: &'static str,
    text: String,
}

impl NameError {
    fn new(kind: &'static str, want: &'static str, text: &str) -> Self {
        Self { kind, want, text: text.chars().take(256).collect() }
    }
}

macro_rules! text_type {
    ($name:ident) => {
        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
            /// The shared text itself.
            pub fn text(&self) -> &Arc<str> {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }
    };
}

/// A workload's resource name, for a pod `CLUSTER//Pod/NAMESPACE/NAME`. Opaque but not empty.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkloadUid(Arc<str>);
text_type!(WorkloadUid);

impl WorkloadUid {
    pub fn new(text: impl Into<Arc<str>>) -> Result<Self, NameError> {
        let text = text.into();
        if text.is_empty() {
            return Err(NameError::new("workload uid", "a text that is not empty", &text));
        }
        Ok(Self(text))
    }
}

/// A service's resource name, `NAMESPACE/HOSTNAME`. Both parts non-empty, exactly one slash.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NamespacedHostname(Arc<str>);
text_type!(NamespacedHostname);

/// The key of a service.
pub type ServiceKey = NamespacedHostname;

impl NamespacedHostname {
    /// Checks `NAMESPACE/HOSTNAME`.
    pub fn new(text: impl Into<Arc<str>>) -> Result<Self, NameError> {
        let text = text.into();
        match split_once_only(&text) {
            Some(_) => Ok(Self(text)),
            None => Err(NameError::new("service name", "NAMESPACE/HOSTNAME", &text)),
        }
    }

    pub fn from_parts(namespace: &str, hostname: &str) -> Result<Self, NameError> {
        Self::new(format!("{namespace}/{hostname}"))
    }

    pub fn namespace(&self) -> &str {
        self.0.split_once('/').map_or("", |(namespace, _)| namespace)
    }

    pub fn hostname(&self) -> &str {
        self.0.split_once('/').map_or("", |(_, hostname)| hostname)
    }
}

impl FromStr for NamespacedHostname {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::new(text)
    }
}

/// An authorization's resource name, `NAMESPACE/NAME`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyKey(Arc<str>);
text_type!(PolicyKey);

impl PolicyKey {
    /// Checks `NAMESPACE/NAME`: both non-empty, exactly one slash.
    pub fn new(text: impl Into<Arc<str>>) -> Result<Self, NameError> {
        let text = text.into();
        match split_once_only(&text) {
            Some(_) => Ok(Self(text)),
            None => Err(NameError::new("policy name", "NAMESPACE/NAME", &text)),
        }
    }

    pub fn from_parts(namespace: &str, name: &str) -> Result<Self, NameError> {
        Self::new(format!("{namespace}/{name}"))
    }

    pub fn namespace(&self) -> &str {
        self.0.split_once('/').map_or("", |(namespace, _)| namespace)
    }

    pub fn name(&self) -> &str {
        self.0.split_once('/').map_or("", |(_, name)| name)
    }
}

impl FromStr for PolicyKey {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::new(text)
    }
}

fn split_once_only(text: &str) -> Option<(&str, &str)> {
    let (left, right) = text.split_once('/')?;
    (!left.is_empty() && !right.is_empty() && !right.contains('/')).then_some((left, right))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_parts_and_no_more() {
        let key = NamespacedHostname::new("shop/cart.shop.svc.cluster.local").unwrap();
        assert_eq!((key.namespace(), key.hostname()), ("shop", "cart.shop.svc.cluster.local"));
        let key = PolicyKey::from_parts("shop", "deny-all").unwrap();
        assert_eq!((key.namespace(), key.name(), key.as_str()), ("shop", "deny-all", "shop/deny-all"));
        for bad in ["", "/", "a", "a/", "/b", "a/b/c", "a//b"] {
            assert!(NamespacedHostname::new(bad).is_err(), "accepted {bad:?}");
            assert!(PolicyKey::new(bad).is_err(), "accepted {bad:?}");
        }
        assert!(WorkloadUid::new("").is_err());
        assert!(WorkloadUid::new("c//Pod/ns/n").is_ok());
    }
}
