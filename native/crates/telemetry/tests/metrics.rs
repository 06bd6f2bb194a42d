//! The metrics that are not a connection's.

use std::sync::Arc;

use meltemi_telemetry::Metrics;

#[test]
fn names_and_labels_are_those_of_the_interface_page() {
    let metrics = Metrics::new("ztunnel", "test");
    metrics.peer_refused("proxy-admin");
    metrics.set_zds_workloads(4);
    metrics.set_xds_connected(true);
    metrics.xds_nack("type.googleapis.com/istio.workload.Address");
    metrics.certificate_request("ok");
    metrics.handshake_failure("expired");
    metrics.policy_match(&Arc::from("team/audit"), "audit");
    metrics.policy_match(&Arc::from("team/audit"), "audit");
    let text = metrics.text();
    for line in [
        "meltemi_peer_refused_total{socket=\"proxy-admin\"} 1",
        "meltemi_zds_workloads 4",
        "meltemi_xds_connected 1",
        "meltemi_xds_nacks_total{type=\"type.googleapis.com/istio.workload.Address\"} 1",
        "meltemi_certificate_requests_total{result=\"ok\"} 1",
        "meltemi_handshake_failures_total{reason=\"expired\"} 1",
        "meltemi_policy_matches_total{policy=\"team/audit\",action=\"audit\"} 2",
        "meltemi_access_records_dropped_total 0",
        "# TYPE meltemi_xds_connected gauge",
        "# TYPE meltemi_policy_matches_total counter",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in {text}");
    }
    metrics.set_xds_connected(false);
    assert!(metrics.text().contains("meltemi_xds_connected 0\n"));
}

#[test]
fn policies_beyond_the_bound_are_counted_together() {
    let metrics = Metrics::new("ztunnel", "test");
    for number in 0..2_100 {
        metrics.policy_match(&Arc::from(format!("team/p{number}")), "audit");
    }
    metrics.policy_match(&Arc::from("team/p0"), "audit");
    let text = metrics.text();
    assert!(text.contains("meltemi_policy_matches_total{policy=\"other\",action=\"audit\"} 100\n"));
    assert!(text.contains("meltemi_policy_matches_total{policy=\"team/p0\",action=\"audit\"} 2\n"));
}
