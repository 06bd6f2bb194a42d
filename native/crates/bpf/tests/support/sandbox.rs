//! Runs a test again in network and mount namespaces of its own. Loading programs takes the machine's
//! root, also inside: a user namespace does not do.
use std::process::Command;

const INSIDE: &str = "MELTEMI_TEST_SANDBOX";

/// Runs `body` inside; `test` is the test's full name in its binary.
pub(crate) fn run(test: &str, body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        shell("mount -t tmpfs run /run && mkdir /run/netns && ip link set lo up");
        shell("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
        body();
        return;
    }
    if !nix::unistd::geteuid().is_root() {
        eprintln!("{test}: not run: needs root");
        return;
    }
    let status = Command::new("unshare")
        .args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .arg(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .status()
        .expect("unshare (util-linux) is needed");
    assert!(status.success(), "{test} failed inside its sandbox: {status}");
}

/// Runs a script in the sandbox's own network namespace.
pub(crate) fn shell(script: &str) -> String {
    let output = Command::new("sh").args(["-ec", script]).output().unwrap();
    assert!(output.status.success(), "script failed: {script}\n{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
