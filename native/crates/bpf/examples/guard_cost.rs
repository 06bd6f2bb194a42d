//! What the guard costs bulk TCP between two pods: rounds with and without it, interleaved, on one connection
//! of registered sockets. Prints GB/s of each round, the medians and their ratio. Needs root; all of it
//! happens in namespaces of its own. Arguments: rounds [5], seconds of each [2].
#![allow(clippy::unwrap_used)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::io::{Read, Write};
use std::time::{Duration, Instant};
use support::sandbox::{self, shell};
use support::{Pod, SOON, at, open, sockets};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // Inside its sandbox the program is started as a test would be.
    let number = |index: usize, default: u64| {
        arguments.get(index).and_then(|text| text.parse().ok()).unwrap_or(default)
    };
    let (rounds, seconds) = (number(0, 5), number(1, 2));
    sandbox::run("guard_cost", || measure(rounds, Duration::from_secs(seconds)));
}

fn measure(rounds: u64, time: Duration) {
    let (a, b) = (Pod::new("a", 1), Pod::new("b", 2));
    let node = open();
    let sockets = sockets();
    let listener = b.proxy_listen(&sockets, at(b.v4, 15008));
    let mut client = a.proxy_connect(&sockets, at(b.v4, 15008), SOON).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    std::thread::spawn(move || {
        let mut buffer = vec![0; 1 << 20];
        while server.read(&mut buffer).is_ok_and(|count| count > 0) {}
    });
    let data = vec![1; 1 << 20];
    let mut round = |name: &str| {
        let (start, mut sent) = (Instant::now(), 0);
        while start.elapsed() < time {
            client.write_all(&data).unwrap();
            sent += data.len();
        }
        let rate = sent as f64 / start.elapsed().as_secs_f64() / 1e9;
        println!("{name}: {rate:.3} GB/s");
        rate
    };
    round("warm-up");
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        without.push(round("without"));
        a.guard(&node);
        b.guard(&node);
        with.push(round("with"));
        print!("{}", shell("bpftool prog show | grep -E 'guard_(from|to)_pod' | grep run_time || true"));
        node.detach(a.inode).unwrap();
        node.detach(b.inode).unwrap();
    }
    let [without, with] = [without, with].map(|mut rates| {
        rates.sort_by(f64::total_cmp);
        rates[rates.len() / 2]
    });
    println!("medians: without {without:.3}, with {with:.3} GB/s; ratio {:.4}", with / without);
    node.dispose().unwrap();
}
