//! The HTTP core of waypoints (and, later, gateways).
//!
//! A request passes, in this order: [`hygiene`] (what it is, in one reading only), [`path`] (the path that
//! routes, policies and the backend all see), [`authentication`] of its tokens, `external` authorizers where policies
//! want them asked, [`authorization`] of the original caller, [`table`] and
//! [`matcher`] (which rule), [`filters`], the weighted backend, `upstream` (a pooled connection), and back.
//! Sockets, endpoints and identities belong to the caller of this crate.

pub mod authentication;
pub mod authorization;
mod balance;
mod body;
mod core;
pub mod decode;
mod exchange;
mod external;
pub mod filters;
pub mod hygiene;
pub mod matcher;
pub mod path;
mod reply;
pub mod route;
mod serve;
mod settings;
pub mod table;
pub mod text;
mod upstream;
mod world;

pub use balance::{Balance, TrafficPolicy};
pub use body::{BodyError, RequestBody, ResponseBody};
pub use core::Core;
pub use exchange::Exchange;
pub use reply::{Cause, REFUSED, Reply};
pub use serve::serve;
pub use settings::Settings;
pub use upstream::PoolLimits;
pub use world::{Candidate, Candidates, Downstream, Mirrored, UpstreamError, Wanted, World};
