//! The guard and the redirection in the kernel (docs/capture.md, native/bpf).
//!
//! The agent has a [`Node`]: it loads the programs, attaches them to pods and reads what they count. All of
//! it is pinned below the node's directory, so it stays in force when the agent ends. The data plane has
//! [`Sockets`], in which it vouches for its own; without the feature `programs` there is nothing else.

mod abi;
#[cfg(feature = "programs")]
mod bpffs;
#[cfg(feature = "programs")]
mod clsact;
mod error;
#[cfg(all(test, feature = "programs"))]
mod frames;
#[cfg(feature = "programs")]
mod inside;
#[cfg(feature = "programs")]
mod interfaces;
#[cfg(feature = "programs")]
mod layout;
#[cfg(feature = "programs")]
pub mod netlink;
#[cfg(feature = "programs")]
mod node;
mod pins;
#[cfg(feature = "programs")]
mod probe;
#[cfg(feature = "programs")]
mod settings;
mod sockets;
mod sys;
#[cfg(feature = "programs")]
mod template;
#[cfg(feature = "programs")]
mod walk;
#[cfg(feature = "programs")]
mod wanted;

pub use abi::{ListenerRole, MARK_CARRIED, MARK_DIRECT, REASONS};
pub use error::BpfError;
#[cfg(feature = "programs")]
pub use interfaces::{HostEnd, Interface};
#[cfg(feature = "programs")]
pub use node::{GuardAt, Node, PodPrograms};
#[cfg(feature = "programs")]
pub use probe::{Missing, probe};
#[cfg(feature = "programs")]
pub use settings::{PodSettings, Udp};
pub use sockets::{PodListeners, Sockets};
