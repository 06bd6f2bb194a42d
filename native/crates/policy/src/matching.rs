//! Whether a policy matches a connection.

use meltemi_types::{Cidr, Identity};

use crate::policy::{Action, ConnectionFacts, Match, Policy, ServiceAccount, StringMatch};

impl Policy {
    /// Whether any rule matches. Independent of dry run.
    pub fn matches(&self, facts: &ConnectionFacts) -> bool {
        self.rules.iter().any(|clauses| clauses.iter().all(|clause| self.clause_matches(clause, facts)))
    }

    fn clause_matches(&self, matches: &[Match], facts: &ConnectionFacts) -> bool {
        matches.is_empty() || matches.iter().any(|m| m.holds(self.action, facts))
    }
}

impl Match {
    fn holds(&self, action: Action, facts: &ConnectionFacts) -> bool {
        // What was left out of an empty match is unknown: it may restrict, never permit.
        if self.is_empty() {
            return action != Action::Allow;
        }
        let port = facts.destination.port();
        ports_hold(&self.destination_ports, &self.not_destination_ports, port)
            && addresses_hold(&self.destination_ips, &self.not_destination_ips, facts.destination.ip())
            && addresses_hold(&self.source_ips, &self.not_source_ips, facts.source_ip)
            && addresses_hold(&self.remote_ips, &self.not_remote_ips, facts.remote_ip)
            && self.identity_holds(action, facts.source_identity.as_ref())
    }

    fn identity_holds(&self, action: Action, identity: Option<&Identity>) -> bool {
        let Some(identity) = identity else {
            let wanted = !(self.namespaces.is_empty()
                && self.service_accounts.is_empty()
                && self.principals.is_empty());
            let excluded = !(self.not_namespaces.is_empty()
                && self.not_service_accounts.is_empty()
                && self.not_principals.is_empty());
            // Nobody is none of the excluded; but who hides is not permitted because of it.
            let hides = excluded && action == Action::Allow;
            return !wanted && !hides;
        };
        strings_hold(&self.namespaces, &self.not_namespaces, identity.namespace())
            && strings_hold(&self.principals, &self.not_principals, identity.principal())
            && accounts_hold(&self.service_accounts, &self.not_service_accounts, identity)
    }

    fn is_empty(&self) -> bool {
        self.namespaces.is_empty()
            && self.not_namespaces.is_empty()
            && self.service_accounts.is_empty()
            && self.not_service_accounts.is_empty()
            && self.principals.is_empty()
            && self.not_principals.is_empty()
            && self.source_ips.is_empty()
            && self.not_source_ips.is_empty()
            && self.remote_ips.is_empty()
            && self.not_remote_ips.is_empty()
            && self.destination_ips.is_empty()
            && self.not_destination_ips.is_empty()
            && self.destination_ports.is_empty()
            && self.not_destination_ports.is_empty()
    }
}

impl StringMatch {
    /// `text` is of an identity that is present, hence never empty.
    fn matches(&self, text: &str) -> bool {
        match self {
            Self::Exact(exact) => **exact == *text,
            Self::Prefix(prefix) => text.starts_with(&**prefix),
            Self::Suffix(suffix) => text.ends_with(&**suffix),
            Self::Presence => true,
        }
    }
}

impl ServiceAccount {
    fn matches(&self, identity: &Identity) -> bool {
        *self.namespace == *identity.namespace() && *self.name == *identity.service_account()
    }
}

/// The shape of every field: unset holds, set needs one that matches, excluded needs none that does.
fn field_holds<T>(any_of: &[T], none_of: &[T], matches: impl Fn(&T) -> bool) -> bool {
    (any_of.is_empty() || any_of.iter().any(&matches)) && !none_of.iter().any(&matches)
}

fn ports_hold(any_of: &[u16], none_of: &[u16], port: u16) -> bool {
    field_holds(any_of, none_of, |entry| *entry == port)
}

fn addresses_hold(any_of: &[Cidr], none_of: &[Cidr], ip: std::net::IpAddr) -> bool {
    field_holds(any_of, none_of, |range| range.contains(ip))
}

fn strings_hold(any_of: &[StringMatch], none_of: &[StringMatch], text: &str) -> bool {
    field_holds(any_of, none_of, |entry| entry.matches(text))
}

fn accounts_hold(any_of: &[ServiceAccount], none_of: &[ServiceAccount], identity: &Identity) -> bool {
    field_holds(any_of, none_of, |entry| entry.matches(identity))
}
