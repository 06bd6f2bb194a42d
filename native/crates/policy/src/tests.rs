//! Tables over every form of match, the precedence, and what is refused.

use std::sync::Arc;

use meltemi_types::meltemi::{AuthorizationExtension, MatchExtension, authorization_extension};
use meltemi_types::security::{
    Action as WireAction, Address, Authorization, Clause, Match, Rule, Scope as WireScope,
    ServiceAccountMatch, StringMatch, string_match::MatchType,
};
use meltemi_types::workload::Extension;
use meltemi_types::{ClientAddress, Identity};
use prost::Message;

use crate::{Action, ConnectionFacts, Decision, DenyReason, Effect, Policy, PolicySet, evaluate};

fn facts(identity: Option<&str>) -> ConnectionFacts {
    ConnectionFacts::new(
        ClientAddress::new("10.1.2.3:40000".parse().unwrap()),
        identity.map(|uri| uri.parse::<Identity>().unwrap()),
        "10.9.0.7:8080".parse().unwrap(),
    )
}

fn web() -> ConnectionFacts {
    facts(Some("spiffe://cluster.local/ns/shop/sa/web"))
}

fn exact(text: &str) -> Vec<StringMatch> {
    vec![StringMatch { match_type: Some(MatchType::Exact(text.into())) }]
}

fn prefix(text: &str) -> Vec<StringMatch> {
    vec![StringMatch { match_type: Some(MatchType::Prefix(text.into())) }]
}

fn suffix(text: &str) -> Vec<StringMatch> {
    vec![StringMatch { match_type: Some(MatchType::Suffix(text.into())) }]
}

fn presence() -> Vec<StringMatch> {
    vec![StringMatch { match_type: Some(MatchType::Presence(())) }]
}

fn account(namespace: &str, name: &str) -> Vec<ServiceAccountMatch> {
    vec![ServiceAccountMatch { namespace: namespace.into(), service_account: name.into() }]
}

