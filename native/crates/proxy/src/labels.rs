//! Metric labels and headers of what discovery knows.
use http::HeaderValue;
use meltemi_state::{Service, Workload, WorkloadKind};
use meltemi_telemetry::{ServiceLabels, WorkloadLabels};
use meltemi_tunnel::Baggage;
use std::sync::Arc;

pub(crate) fn of_workload(workload: &Workload) -> Arc<WorkloadLabels> {
    Arc::new(WorkloadLabels {
        workload: workload.workload_name.clone(),
        namespace: workload.namespace.clone(),
        app: workload.canonical_name.clone(),
        version: workload.canonical_revision.clone(),
        canonical_service: workload.canonical_name.clone(),
        canonical_revision: workload.canonical_revision.clone(),
        cluster: workload.cluster_id.clone(),
        region: workload.locality.region.clone(),
        zone: workload.locality.zone.clone(),
    })
}

/// What a peer's node says of its pod.
pub(crate) fn of_baggage(baggage: &Baggage) -> Arc<WorkloadLabels> {
    let text = |value: &String| Arc::<str>::from(value.as_str());
    Arc::new(WorkloadLabels {
        workload: text(&baggage.workload),
        namespace: text(&baggage.namespace),
        app: text(&baggage.service),
        version: text(&baggage.revision),
        canonical_service: text(&baggage.service),
        canonical_revision: text(&baggage.revision),
        cluster: text(&baggage.cluster),
        region: text(&baggage.region),
        zone: text(&baggage.zone),
    })
}

pub(crate) fn of_service(service: &Service) -> Arc<ServiceLabels> {
    Arc::new(ServiceLabels {
        hostname: service.hostname.clone(),
        name: service.name.clone(),
        namespace: service.namespace.clone(),
    })
}

/// What a pod says of itself to the peer of its tunnels.
pub(crate) fn baggage(workload: &Workload) -> Option<HeaderValue> {
    Baggage {
        cluster: workload.cluster_id.to_string(),
        namespace: workload.namespace.to_string(),
        workload_type: match workload.kind {
            WorkloadKind::Deployment => "deployment",
            WorkloadKind::Cronjob => "cronjob",
            WorkloadKind::Pod => "pod",
            WorkloadKind::Job => "job",
        },
        workload: workload.workload_name.to_string(),
        service: workload.canonical_name.to_string(),
        revision: workload.canonical_revision.to_string(),
        region: workload.locality.region.to_string(),
        zone: workload.locality.zone.to_string(),
    }
    .header()
}
