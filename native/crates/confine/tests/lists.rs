//! The node's lists are understood, and nothing else is.

#![allow(clippy::unwrap_used)]

use meltemi_confine::{Container, Profile};
use std::path::{Path, PathBuf};

fn daemonset() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../daemonset")
}

fn text(path: &str) -> String {
    std::fs::read_to_string(daemonset().join(path)).unwrap()
}

#[test]
fn both_containers_and_their_profiles_are_understood() {
    for name in ["agent", "data-plane"] {
        let container = Container::parse(name, &text(&format!("{name}.json"))).unwrap();
        container.kept().unwrap();
        let profile = container.security_context.seccomp_profile.localhost_profile;
        Profile::read(&daemonset().join("seccomp").join(profile)).unwrap();
    }
}

fn refused(change: impl FnOnce(&mut serde_json::Value)) -> String {
    let mut container: serde_json::Value = serde_json::from_str(&text("agent.json")).unwrap();
    change(&mut container);
    Container::parse("agent", &container.to_string()).unwrap_err().to_string()
}

#[test]
fn a_container_that_is_granted_more_is_refused() {
    let security = "securityContext";
    assert!(refused(|file| file[security]["privileged"] = true.into()).contains("privileged"));
    assert!(
        refused(|file| file[security]["allowPrivilegeEscalation"] = true.into())
            .contains("allowPrivilegeEscalation")
    );
    assert!(
        refused(|file| file[security]["capabilities"]["drop"] = serde_json::json!([]))
            .contains("capabilities.drop")
    );
    assert!(
        refused(|file| file[security]["capabilities"]["add"] = serde_json::json!(["NET_ADMIN"]))
            .contains("capabilityReasons")
    );
    assert!(refused(|file| file[security]["hostUsers"] = true.into()).contains("hostUsers"));
}

#[test]
fn a_capability_that_does_not_exist_is_named() {
    let text = text("agent.json").replace("SYS_PTRACE", "SYS_PTRACER");
    let error = Container::parse("agent", &text).unwrap().kept().unwrap_err();
    assert!(error.to_string().contains("SYS_PTRACER"), "{error}");
}

#[test]
fn a_profile_that_lets_through_by_default_is_refused() {
    let text = text("seccomp/meltemi/agent.json").replacen("SCMP_ACT_ERRNO", "SCMP_ACT_ALLOW", 1);
    assert!(Profile::parse("agent", &text).unwrap_err().to_string().contains("defaultAction"));
}

#[test]
fn what_is_not_understood_of_a_profile_is_refused() {
    let text = text("seccomp/meltemi/agent.json");
    for (from, to) in
        [("SCMP_CMP_MASKED_EQ", "SCMP_CMP_GT"), ("\"comment\"", "\"includes\""), ("\"errnoRet\": 38,", "")]
    {
        assert!(text.contains(from), "{from}");
        Profile::parse("agent", &text.replace(from, to)).unwrap_err();
    }
}
