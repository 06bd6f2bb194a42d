//! One endpoint: what is under way to it, and how it has been answering.

use super::Health;
use super::bounds::Place;
use super::policy::Ejection;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// An endpoint that cannot be connected to is avoided for a second, then for twice as long each time.
const FIRST_AVOIDANCE_MS: u64 = 1_000;
const LONGEST_AVOIDANCE_MS: u64 = 30_000;
/// No ejection is longer, unless the policy's first one is.
const LONGEST_EJECTION_MS: u64 = 300_000;

#[derive(Debug, Default)]
pub(super) struct Member {
    /// Requests under way.
    active: AtomicU32,
    errors: AtomicU32,
    gateway_errors: AtomicU32,
    /// Connections in a row that were not had.
    unreached: AtomicU32,
    ejections: AtomicU32,
    /// Avoided until then, in the balance's milliseconds.
    until_ms: AtomicU64,
}

impl Member {
    pub(super) fn active(&self) -> u32 {
        self.active.load(Relaxed)
    }

    pub(super) fn is_ejected(&self, now_ms: u64) -> bool {
        self.until_ms.load(Relaxed) > now_ms
    }

    pub(super) fn until_ms(&self) -> u64 {
        self.until_ms.load(Relaxed)
    }

    /// Counts; true where the endpoint has failed too often.
    pub(super) fn count(&self, health: Health, ejection: Option<&Ejection>) -> bool {
        let forget = |count: &AtomicU32| {
            // Written only when it changes, so that requests on several cores do not contend.
            if count.load(Relaxed) != 0 {
                count.store(0, Relaxed);
            }
        };
        if health != Health::Unreached {
            forget(&self.unreached);
        }
        let Some(ejection) = ejection else { return false };
        let exceeds = |count: &AtomicU32, limit: u32| count.fetch_add(1, Relaxed) + 1 >= limit && limit > 0;
        match health {
            Health::Good => {
                forget(&self.errors);
                forget(&self.gateway_errors);
                false
            }
            Health::Error => {
                forget(&self.gateway_errors);
                exceeds(&self.errors, ejection.consecutive_errors)
            }
            Health::GatewayError | Health::Unreached => {
                let gateway = exceeds(&self.gateway_errors, ejection.consecutive_gateway_errors);
                exceeds(&self.errors, ejection.consecutive_errors) || gateway
            }
        }
    }

    /// Ejects; gives until when.
    pub(super) fn eject(&self, ejection: &Ejection, now_ms: u64) -> u64 {
        let since = now_ms.saturating_sub(self.until_ms.load(Relaxed));
        let forgiven = u32::try_from(since / ejection.interval_ms.max(1)).unwrap_or(u32::MAX);
        let times = self.ejections.load(Relaxed).saturating_sub(forgiven) + 1;
        self.ejections.store(times, Relaxed);
        self.errors.store(0, Relaxed);
        self.gateway_errors.store(0, Relaxed);
        let longest = LONGEST_EJECTION_MS.max(ejection.base_ms);
        self.avoid_until(now_ms + ejection.base_ms.saturating_mul(times.into()).min(longest))
    }

    /// Avoids an endpoint that was not reached; gives until when. Attempts that fail together are one failure.
    pub(super) fn avoid(&self, now_ms: u64) -> u64 {
        if self.is_ejected(now_ms) {
            return self.until_ms();
        }
        let before = self.unreached.fetch_add(1, Relaxed).min(16);
        self.avoid_until(now_ms + (FIRST_AVOIDANCE_MS << before).min(LONGEST_AVOIDANCE_MS))
    }

    fn avoid_until(&self, until_ms: u64) -> u64 {
        self.until_ms.fetch_max(until_ms, Relaxed);
        until_ms
    }
}

/// A request under way to an endpoint, until it is dropped.
#[derive(Debug)]
pub(crate) struct Usage {
    member: Arc<Member>,
    _request: Option<Place>,
}

impl Usage {
    pub(super) fn new(member: Arc<Member>, request: Option<Place>) -> Self {
        member.active.fetch_add(1, Relaxed);
        Self { member, _request: request }
    }
}

impl Drop for Usage {
    fn drop(&mut self) {
        self.member.active.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EJECTION: Ejection = Ejection {
        consecutive_errors: 3,
        consecutive_gateway_errors: 2,
        interval_ms: 1_000,
        base_ms: 500,
        max_percent: 10,
        min_health_percent: 0,
    };

    #[test]
    fn errors_in_a_row_are_too_many_sooner_or_later() {
        let member = Member::default();
        let count = |health| member.count(health, Some(&EJECTION));
        assert!(!count(Health::Error) && !count(Health::Error) && !count(Health::Good));
        assert!(!count(Health::Error) && !count(Health::Error) && count(Health::Error));
        assert!(!count(Health::Good));
        assert!(!count(Health::GatewayError) && !count(Health::Error), "a 500 is no gateway's error");
        assert!(count(Health::GatewayError), "the third error");
        member.count(Health::Good, Some(&EJECTION));
        assert!(!count(Health::Unreached) && count(Health::GatewayError));
        assert!(!member.count(Health::Error, None));
    }

    #[test]
    fn ejections_grow_and_are_forgiven() {
        let member = Member::default();
        assert_eq!(member.eject(&EJECTION, 10_000), 10_500);
        assert!(member.is_ejected(10_499) && !member.is_ejected(10_500));
        assert_eq!(member.eject(&EJECTION, 10_600), 11_600);
        assert_eq!(member.eject(&EJECTION, 11_700), 13_200);
        // Two intervals without an ejection take two of three away.
        assert_eq!(member.eject(&EJECTION, 15_300), 16_300);
    }

    #[test]
    fn who_is_not_reached_is_avoided_longer_each_time() {
        let member = Member::default();
        assert_eq!(member.avoid(0), 1_000);
        assert_eq!(member.avoid(500), 1_000, "failed together");
        assert_eq!(member.avoid(1_000), 3_000);
        assert_eq!(member.avoid(3_000), 7_000);
        member.count(Health::Good, None);
        assert_eq!(member.avoid(7_000), 8_000);
    }
}
