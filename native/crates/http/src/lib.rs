//! The HTTP core of waypoints (and, later, gateways).
//!
//! A request passes, in this order: [`hygiene`] (what it is, in one reading only), [`path`] (the path that
//! routes, policies and the backend all see), [`authorization`] of the original caller, [`table`] and
//! [`matcher`] (which rule), [`filters`], the weighted backend, `upstream` (a pooled connection), and back.
//! Sockets, endpoints and identities belong to the caller of this crate.

pub mod authorization;
pub mod decode;
pub mod filters;
pub mod matcher;
pub mod path;
pub mod route;
pub mod table;
pub mod text;
