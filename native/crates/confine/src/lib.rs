//! Least privilege for the node's processes.
//!
//! `daemonset/*.json` say what each container of the node may do, in the words of a pod's manifest. Two ways
//! make it so:
//! - [`Container::confine`] puts it on the calling process before it becomes the program, as a container
//!   runtime does: capabilities, read-only root, no-new-privs, the seccomp profile. `meltemi-confine` is that
//!   as a command, for machines without a container runtime and for the tests;
//! - [`narrow_data_plane`] is called by the data plane itself once it has started, and takes away what only a
//!   start needs, and what it has been given beyond its list, however it was started; [`narrow_waypoint`] is the
//!   same for a waypoint, which keeps no capability at all.

mod capabilities;
mod container;
mod error;
mod narrow;
mod root;
mod seccomp;

pub use capabilities::{Kept, held};
pub use container::{Container, Security};
pub use error::ConfineError;
pub use narrow::{Narrowed, narrow_data_plane, narrow_waypoint};
pub use seccomp::Profile;
