//! Runs a test again in user, network and mount namespaces of its own.
use std::process::Command;

const INSIDE: &str = "MELTEMI_TEST_SANDBOX";

/// Runs `body` inside; `test` is the test's full name in its binary.
pub fn run<F: Future<Output = ()>>(test: &str, body: impl FnOnce() -> F) {
    if std::env::var_os(INSIDE).is_some() {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(body());
        return;
    }
    let status = Command::new("unshare")
        .args([
            "--user",
            "--map-root-user",
            "--net",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
        ])
        .arg(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .status()
        .expect("unshare (util-linux) is needed");
    assert!(status.success(), "{test} failed inside its sandbox: {status}");
}

/// Runs a script in the sandbox's own network namespace.
pub fn shell(script: &str) {
    let output = Command::new("sh").args(["-ec", script]).output().unwrap();
    assert!(output.status.success(), "script failed: {script}\n{}", String::from_utf8_lossy(&output.stderr));
}
