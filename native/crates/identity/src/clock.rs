//! Time and chance as arguments, so that rotation can be tested without waiting for it.

use std::fmt::Debug;
use std::time::{Duration, SystemTime};

use rand::Rng as _;

/// The wall clock that certificates are measured with.
pub trait Clock: Debug + Send + Sync {
    fn now(&self) -> SystemTime;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }
}

/// The source of spread, so that certificates made together are not renewed together.
pub trait Jitter: Debug + Send + Sync {
    /// Evenly spread in [0, 1).
    fn fraction(&self) -> f64;
}

/// The process's random numbers.
#[derive(Clone, Copy, Debug, Default)]
pub struct RandomJitter;

impl Jitter for RandomJitter {
    fn fraction(&self) -> f64 {
        rand::rng().random()
    }
}

/// Half of `life`, plus or minus a tenth of it.
pub(crate) fn renewal_age(life: Duration, jitter: &dyn Jitter) -> Duration {
    life.mul_f64(0.4 + 0.2 * jitter.fraction().clamp(0.0, 1.0))
}

/// The wait after `failures` failed requests in a row (at least one): doubled each time, at most `most`, of which
/// a random half is taken away.
pub(crate) fn backoff(failures: u32, most: Duration, jitter: &dyn Jitter) -> Duration {
    const FIRST: Duration = Duration::from_millis(250);
    let doubled = FIRST.saturating_mul(1 << failures.saturating_sub(1).min(16));
    doubled.min(most).mul_f64(0.5 + 0.5 * jitter.fraction().clamp(0.0, 1.0))
}
