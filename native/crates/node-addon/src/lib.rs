//! What Node cannot do by itself: descriptors and peer credentials over Unix sockets, and work inside
//! network namespaces. The interface and its meaning are in `src/platform/native.d.ts`.
//!
//! Rules that hold in every file here:
//! - no call waits on Node's event loop or on one of libuv's threads: waiting is done by the addon's own
//!   tokio worker, or by a thread that lives for one call;
//! - a thread that entered another namespace ends afterwards, it is never used again;
//! - descriptors are close-on-exec from the moment they exist, and owned by exactly one `OwnedFd` until
//!   they are handed to JavaScript.

// napi exports nothing under `cfg(test)`; the addon is tested in Node (test/contract/native).
#![cfg_attr(test, allow(dead_code))]

mod bind;
mod bpf;
mod descriptor;
mod error;
mod message;
mod netns;
mod netns_glance;
mod netns_watch;
mod packet;
mod peer;
mod process;
mod routing;
mod run;
mod stream;

use napi_derive::module_init;

/// One worker is plenty for sockets that carry control messages; signals stay with Node.
#[module_init]
fn init() {
    let built = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("meltemi-addon")
        .enable_io()
        .enable_time()
        .build();
    // Without it napi makes its default runtime at first use, which differs only in size.
    if let Ok(runtime) = built {
        napi::bindgen_prelude::create_custom_tokio_runtime(runtime);
    }
}
