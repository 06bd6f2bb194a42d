//! Generates the wire types from `proto/`, without protoc.
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../proto");
    println!("cargo:rerun-if-changed={}", root.display());
    let files = [
        "envoy/service/discovery/v3/ads.proto",
        "istio/workload/workload.proto",
        "istio/security/authorization.proto",
        "istio/workload/zds/zds.proto",
        "istio/v1/auth/ca.proto",
        "meltemi/v1/extensions.proto",
        "meltemi/v1/keys.proto",
        "meltemi/v1/trust.proto",
        "meltemi/v1/waypoint.proto",
    ];
    let set = protox::compile(files, [&root])?;
    tonic_prost_build::configure().bytes(".istio").compile_fds(set)?;
    Ok(())
}
