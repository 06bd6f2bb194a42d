//! Runs the binary as its users do.
#![allow(dead_code, reason = "each test file uses its part")]

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};

use serde_json::Value;

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_meltemi-testkit");

/// A command that runs until its end or its owner's.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the program starts");
        let lines = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, lines }
    }

    /// The next line, as JSON; null at the end.
    pub(crate) fn line(&mut self) -> Value {
        let mut text = String::new();
        self.lines.read_line(&mut text).expect("readable");
        if text.is_empty() { Value::Null } else { serde_json::from_str(&text).expect("a line is JSON") }
    }

    pub(crate) fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        nix::sys::signal::kill(pid, signal).expect("it runs");
    }

    /// SIGTERM, and the last line.
    pub(crate) fn stop(mut self) -> Value {
        self.signal(nix::sys::signal::Signal::SIGTERM);
        self.last()
    }

    pub(crate) fn last(&mut self) -> Value {
        let mut last = Value::Null;
        loop {
            match self.line() {
                Value::Null => return last,
                line => last = line,
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn testkit(args: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.args(args);
    command
}

/// A server on a free port of loopback, and its address.
pub(crate) fn serve(args: &[&str]) -> (Running, String) {
    let mut server = Running::start(testkit(&["serve"]).args(args).args(["--listen", "127.0.0.1:0"]));
    let ready = server.line();
    assert_eq!(ready["ready"], true);
    let address = ready["listening"].as_str().expect("an address").to_owned();
    (server, address)
}

/// Runs to the end: the last line, and the exit code.
pub(crate) fn run(args: &[&str]) -> (Value, i32) {
    let output = testkit(args).stderr(Stdio::inherit()).output().expect("the program starts");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let last = text.lines().last().map_or(Value::Null, |line| serde_json::from_str(line).expect("JSON"));
    (last, output.status.code().expect("no signal"))
}

/// Runs a shell script beside a capture of `lo`, and waits for its report. `$kit` is the binary, `$capture` the
/// capture's process, which the script ends.
pub(crate) fn captured(capture: &str, traffic: &str) -> serde_json::Value {
    let script = format!(
        "set -e; kit={BINARY}; ip link set lo up
        : > report; $kit capture --interface lo {capture} > report & capture=$!
        until grep -q ready report; do sleep 0.02; done
        {traffic}
        wait $capture; cat report"
    );
    let directory = tempfile::tempdir().expect("a directory");
    let path = format!("{}:/usr/sbin:/sbin", env!("PATH"));
    let mut running = Running::start(
        Command::new("unshare")
            .args(["-Urnpf", "--kill-child", "sh", "-c", &script])
            .env("PATH", path)
            .current_dir(directory.path()),
    );
    running.last()
}
