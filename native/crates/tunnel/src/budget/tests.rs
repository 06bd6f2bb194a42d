use super::*;
use futures::task::noop_waker;

fn is_ended(share: &Share) -> bool {
    share.poll_ended(&mut Context::from_waker(&noop_waker())).is_ready()
}

#[test]
fn what_is_held_is_given_back() {
    let budget = Budget::new(1000);
    let mut share = budget.share();
    share.set(936, 1);
    assert_eq!(budget.held(), 1000);
    share.taken(926, 10, 0);
    assert_eq!(budget.held(), 10);
    drop(share);
    assert_eq!(budget.held(), 0);
}

#[test]
fn memory_is_scarce_from_half_and_no_more_below_a_quarter() {
    let budget = Budget::new(1000);
    let scarce = budget.scarce();
    let mut share = budget.share();
    share.set(500, 0);
    assert!(!*scarce.borrow());
    share.set(501, 0);
    assert!(*scarce.borrow());
    share.set(250, 0);
    assert!(*scarce.borrow());
    share.set(249, 0);
    assert!(!*scarce.borrow());
}

const M: usize = 1 << 20;

#[tokio::test(start_paused = true)]
async fn the_largest_that_waits_for_long_ends_whoever_grows() {
    let budget = Budget::new(10 * M);
    let (mut small, mut large, mut grows) = (budget.share(), budget.share(), budget.share());
    small.set(3 * M, 0);
    large.set(6 * M, 0);
    tokio::time::sleep(Duration::from_secs(2)).await;
    grows.set(2 * M, 0);
    tokio::task::yield_now().await;
    assert!(is_ended(&large) && !is_ended(&small) && !is_ended(&grows));
    drop(large);
    assert_eq!(budget.account.ending.load(Ordering::SeqCst), 0);
    assert_eq!(budget.held(), 5 * M);
}

#[tokio::test(start_paused = true)]
async fn it_is_not_needed_that_anybody_grows_again() {
    let budget = Budget::new(10 * M);
    let (mut small, mut large) = (budget.share(), budget.share());
    small.set(5 * M, 0);
    large.set(6 * M, 0);
    tokio::task::yield_now().await;
    assert!(!is_ended(&large), "it may be only slow");
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(is_ended(&large) && !is_ended(&small));
}

#[tokio::test(start_paused = true)]
async fn taking_a_byte_now_and_then_is_not_reading() {
    let budget = Budget::new(10 * M);
    let (mut trickles, mut reads) = (budget.share(), budget.share());
    for _ in 0..20 {
        trickles.set(9 * M, 0);
        reads.set(9 * M, 0);
        tokio::time::sleep(Duration::from_millis(100)).await;
        trickles.taken(1, 9 * M - 1, 0);
        reads.taken(9 * M, 0, 0);
    }
    reads.set(9 * M, 0);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(is_ended(&trickles) && !is_ended(&reads));
}

#[tokio::test(start_paused = true)]
async fn beyond_twice_the_limit_nothing_is_waited_for() {
    let budget = Budget::new(10 * M);
    let (mut small, mut large) = (budget.share(), budget.share());
    small.set(9 * M, 0);
    large.set(12 * M, 0);
    assert!(is_ended(&large) && !is_ended(&small));
}

#[test]
fn those_that_are_gone_are_not_kept() {
    let budget = Budget::new(1000);
    for _ in 0..10_000 {
        budget.share().set(1, 0);
    }
    assert!(budget.account.holders.lock().len() < 100);
}
