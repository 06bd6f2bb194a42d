//! Applications that do not read cost the process no more than its budget.
#![allow(clippy::unwrap_used, reason = "a test")]
mod support;
use meltemi_tunnel::{Budget, Limits};
use support::{Mesh, application, soon};
use tokio::io::AsyncWriteExt;

const LIMIT: usize = 8 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_that_stall_hold_no_more_than_the_budget() {
    let app = application(|mut socket| async move {
        let block = vec![1; 64 << 10];
        while socket.write_all(&block).await.is_ok() {}
    })
    .await;
    let budget = Budget::new(LIMIT);
    let mesh = Mesh::start(Limits { budget: budget.clone(), ..Limits::default() }).await;
    // Their windows could hold 160 MiB.
    let mut stalled = Vec::new();
    for _ in 0..40 {
        stalled.push(mesh.connect(app).await);
    }
    soon("stall", async {
        while budget.held() <= LIMIT / 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    // Each end sends as much as it is let: what is held is looked at until nothing has come for a while.
    let (mut most, mut last, mut quiet) = (0, 0, 0);
    while quiet < 20 {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        let held = budget.held();
        quiet = if held == last { quiet + 1 } else { 0 };
        (most, last) = (most.max(held), held);
    }
    assert!(most < 5 * LIMIT, "{most} bytes were held");
    drop(stalled);
    soon("release", async {
        while budget.held() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
