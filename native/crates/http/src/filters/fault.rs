//! Faults that a route asks for, so that callers can be tried: a delay, then an answer instead of the backend's.

use http::header::HeaderMap;
use http::{HeaderName, StatusCode};
use rand::Rng;
use std::time::Duration;

const DELAY: HeaderName = HeaderName::from_static("x-envoy-fault-delay-request");
const DELAY_SHARE: HeaderName = HeaderName::from_static("x-envoy-fault-delay-request-percentage");
const ABORT: HeaderName = HeaderName::from_static("x-envoy-fault-abort-request");
const ABORT_GRPC: HeaderName = HeaderName::from_static("x-envoy-fault-abort-grpc-request");
const ABORT_SHARE: HeaderName = HeaderName::from_static("x-envoy-fault-abort-request-percentage");
/// A request may not keep itself waiting for longer.
const LONGEST_ASKED_DELAY_MS: u64 = 60_000;

/// Shares are of a million requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub delay: Duration,
    pub delay_per_million: u32,
    pub abort: Option<Abort>,
    pub abort_per_million: u32,
    pub by_header: bool,
}

/// The answer instead of the backend's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Abort {
    pub status: StatusCode,
    /// Of a gRPC request; otherwise what stands for `status`.
    pub grpc_status: Option<u16>,
}

/// What befalls one request.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Drawn {
    pub delay: Option<Duration>,
    pub abort: Option<Abort>,
}

/// Whether it befalls this one, at a share of so many in a million.
pub(crate) fn befalls(per_million: u32, random: &mut impl Rng) -> bool {
    per_million >= 1_000_000 || (per_million > 0 && random.random_range(0..1_000_000) < per_million)
}

impl Fault {
    /// Takes the headers that ask for faults from the request, where they count.
    pub fn draw(&self, headers: &mut HeaderMap, random: &mut impl Rng) -> Drawn {
        let mut fault = self.clone();
        if self.by_header {
            let mut number = |name: HeaderName| headers.remove(name)?.to_str().ok()?.parse::<u32>().ok();
            let share = |percent: Option<u32>, most: u32| {
                percent.map_or(most, |percent| percent.saturating_mul(10_000).min(most))
            };
            if let Some(ms) = number(DELAY) {
                fault.delay = Duration::from_millis(u64::from(ms).min(LONGEST_ASKED_DELAY_MS));
            }
            fault.delay_per_million = share(number(DELAY_SHARE), self.delay_per_million);
            let status = number(ABORT).and_then(|code| u16::try_from(code).ok());
            let status = status.filter(|code| (200..600).contains(code));
            let grpc_status = number(ABORT_GRPC).and_then(|code| u16::try_from(code).ok());
            if status.is_some() || grpc_status.is_some() {
                let status = status.and_then(|code| StatusCode::from_u16(code).ok());
                let status = status.unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
                fault.abort = Some(Abort { status, grpc_status });
            }
            fault.abort_per_million = share(number(ABORT_SHARE), self.abort_per_million);
        }
        let delayed = !fault.delay.is_zero() && befalls(fault.delay_per_million, random);
        Drawn {
            delay: delayed.then_some(fault.delay),
            abort: fault.abort.filter(|_| befalls(fault.abort_per_million, random)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    fn fault() -> Fault {
        Fault {
            delay: Duration::from_millis(5),
            delay_per_million: 500_000,
            abort: Some(Abort { status: StatusCode::IM_A_TEAPOT, grpc_status: Some(9) }),
            abort_per_million: 100_000,
            by_header: false,
        }
    }

    #[test]
    fn faults_befall_their_shares() {
        let mut random = StdRng::seed_from_u64(1);
        let drawn: Vec<_> = (0..10_000).map(|_| fault().draw(&mut HeaderMap::new(), &mut random)).collect();
        let delayed = drawn.iter().filter(|drawn| drawn.delay.is_some()).count();
        let aborted = drawn.iter().filter(|drawn| drawn.abort.is_some()).count();
        assert!((4_800..5_200).contains(&delayed) && (900..1_100).contains(&aborted), "{delayed} {aborted}");
        let both = drawn.iter().filter(|drawn| drawn.delay.is_some() && drawn.abort.is_some()).count();
        assert!((420..580).contains(&both), "they are drawn apart: {both}");
    }

    fn asking(pairs: &[(HeaderName, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn headers_count_only_where_the_route_lets_them() {
        let mut random = StdRng::seed_from_u64(1);
        let asked = [(DELAY, "70"), (ABORT, "429")];
        let mut headers = asking(&asked);
        let never = Fault { delay_per_million: 0, abort_per_million: 0, ..fault() };
        assert_eq!(never.draw(&mut headers, &mut random), Drawn::default());
        assert_eq!(headers.len(), 2, "they mean nothing here");
        let all = 1_000_000;
        let on = Fault { by_header: true, delay_per_million: all, abort_per_million: all, ..fault() };
        let drawn = on.draw(&mut headers, &mut random);
        assert_eq!(drawn.delay, Some(Duration::from_millis(70)));
        let abort = Abort { status: StatusCode::TOO_MANY_REQUESTS, grpc_status: None };
        assert_eq!(drawn.abort, Some(abort));
        assert!(headers.is_empty());
        // The route's share is the most that a request can ask for.
        let none = Fault { abort_per_million: 0, ..on.clone() };
        let mut headers = asking(&[(ABORT, "500"), (ABORT_SHARE, "100")]);
        assert_eq!(none.draw(&mut headers, &mut random).abort, None);
        let mut headers = asking(&[(DELAY_SHARE, "0"), (ABORT_SHARE, "0")]);
        assert_eq!(on.draw(&mut headers, &mut random), Drawn::default());
    }
}