fn range(text: &str) -> Vec<Address> {
    let (ip, length) = text.split_once('/').unwrap();
    let address = match ip.parse().unwrap() {
        std::net::IpAddr::V4(v4) => v4.octets().to_vec(),
        std::net::IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    vec![Address { address: address.into(), length: length.parse().unwrap() }]
}

fn remote(remote_ips: Vec<Address>, not_remote_ips: Vec<Address>) -> Vec<Extension> {
    extension("meltemi.v1.MatchExtension", &MatchExtension { remote_ips, not_remote_ips })
}

fn extension(name: &str, message: &impl Message) -> Vec<Extension> {
    let type_url = format!("type.googleapis.com/{name}");
    let config = prost_types_any(type_url, message.encode_to_vec());
    vec![Extension { name: name.into(), config: Some(config) }]
}

fn prost_types_any(type_url: String, value: Vec<u8>) -> prost_types::Any {
    prost_types::Any { type_url, value }
}

fn wire(action: WireAction, matches: Vec<Match>) -> Authorization {
    Authorization {
        name: "p".into(),
        namespace: "shop".into(),
        scope: WireScope::Namespace.into(),
        action: action.into(),
        rules: vec![Rule { clauses: vec![Clause { matches }] }],
        ..Authorization::default()
    }
}

fn policy(wire: Authorization) -> Arc<Policy> {
    Arc::new(Policy::try_from(wire).unwrap())
}

fn matches(action: WireAction, entry: Match, facts: &ConnectionFacts) -> bool {
    policy(wire(action, vec![entry])).matches(facts)
}

/// A field's positive form, its `not_` form, and whether the entry is true of `web()`.
fn fields() -> Vec<(&'static str, Match, Match, bool)> {
    let m = Match::default;
    let mut table = Vec::new();
    for (name, entry, holds) in [
        ("exact", exact("shop"), true),
        ("exact other", exact("shop2"), false),
        ("exact is not prefix", exact("sho"), false),
        ("prefix", prefix("sh"), true),
        ("prefix other", prefix("hop"), false),
        ("suffix", suffix("op"), true),
        ("suffix other", suffix("sho"), false),
        ("presence", presence(), true),
    ] {
        table.push((
            name,
            Match { namespaces: entry.clone(), ..m() },
            Match { not_namespaces: entry, ..m() },
            holds,
        ));
    }
    for (name, entry, holds) in [
        ("principal", exact("cluster.local/ns/shop/sa/web"), true),
        ("principal with scheme", exact("spiffe://cluster.local/ns/shop/sa/web"), false),
        ("principal of another domain", exact("td2/ns/shop/sa/web"), false),
        ("principal prefix", prefix("cluster.local/ns/shop/"), true),
        ("principal prefix with scheme", prefix("spiffe://"), false),
        ("principal suffix", suffix("/sa/web"), true),
        ("principal suffix other", suffix("/sa/we"), false),
        ("principal presence", presence(), true),
    ] {
        table.push((
            name,
            Match { principals: entry.clone(), ..m() },
            Match { not_principals: entry, ..m() },
            holds,
        ));
    }
    for (name, entry, holds) in [
        ("account", account("shop", "web"), true),
        ("account of another namespace", account("shop2", "web"), false),
        ("another account", account("shop", "web2"), false),
    ] {
        table.push((
            name,
            Match { service_accounts: entry.clone(), ..m() },
            Match { not_service_accounts: entry, ..m() },
            holds,
        ));
    }
    for (name, text, holds) in [
        ("source", "10.1.0.0/16", true),
        ("source host", "10.1.2.3/32", true),
        ("source other", "10.2.0.0/16", false),
    ] {
        let entry = range(text);
        table.push((
            name,
            Match { source_ips: entry.clone(), ..m() },
            Match { not_source_ips: entry, ..m() },
            holds,
        ));
    }
    for (name, text, holds) in [("remote", "10.1.2.0/24", true), ("remote of IPv6", "::/0", false)] {
        let entry = range(text);
        table.push((
            name,
            Match { extensions: remote(entry.clone(), vec![]), ..m() },
            Match { extensions: remote(vec![], entry), ..m() },
            holds,
        ));
    }
    for (name, text, holds) in
        [("destination", "10.9.0.7/32", true), ("destination other", "10.9.0.8/32", false)]
    {
        let entry = range(text);
        table.push((
            name,
            Match { destination_ips: entry.clone(), ..m() },
            Match { not_destination_ips: entry, ..m() },
            holds,
        ));
    }
    for (name, port, holds) in [("port", 8080, true), ("port other", 8081, false)] {
        table.push((
            name,
            Match { destination_ports: vec![port], ..m() },
            Match { not_destination_ports: vec![port], ..m() },
            holds,
        ));
    }
    table
}

#[test]
fn every_field_and_its_not_form() {
    for (name, positive, negative, holds) in fields() {
        for action in [WireAction::Allow, WireAction::Deny] {
            assert_eq!(matches(action, positive.clone(), &web()), holds, "{name} {action:?}");
            assert_eq!(matches(action, negative.clone(), &web()), !holds, "not {name} {action:?}");
        }
    }
}

#[test]
fn fields_of_one_match_hold_together() {
    let table = fields();
    for (left_name, left, _, left_holds) in &table {
        for (right_name, _, right, right_excluded) in &table {
            let mut both = Match::decode(&*left.encode_to_vec()).unwrap();
            // Merging appends lists; two extensions on one match would be ambiguous.
            if !left.extensions.is_empty() && !right.extensions.is_empty() {
                continue;
            }
            both.merge(&*right.encode_to_vec()).unwrap();
            assert_eq!(
                matches(WireAction::Deny, both, &web()),
                *left_holds && !*right_excluded,
                "{left_name} and not {right_name}"
            );
        }
    }
}

#[test]
fn within_a_field_any_entry_suffices_and_none_may_be_excluded() {
    let either = [exact("nowhere"), exact("shop")].concat();
    assert!(matches(WireAction::Allow, Match { namespaces: either.clone(), ..Match::default() }, &web()));
    assert!(!matches(WireAction::Allow, Match { not_namespaces: either, ..Match::default() }, &web()));
}

#[test]
fn without_identity_nothing_positive_matches_and_exclusion_never_permits() {
    let nobody = facts(None);
    for entry in [exact("shop"), prefix("s"), suffix("p"), presence()] {
        for action in [WireAction::Allow, WireAction::Deny] {
            let by = |entry: &Vec<StringMatch>| entry.clone();
            assert!(!matches(action, Match { namespaces: by(&entry), ..Match::default() }, &nobody));
            assert!(!matches(action, Match { principals: by(&entry), ..Match::default() }, &nobody));
            assert!(!matches(
                action,
                Match { service_accounts: account("shop", "web"), ..Match::default() },
                &nobody
            ));
        }
        for excluded in [
            Match { not_namespaces: entry.clone(), ..Match::default() },
            Match { not_principals: entry.clone(), ..Match::default() },
            Match { not_service_accounts: account("shop", "web"), ..Match::default() },
        ] {
            assert!(!matches(WireAction::Allow, excluded.clone(), &nobody), "ALLOW {excluded:?}");
            assert!(matches(WireAction::Deny, excluded.clone(), &nobody), "DENY {excluded:?}");
        }
    }
    // Fields about the connection hold as ever.
    assert!(matches(WireAction::Allow, Match { destination_ports: vec![8080], ..Match::default() }, &nobody));
}

#[test]
fn strict_mutual_tls_denies_who_shows_no_identity() {
    let strict =
        policy(wire(WireAction::Deny, vec![Match { not_principals: presence(), ..Match::default() }]));
    assert!(strict.matches(&facts(None)));
    assert!(!strict.matches(&web()));
}

#[test]
fn an_empty_match_restricts_and_never_permits() {
    assert!(!matches(WireAction::Allow, Match::default(), &web()));
    assert!(matches(WireAction::Deny, Match::default(), &web()));
}

#[test]
fn rules_are_alternatives_and_clauses_hold_together() {
    let yes = || Clause { matches: vec![Match { destination_ports: vec![8080], ..Match::default() }] };
    let no = || Clause { matches: vec![Match { destination_ports: vec![1], ..Match::default() }] };
    let empty = || Clause { matches: vec![] };
    for (rules, expected) in [
        (vec![], false),
        (vec![vec![]], true),
        (vec![vec![empty()]], true),
        (vec![vec![yes(), yes()]], true),
        (vec![vec![yes(), no()]], false),
        (vec![vec![yes(), empty()]], true),
        (vec![vec![no(), empty()]], false),
        (vec![vec![no()], vec![yes()]], true),
        (vec![vec![no()], vec![no()]], false),
    ] {
        for action in [WireAction::Allow, WireAction::Deny] {
            let rules: Vec<_> = rules.iter().cloned().map(|clauses| Rule { clauses }).collect();
            let case = format!("{rules:?} {action:?}");
            let policy = policy(Authorization { rules, ..wire(action, vec![]) });
            assert_eq!(policy.matches(&web()), expected, "{case}");
        }
    }
}

fn named(name: &str, action: WireAction, hit: bool) -> Authorization {
    let port = if hit { 8080 } else { 1 };
    let matches = vec![Match { destination_ports: vec![port], ..Match::default() }];
    Authorization { name: name.into(), ..wire(action, matches) }
}

fn audit(mut wire: Authorization) -> Authorization {
    wire.dry_run = true;
    wire.extensions = extension(
        "meltemi.v1.AuthorizationExtension",
        &AuthorizationExtension {
            action: authorization_extension::Action::Audit.into(),
            source_object: "AuthorizationPolicy/shop/p".into(),
        },
    );
    wire
}

/// What a verdict says, in short.
fn told(verdict: &crate::Verdict) -> String {
    match &verdict.decision {
        Decision::Allow { policy: None } => "allow".into(),
        Decision::Allow { policy: Some(policy) } => format!("allow by {}", policy.key),
        Decision::Deny(DenyReason::Denied(policy)) => format!("deny by {}", policy.key),
        Decision::Deny(DenyReason::NoneAllowed { candidates }) => format!("none of {candidates:?}"),
        Decision::Deny(DenyReason::Unknown { policies }) => format!("unknown {policies:?}"),
    }
}

#[test]
fn deny_goes_before_allow_and_allow_policies_must_be_met() {
    use WireAction::{Allow, Deny};
    for (policies, expected) in [
        (vec![], "allow"),
        (vec![named("d", Deny, false)], "allow"),
        (vec![named("d", Deny, true)], "deny by shop/d"),
        (vec![named("a", Allow, true)], "allow by shop/a"),
        (vec![named("a", Allow, false)], "none of [shop/a]"),
        (vec![named("a", Allow, true), named("d", Deny, true)], "deny by shop/d"),
        (vec![named("b", Allow, true), named("a", Allow, false), named("d", Deny, false)], "allow by shop/b"),
        (vec![named("b", Allow, false), named("a", Allow, false)], "none of [shop/a, shop/b]"),
        (vec![Authorization { rules: vec![], ..named("none", Allow, true) }], "none of [shop/none]"),
        (vec![Authorization { rules: vec![], ..named("none", Deny, true) }], "allow"),
    ] {
        let policies: Vec<_> = policies.into_iter().map(policy).collect();
        let verdict = evaluate(&policies, &web());
        assert_eq!(told(&verdict), expected);
        assert_eq!(verdict.is_allowed(), expected.starts_with("allow"));
    }
}

#[test]
fn dry_run_and_audit_report_and_never_decide() {
    use WireAction::{Allow, Deny};
    let tried = |wire: Authorization| Authorization { dry_run: true, ..wire };
    let effects = |policies: Vec<Authorization>| {
        let policies: Vec<_> = policies.into_iter().map(policy).collect();
        let verdict = evaluate(&policies, &web());
        let reported: Vec<_> =
            verdict.reported.iter().map(|entry| (entry.policy.key.name().to_owned(), entry.effect)).collect();
        (told(&verdict), reported)
    };
    assert_eq!(
        effects(vec![tried(named("d", Deny, true))]),
        ("allow".into(), vec![("d".into(), Effect::DryRunDeny)])
    );
    assert_eq!(effects(vec![tried(named("d", Deny, false))]), ("allow".into(), vec![]));
    assert_eq!(
        effects(vec![tried(named("a", Allow, true))]),
        ("allow".into(), vec![("a".into(), Effect::DryRunAllow)])
    );
    assert_eq!(
        effects(vec![tried(named("a", Allow, false))]),
        ("allow".into(), vec![("a".into(), Effect::DryRunUnmet)])
    );
    assert_eq!(
        effects(vec![audit(named("x", Deny, true)), named("d", Deny, true)]),
        ("deny by shop/d".into(), vec![("x".into(), Effect::Audit)])
    );
    assert_eq!(
        effects(vec![audit(named("x", Deny, true)), named("a", Allow, true)]),
        ("allow by shop/a".into(), vec![("x".into(), Effect::Audit)])
    );
    // One that matches is enough, and where ALLOW policies are enforced another changes nothing.
    assert_eq!(
        effects(vec![tried(named("a", Allow, false)), tried(named("b", Allow, true))]),
        ("allow".into(), vec![("b".into(), Effect::DryRunAllow)])
    );
    assert_eq!(
        effects(vec![tried(named("a", Allow, false)), named("b", Allow, true)]),
        ("allow by shop/b".into(), vec![])
    );
    // Also where the sender did not mark it as a dry run.
    let unmarked = Authorization { dry_run: false, ..audit(named("x", Deny, true)) };
    assert_eq!(effects(vec![unmarked]), ("allow".into(), vec![("x".into(), Effect::Audit)]));
}

#[test]
fn what_is_not_known_refuses_but_a_known_deny_is_named() {
    let missing = vec!["shop/later".parse().unwrap()];
    let set = PolicySet::new(vec![policy(named("a", WireAction::Allow, true))], missing.clone());
    assert!(!set.is_complete());
    assert_eq!(told(&set.evaluate(&web())), "unknown [shop/later]");
    let set = PolicySet::new(vec![policy(named("d", WireAction::Deny, true))], missing);
    assert_eq!(told(&set.evaluate(&web())), "deny by shop/d");
    assert_eq!(told(&PolicySet::not_received().evaluate(&web())), "unknown []");
}

#[test]
fn the_source_object_and_the_action_travel_in_the_extension() {
    let audited = policy(audit(named("x", WireAction::Deny, true)));
    assert_eq!(audited.action, Action::Audit);
    assert_eq!(&*audited.source_object, "AuthorizationPolicy/shop/p");
}

#[test]
fn the_client_behind_a_gateway_is_matched_by_remote_and_not_by_source() {
    let mut facts = web();
    facts.remote_ip = "203.0.113.9".parse().unwrap();
    let remote_only = Match { extensions: remote(range("203.0.113.0/24"), vec![]), ..Match::default() };
    assert!(matches(WireAction::Allow, remote_only, &facts));
    let by_source = Match { source_ips: range("203.0.113.0/24"), ..Match::default() };
    assert!(!matches(WireAction::Allow, by_source, &facts));
}

#[test]
fn mapped_addresses_are_the_addresses_they_stand_for() {
    let facts = ConnectionFacts::new(
        ClientAddress::new("[::ffff:10.1.2.3]:1".parse().unwrap()),
        None,
        "[::ffff:10.9.0.7]:8080".parse().unwrap(),
    );
    let entry = Match {
        source_ips: range("10.1.2.3/32"),
        destination_ips: range("::ffff:10.9.0.0/112"),
        ..Match::default()
    };
    assert!(matches(WireAction::Deny, entry, &facts));
}

#[test]
fn what_cannot_be_understood_is_refused_and_its_field_named() {
    let of = |entry: Match| wire(WireAction::Allow, vec![entry]);
    let base = || wire(WireAction::Deny, vec![]);
    let untyped = vec![StringMatch { match_type: None }];
    let path = "rules[0].clauses[0].matches[0]";
    let address = |bytes: &[u8], length| vec![Address { address: bytes.to_vec().into(), length }];
    for (bad, expected) in [
        (Authorization { name: String::new(), ..base() }, "name: ".to_owned()),
        (Authorization { namespace: String::new(), ..base() }, "name: ".into()),
        (Authorization { name: "a/b".into(), ..base() }, "name: ".into()),
        (Authorization { action: 2, ..base() }, "action: unknown value 2".into()),
        (Authorization { action: -1, ..base() }, "action: unknown value -1".into()),
        (Authorization { scope: 3, ..base() }, "scope: unknown value 3".into()),
        (of(Match { namespaces: untyped.clone(), ..Match::default() }), format!("{path}.namespaces[0]: ")),
        (of(Match { not_principals: untyped, ..Match::default() }), format!("{path}.not_principals[0]: ")),
        (of(Match { principals: exact(""), ..Match::default() }), format!("{path}.principals[0]: ")),
        (of(Match { principals: prefix(""), ..Match::default() }), format!("{path}.principals[0]: ")),
        (
            of(Match { service_accounts: account("", "x"), ..Match::default() }),
            format!("{path}.service_accounts[0]: "),
        ),
        (
            of(Match { source_ips: address(&[10, 0, 0, 0], 33), ..Match::default() }),
            format!("{path}.source_ips[0]: prefix length 33"),
        ),
        (
            of(Match { not_source_ips: address(&[10, 0, 0], 8), ..Match::default() }),
            format!("{path}.not_source_ips[0]: an IP address has 3 bytes"),
        ),
        (
            of(Match { destination_ips: address(&[0; 16], 129), ..Match::default() }),
            format!("{path}.destination_ips[0]: prefix length 129"),
        ),
        (
            of(Match { destination_ports: vec![80, 65_536], ..Match::default() }),
            format!("{path}.destination_ports[1]: 65536 is no TCP port"),
        ),
        (
            of(Match { not_destination_ports: vec![0], ..Match::default() }),
            format!("{path}.not_destination_ports[0]: 0 is no TCP port"),
        ),
        (
            of(Match {
                extensions: extension("example.Other", &MatchExtension::default()),
                ..Match::default()
            }),
            format!("{path}.extensions[0]: unknown extension `example.Other`"),
        ),
        (
            of(Match {
                extensions: vec![Extension { name: "meltemi.v1.MatchExtension".into(), config: None }],
                ..Match::default()
            }),
            format!("{path}.extensions[0]: it has no config"),
        ),
        (
            of(Match { extensions: remote(address(&[1], 8), vec![]), ..Match::default() }),
            format!("{path}.extensions[0].remote_ips[0]: "),
        ),
    ] {
        let error = Policy::try_from(bad.clone()).unwrap_err().to_string();
        assert!(error.starts_with(&expected), "{error:?} does not begin with {expected:?}");
    }
}

#[test]
fn random_and_truncated_bytes_never_panic() {
    use rand::{Rng, RngCore, SeedableRng};
    let mut random = rand::rngs::StdRng::seed_from_u64(7);
    let good = wire(WireAction::Deny, fields().into_iter().map(|(_, positive, ..)| positive).collect());
    let good = good.encode_to_vec();
    let (mut accepted, mut refused) = (0, 0);
    for round in 0..20_000 {
        let mut bytes = good.clone();
        match round % 3 {
            0 => bytes.truncate(random.random_range(0..good.len())),
            1 => {
                for _ in 0..random.random_range(1..8) {
                    let at = random.random_range(0..bytes.len());
                    bytes[at] = random.random();
                }
            }
            _ => {
                bytes = vec![0; random.random_range(0..512)];
                random.fill_bytes(&mut bytes);
            }
        }
        match Policy::decode(&bytes) {
            Ok(policy) => {
                policy.matches(&web());
                accepted += 1;
            }
            Err(_) => refused += 1,
        }
    }
    assert!(accepted > 0 && refused > 10_000, "{accepted} accepted, {refused} refused");
}

#[test]
fn a_verdict_names_the_policies_to_ask_about() {
    use WireAction::{Allow, Deny};
    let explained = |policies: Vec<Authorization>| {
        let policies = policies.into_iter().map(policy).collect();
        crate::PolicySet::new(policies, vec![]).evaluate(&web()).explanation()
    };
    assert_eq!(explained(vec![]), None);
    assert_eq!(explained(vec![named("a", Allow, true)]).as_deref(), Some("shop/a"));
    assert_eq!(explained(vec![named("d", Deny, true), named("a", Allow, true)]).as_deref(), Some("shop/d"));
    let unmet: Vec<_> = ["a", "b", "c", "d", "e", "f"].map(|name| named(name, Allow, false)).into();
    assert_eq!(explained(unmet[..2].to_vec()).as_deref(), Some("shop/a,shop/b"));
    assert_eq!(explained(unmet).as_deref(), Some("shop/a,shop/b,shop/c,shop/d,+2"));
}
