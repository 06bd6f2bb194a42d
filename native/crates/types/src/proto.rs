//! Generated code, one module per protobuf package, nested as the packages are.
#![allow(clippy::all, unreachable_pub, missing_debug_implementations)]

pub mod envoy {
    pub mod service {
        pub mod discovery {
            pub mod v3 {
                tonic::include_proto!("envoy.service.discovery.v3");
            }
        }
    }
}
pub mod istio {
    pub mod workload {
        tonic::include_proto!("istio.workload");
        pub mod zds {
            tonic::include_proto!("istio.workload.zds");
        }
    }
    pub mod security {
        tonic::include_proto!("istio.security");
    }
    pub mod v1 {
        pub mod auth {
            tonic::include_proto!("istio.v1.auth");
        }
    }
}
pub mod meltemi {
    pub mod v1 {
        tonic::include_proto!("meltemi.v1");
    }
}
