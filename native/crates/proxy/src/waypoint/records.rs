//! What is told of requests when they are over, and the labels of both ends.
use super::Waypoint;
use super::endpoint::Endpoint;
use super::world::Client;
use crate::labels;
use http::Version;
use meltemi_http::{Cause, Exchange};
use meltemi_state::Workload;
use meltemi_telemetry::{
    Reporter, RequestLabels, RequestProtocol, RequestRecord, RequestTotals, SecurityPolicy, TrafficLabels,
    WorkloadLabels,
};
use meltemi_tunnel::Baggage;
use meltemi_types::Identity;
use std::sync::Arc;
use std::time::SystemTime;

pub(super) fn traffic(client: &Client, endpoint: Option<&Endpoint>) -> TrafficLabels {
    let service = endpoint.and_then(|endpoint| endpoint.service.as_ref()).or(client.service.as_ref());
    let destination = endpoint.map(|endpoint| &endpoint.workload).or(client.workload.as_ref());
    TrafficLabels {
        reporter: Reporter::Waypoint,
        source: client.source_labels.clone(),
        source_principal: Some(client.identity.uri().into()),
        destination: destination.map(|workload| labels::of_workload(workload)),
        destination_principal: destination.map(|workload| workload.identity.uri().into()),
        destination_service: service.map(|service| labels::of_service(service)),
        security_policy: SecurityPolicy::MutualTls,
    }
}

/// As discovery knows the caller; else as its node says, where that does not contradict what was proven.
pub(super) fn source(
    known: Option<&Workload>,
    headers: &http::HeaderMap,
    proven: &Identity,
) -> Option<Arc<WorkloadLabels>> {
    if let Some(workload) = known {
        return Some(labels::of_workload(workload));
    }
    let claimed = Baggage::parse(headers);
    let fits = !claimed.workload.is_empty() && claimed.namespace == proven.namespace();
    fits.then(|| labels::of_baggage(&claimed))
}

/// The caller's pod, where discovery knows it (its own services' pods); else its workload, as its node says.
pub(super) fn source_name(client: &Client) -> Option<Arc<str>> {
    let claimed = || client.source_labels.as_ref().map(|source| source.workload.clone());
    client.source.as_ref().map(|workload| workload.name.clone()).or_else(claimed)
}

/// Counts a request and writes its record.
pub(super) fn request(waypoint: &Waypoint, exchange: &Exchange<Waypoint>) {
    let client = &exchange.downstream;
    let endpoint = exchange.endpoint.as_ref().map(|http| &http.endpoint);
    let labels = traffic(client, endpoint);
    for policy in &exchange.reported {
        waypoint.telemetry.metrics().policy_match(policy, "audit");
    }
    if let Some(policy) = &exchange.policy {
        let denied = [Cause::PolicyDenied, Cause::ExternalDenied, Cause::ExternalFailed];
        let action =
            if exchange.cause.is_some_and(|cause| denied.contains(&cause)) { "deny" } else { "allow" };
        waypoint.telemetry.metrics().policy_match(policy, action);
    }
    let duration = exchange.begun.elapsed();
    let totals = RequestTotals {
        duration,
        request_bytes: exchange.request_bytes(),
        response_bytes: exchange.response_bytes,
    };
    let log = waypoint.telemetry.access_log();
    if log.is_on() && waypoint.logging.wants(exchange.status) {
        let failed = exchange.cause.is_some();
        let destination = labels.destination.as_ref();
        log.write_request(RequestRecord {
            time: SystemTime::now(),
            level: if failed { "error" } else { "info" },
            scope: "access",
            message: if failed { "request failed" } else { "request complete" },
            direction: Reporter::Waypoint.as_str(),
            protocol: match (exchange.grpc, exchange.version) {
                (true, _) => "grpc",
                (false, Version::HTTP_2) => "http/2",
                (false, _) => "http/1.1",
            },
            method: exchange.method.to_string(),
            authority: exchange.authority.as_ref().map(ToString::to_string),
            path: exchange.path.clone(),
            status: (exchange.status > 0).then_some(exchange.status),
            grpc_status: exchange.grpc_status,
            src_addr: client.address,
            src_workload: source_name(client),
            src_namespace: Some(client.identity.namespace().into()),
            src_identity: labels.source_principal.clone(),
            dst_addr: endpoint.map(|endpoint| endpoint.address),
            dst_service: labels.destination_service.as_ref().map(|service| service.hostname.clone()),
            dst_workload: endpoint.map(|endpoint| endpoint.workload.name.clone()),
            dst_namespace: destination.map(|workload| workload.namespace.clone()),
            bytes_sent: totals.response_bytes,
            bytes_received: totals.request_bytes,
            duration_ms: duration,
            route: exchange.route.clone(),
            rule: exchange.rule.clone(),
            attempts: exchange.attempts,
            policy: exchange.policy.clone(),
            dry_run_policies: exchange.reported.clone(),
            reason: exchange.cause.map(Cause::as_str),
            error: exchange.error.clone(),
        });
    }
    let labels = RequestLabels {
        traffic: labels,
        protocol: if exchange.grpc { RequestProtocol::Grpc } else { RequestProtocol::Http },
        status: exchange.status,
        grpc_status: exchange.grpc_status.filter(|_| exchange.grpc),
        flags: exchange.cause.map_or("-", Cause::as_str),
    };
    waypoint.requests.count(labels, totals);
}
