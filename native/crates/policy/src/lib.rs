//! L4 authorization: policies compiled from what discovery brings, and their evaluation.
//!
//! Stands between state, which knows the policies of a workload, and the proxy's inbound side,
//! which knows the connection. Pure: no I/O, no clock.
//!
//! Semantics are ambient's, save where ambient would fail open. Those places are:
//! 1. A field that cannot be understood (a match of no type, a port above 65535, a bad CIDR, an
//!    unknown extension) refuses the policy instead of being dropped from it.
//! 2. A match without any field matches in DENY and AUDIT, and never in ALLOW. It stands for a rule
//!    whose L7 part was left out.
//! 3. A connection without identity never matches any identity field of an ALLOW policy, `not_`
//!    forms included. In DENY and AUDIT it matches the `not_` forms, as in ambient: that is how
//!    STRICT mutual TLS is expressed.

mod decode;
mod evaluate;
mod matching;
mod policy;

pub use decode::PolicyError;
pub use evaluate::{Decision, DenyReason, Effect, PolicySet, Reported, Verdict, evaluate};
pub use policy::{Action, ConnectionFacts, Match, Policy, Rule, Scope, ServiceAccount, StringMatch};

#[cfg(test)]
mod tests;
