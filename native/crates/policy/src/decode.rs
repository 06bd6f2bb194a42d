//! From the wire to a [`Policy`]: everything is understood, or the policy is refused by name.

use meltemi_types::meltemi::{AuthorizationExtension, MatchExtension, authorization_extension};
use meltemi_types::security::{self, string_match::MatchType};
use meltemi_types::workload::Extension;
use meltemi_types::{AddressError, Cidr, NameError, PolicyKey};
use prost::Message;

use crate::policy::{Action, Match, Policy, Scope, ServiceAccount, StringMatch};

const AUTHORIZATION_EXTENSION: &str = "meltemi.v1.AuthorizationExtension";
const MATCH_EXTENSION: &str = "meltemi.v1.MatchExtension";

/// Why a policy cannot be enforced as it was sent. `field` is a path such as
/// `rules[0].clauses[1].matches[0].source_ips[2]`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    #[error("name: {0}")]
    Name(#[from] NameError),
    #[error("{field}: unknown value {value}; this proxy may be older than its control plane")]
    UnknownValue { field: &'static str, value: i32 },
    #[error("{field}: {problem}")]
    Field { field: String, problem: String },
    #[error("the message is cut off or is no Authorization: {0}")]
    Encoding(#[from] prost::DecodeError),
}

fn bad(field: impl Into<String>, problem: impl ToString) -> PolicyError {
    PolicyError::Field { field: field.into(), problem: problem.to_string() }
}

impl Policy {
    /// Decodes the protobuf form.
    pub fn decode(body: &[u8]) -> Result<Self, PolicyError> {
        Self::try_from(security::Authorization::decode(body)?)
    }
}

impl TryFrom<security::Authorization> for Policy {
    type Error = PolicyError;

    fn try_from(wire: security::Authorization) -> Result<Self, PolicyError> {
        let key = PolicyKey::from_parts(&wire.namespace, &wire.name)?;
        let scope = match security::Scope::try_from(wire.scope) {
            Ok(security::Scope::Global) => Scope::Global,
            Ok(security::Scope::Namespace) => Scope::Namespace,
            Ok(security::Scope::WorkloadSelector) => Scope::Selector,
            Err(_) => return Err(PolicyError::UnknownValue { field: "scope", value: wire.scope }),
        };
        let mut action = match security::Action::try_from(wire.action) {
            Ok(security::Action::Allow) => Action::Allow,
            Ok(security::Action::Deny) => Action::Deny,
            Err(_) => return Err(PolicyError::UnknownValue { field: "action", value: wire.action }),
        };
        let mut source_object = String::new();
        for (index, extension) in wire.extensions.iter().enumerate() {
            let path = format!("extensions[{index}]");
            let extension: AuthorizationExtension = open(extension, AUTHORIZATION_EXTENSION, &path)?;
            match authorization_extension::Action::try_from(extension.action) {
                Ok(authorization_extension::Action::Same) => {}
                Ok(authorization_extension::Action::Audit) => action = Action::Audit,
                Err(_) => {
                    return Err(PolicyError::UnknownValue {
                        field: "extension action",
                        value: extension.action,
                    });
                }
            }
            source_object = extension.source_object;
        }
        let rules = collect(&wire.rules, "rules", |rule, path| {
            collect(&rule.clauses, &format!("{path}.clauses"), |clause, path| {
                collect(&clause.matches, &format!("{path}.matches"), |entry, path| decode_match(entry, &path))
            })
        })?;
        Ok(Self { key, scope, action, dry_run: wire.dry_run, rules, source_object: source_object.into() })
    }
}

fn collect<T, U>(
    entries: &[T],
    path: &str,
    mut decode: impl FnMut(&T, String) -> Result<U, PolicyError>,
) -> Result<Box<[U]>, PolicyError> {
    entries.iter().enumerate().map(|(index, entry)| decode(entry, format!("{path}[{index}]"))).collect()
}

fn decode_match(wire: &security::Match, path: &str) -> Result<Match, PolicyError> {
    let mut result = Match {
        namespaces: strings(&wire.namespaces, path, "namespaces")?,
        not_namespaces: strings(&wire.not_namespaces, path, "not_namespaces")?,
        service_accounts: accounts(&wire.service_accounts, path, "service_accounts")?,
        not_service_accounts: accounts(&wire.not_service_accounts, path, "not_service_accounts")?,
        principals: strings(&wire.principals, path, "principals")?,
        not_principals: strings(&wire.not_principals, path, "not_principals")?,
        source_ips: ranges(&wire.source_ips, path, "source_ips")?,
        not_source_ips: ranges(&wire.not_source_ips, path, "not_source_ips")?,
        destination_ips: ranges(&wire.destination_ips, path, "destination_ips")?,
        not_destination_ips: ranges(&wire.not_destination_ips, path, "not_destination_ips")?,
        destination_ports: ports(&wire.destination_ports, path, "destination_ports")?,
        not_destination_ports: ports(&wire.not_destination_ports, path, "not_destination_ports")?,
        ..Match::default()
    };
    for (index, extension) in wire.extensions.iter().enumerate() {
        let path = format!("{path}.extensions[{index}]");
        let extension: MatchExtension = open(extension, MATCH_EXTENSION, &path)?;
        result.remote_ips = ranges(&extension.remote_ips, &path, "remote_ips")?;
        result.not_remote_ips = ranges(&extension.not_remote_ips, &path, "not_remote_ips")?;
    }
    Ok(result)
}

fn open<M: Message + Default>(extension: &Extension, want: &str, path: &str) -> Result<M, PolicyError> {
    if extension.name != want {
        return Err(bad(path, format!("unknown extension `{}`: want {want}", extension.name)));
    }
    let Some(config) = &extension.config else {
        return Err(bad(path, "it has no config"));
    };
    // The last segment of a type url is the message's full name.
    if config.type_url.rsplit('/').next() != Some(want) {
        return Err(bad(path, format!("its config is a `{}`: want {want}", config.type_url)));
    }
    M::decode(&config.value[..]).map_err(|error| bad(path, error))
}

fn strings(
    entries: &[security::StringMatch],
    path: &str,
    field: &str,
) -> Result<Box<[StringMatch]>, PolicyError> {
    collect(entries, &format!("{path}.{field}"), |entry, path| {
        let text = |text: &String| match text.is_empty() {
            true => Err(bad(path.as_str(), "it is an empty text, which would match in unexpected ways")),
            false => Ok(text.as_str().into()),
        };
        match &entry.match_type {
            Some(MatchType::Exact(exact)) => Ok(StringMatch::Exact(text(exact)?)),
            Some(MatchType::Prefix(prefix)) => Ok(StringMatch::Prefix(text(prefix)?)),
            Some(MatchType::Suffix(suffix)) => Ok(StringMatch::Suffix(text(suffix)?)),
            Some(MatchType::Presence(())) => Ok(StringMatch::Presence),
            None => Err(bad(path.as_str(), "it is none of exact, prefix, suffix and presence")),
        }
    })
}

fn accounts(
    entries: &[security::ServiceAccountMatch],
    path: &str,
    field: &str,
) -> Result<Box<[ServiceAccount]>, PolicyError> {
    collect(entries, &format!("{path}.{field}"), |entry, path| {
        if entry.namespace.is_empty() || entry.service_account.is_empty() {
            return Err(bad(path, "it lacks a namespace or a service account"));
        }
        Ok(ServiceAccount {
            namespace: entry.namespace.as_str().into(),
            name: entry.service_account.as_str().into(),
        })
    })
}

fn ranges(entries: &[security::Address], path: &str, field: &str) -> Result<Box<[Cidr]>, PolicyError> {
    collect(entries, &format!("{path}.{field}"), |entry, path| {
        Cidr::from_bytes(&entry.address, entry.length).map_err(|error: AddressError| bad(path, error))
    })
}

fn ports(entries: &[u32], path: &str, field: &str) -> Result<Box<[u16]>, PolicyError> {
    collect(entries, &format!("{path}.{field}"), |entry, path| match u16::try_from(*entry) {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(bad(path, format!("{entry} is no TCP port: want 1 to 65535"))),
    })
}
