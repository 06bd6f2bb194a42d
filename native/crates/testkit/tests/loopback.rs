//! Servers, clients and load against each other on loopback.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use nix::sys::signal::Signal;
use support::{Running, run, serve, testkit};

fn raw_http(address: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn http_server_tells_who_asked_what() {
    let (_server, address) = serve(&["http", "--name", "alpha"]);
    let request = "POST /a/b?c=d HTTP/1.1\r\nhost: h\r\nx-test: 1\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello";
    let answer = raw_http(&address, request);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let told: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(told["server"], "alpha");
    assert_eq!(told["method"], "POST");
    assert_eq!(told["path"], "/a/b?c=d");
    assert_eq!(told["bytes"], 5);
    assert_eq!(told["headers"]["x-test"], "1");
    assert!(told["client"].as_str().unwrap().starts_with("127.0.0.1:"));
    let sized = raw_http(&address, "GET /echo?size=70000 HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n");
    assert_eq!(sized.split_once("\r\n\r\n").unwrap().1.len(), 70_000);
    let status = raw_http(&address, "GET /status?code=418 HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n");
    assert!(status.starts_with("HTTP/1.1 418"));
}

#[test]
fn http_client_counts_answers_and_servers() {
    let (_server, address) = serve(&["http", "--name", "alpha"]);
    let url = format!("http://{address}/x");
    let (seen, code) = run(&["client", "http", "--url", &url, "--requests", "40", "--concurrency", "4"]);
    assert_eq!(code, 0);
    assert_eq!((&seen["requests"], &seen["ok"], &seen["failed"]), (&40.into(), &40.into(), &0.into()));
    assert_eq!(seen["servers"], serde_json::json!({ "alpha": 40 }));
    assert_eq!(seen["clients"], serde_json::json!({ "127.0.0.1": 40 }));
    assert!(seen["latency_ms"]["p50"].as_f64().unwrap() > 0.0);
    let (seen, code) =
        run(&["client", "http", "--url", &url, "--requests", "3", "--keepalive", "false", "--lines"]);
    assert_eq!((code, &seen["statuses"]), (0, &serde_json::json!({ "200": 3 })));
    let bad = format!("http://{address}/status?code=503");
    let (seen, code) = run(&["client", "http", "--url", &bad]);
    assert_eq!((code, &seen["answered"], &seen["ok"]), (1, &1.into(), &0.into()));
}

#[test]
fn http_client_keeps_one_connection_or_makes_new_ones() {
    let (_server, address) = serve(&["http"]);
    let url = format!("http://{address}/");
    for (keepalive, expected) in [("true", 1), ("false", 5)] {
        let args = ["client", "http", "--url", &url, "--requests", "5", "--keepalive", keepalive, "--lines"];
        let output = testkit(&args).output().unwrap();
        let ports: std::collections::BTreeSet<String> = String::from_utf8(output.stdout)
            .unwrap()
            .lines()
            .filter_map(|line| {
                Some(serde_json::from_str::<serde_json::Value>(line).ok()?.get("client")?.to_string())
            })
            .collect();
        assert_eq!(ports.len(), expected, "{keepalive}");
    }
}

#[test]
fn http_client_tells_kinds_of_failure() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap();
    let refused = format!("http://{}/", closed.local_addr().unwrap());
    drop(closed);
    let (seen, code) = run(&["client", "http", "--url", &refused]);
    assert_eq!((code, &seen["errors"]), (1, &serde_json::json!({ "refused": 1 })));
    assert!(seen["first_failure_at_ms"].is_u64());

    let (_server, address) = serve(&["http"]);
    let slow = format!("http://{address}/slow?ms=5000");
    let (seen, _) = run(&["client", "http", "--url", &slow, "--timeout-ms", "100"]);
    assert_eq!(seen["errors"], serde_json::json!({ "timeout": 1 }));

    let rude = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", rude.local_addr().unwrap());
    let peer = std::thread::spawn(move || {
        let (mut stream, _) = rude.accept().unwrap();
        let mut some = [0; 5];
        stream.read_exact(&mut some).unwrap();
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        drop(stream);
        let (mut stream, _) = rude.accept().unwrap();
        let mut all = [0; 4096];
        let _ = stream.read(&mut all).unwrap();
    });
    let (seen, _) = run(&["client", "http", "--url", &url]);
    assert_eq!(seen["errors"], serde_json::json!({ "reset": 1 }));
    let (seen, _) = run(&["client", "http", "--url", &url]);
    assert_eq!(seen["errors"], serde_json::json!({ "closed": 1 }));
    peer.join().unwrap();
}

#[test]
fn http_client_goes_on_through_a_fault() {
    let (server, address) = serve(&["http", "--name", "first"]);
    let url = format!("http://{address}/");
    let mut client = Running::start(&mut testkit(&[
        "client",
        "http",
        "--url",
        &url,
        "--until-signal",
        "--interval-ms",
        "5",
        "--lines",
        "--timeout-ms",
        "1000",
    ]));
    let until = |client: &mut Running, wanted: &dyn Fn(&serde_json::Value) -> bool| loop {
        let line = client.line();
        assert!(!line.is_null(), "the client has ended");
        if wanted(&line) {
            return;
        }
    };
    until(&mut client, &|line| line["server"] == "first");
    drop(server);
    until(&mut client, &|line| line["error"] == "refused");
    let _server = Running::start(&mut testkit(&["serve", "http", "--name", "second", "--listen", &address]));
    until(&mut client, &|line| line["server"] == "second");
    let summary = client.stop();
    assert!(summary["errors"]["refused"].as_u64().unwrap() > 0);
    assert_eq!(summary["servers"].as_object().unwrap().len(), 2);
    assert!(summary["longest_gap_ms"].as_u64().unwrap() > 0);
}

#[test]
fn tcp_echo_is_checked_to_the_byte() {
    let (_server, address) = serve(&["tcp"]);
    let (seen, code) =
        run(&["client", "tcp", "--connect", &address, "--send-bytes", "3000000", "--half-close"]);
    assert_eq!(code, 0, "{seen}");
    assert_eq!((&seen["sent"], &seen["received"]), (&3_000_000.into(), &3_000_000.into()));

    let liar = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = liar.local_addr().unwrap().to_string();
    let peer = std::thread::spawn(move || {
        let (mut stream, _) = liar.accept().unwrap();
        let mut data = [0; 1000];
        stream.read_exact(&mut data).unwrap();
        data[999] ^= 1;
        stream.write_all(&data).unwrap();
    });
    let (seen, code) = run(&["client", "tcp", "--connect", &address, "--send-bytes", "1000"]);
    assert_eq!((code, &seen["error"]), (1, &"wrong".into()));
    peer.join().unwrap();
}

#[test]
fn tcp_half_close_gets_its_answer_after_the_end() {
    let (_server, address) = serve(&["tcp", "--half-close"]);
    for size in ["0", "1", "70001", "5000000"] {
        let args =
            ["client", "tcp", "--connect", &address, "--send-bytes", size, "--half-close", "--expect-sha"];
        let (seen, code) = run(&args);
        assert_eq!(code, 0, "{seen}");
    }
}

#[test]
fn tcp_server_first_source_and_sink() {
    let (_greets, address) = serve(&["tcp", "--greeting", "220 ready\n"]);
    let (seen, code) = run(&[
        "client",
        "tcp",
        "--connect",
        &address,
        "--expect-greeting",
        "220 ready\n",
        "--send-bytes",
        "9",
    ]);
    assert_eq!((code, &seen["greeting"]), (0, &"220 ready\n".into()), "{seen}");
    let (seen, code) = run(&["client", "tcp", "--connect", &address, "--expect-greeting", "221 ready\n"]);
    assert_eq!((code, &seen["error"]), (1, &"wrong".into()));

    let (_source, address) = serve(&["tcp", "--source", "2000000"]);
    let (seen, code) = run(&["client", "tcp", "--connect", &address, "--expect-bytes", "2000000"]);
    assert_eq!(code, 0, "{seen}");
    let (seen, code) = run(&["client", "tcp", "--connect", &address, "--expect-bytes", "2000001"]);
    assert_eq!((code, &seen["error"]), (1, &"closed".into()));

    let (mut sink, address) = serve(&["tcp", "--sink", "--log"]);
    let (seen, code) = run(&["client", "tcp", "--connect", &address, "--send-bytes", "1000000", "--one-way"]);
    assert_eq!(code, 0, "{seen}");
    let logged = sink.line();
    assert_eq!((&logged["received"], &logged["ended"]), (&1_000_000.into(), &"eof".into()));
    assert_eq!(logged["client"], seen["local"]);
}

#[test]
fn hold_tells_when_and_how_a_connection_ended() {
    for (signal_server, expected) in [(true, "eof"), (false, "signal")] {
        let (server, address) = serve(&["tcp"]);
        let mut client =
            Running::start(&mut testkit(&["client", "hold", "--connect", &address, "--interval-ms", "10"]));
        assert_eq!(client.line()["ready"], true);
        let ended = if signal_server {
            server.signal(Signal::SIGKILL);
            client.last()
        } else {
            client.stop()
        };
        let how = ended["ended"].as_str().unwrap();
        // A killed server's unread data turns its end into a reset.
        assert!(how == expected || (signal_server && how == "reset"), "{ended}");
        assert!(ended["echoed"].as_u64().unwrap() >= 1);
    }
}

#[test]
fn idle_counts_what_is_still_open() {
    let (server, address) = serve(&["tcp"]);
    let args = ["client", "idle", "--connect", &address, "--connections", "100", "--probe"];
    let mut client = Running::start(&mut testkit(&args));
    assert_eq!(client.line()["open"], 100);
    assert_eq!(client.stop()["still_open"], 100);
    let mut client = Running::start(&mut testkit(&args));
    assert_eq!(client.line()["open"], 100);
    drop(server);
    assert_eq!(client.stop()["still_open"], 0);
}

#[test]
fn load_measures_bytes_connections_and_requests() {
    let quick = ["--seconds", "0.4", "--warmup-seconds", "0.1"];
    let (_sink, sink) = serve(&["tcp", "--sink"]);
    let (_source, source) = serve(&["tcp", "--source", "0"]);
    let (_echo, echo) = serve(&["tcp"]);
    for (mode, address) in [("up", &sink), ("down", &source)] {
        let (seen, code) =
            run(&[&["load", "tcp", "--mode", mode, "--connect", address, "--streams", "2"], &quick[..]]
                .concat());
        assert_eq!(code, 0, "{seen}");
        assert!(seen["gbit_per_s"].as_f64().unwrap() > 0.01, "{seen}");
    }
    let (seen, code) =
        run(&[&["load", "tcp", "--mode", "connections", "--connect", &echo], &quick[..]].concat());
    assert_eq!(code, 0, "{seen}");
    assert!(seen["per_s"].as_f64().unwrap() > 10.0);

    let (_server, address) = serve(&["http"]);
    let url = format!("http://{address}/echo?size=100");
    let (seen, code) = run(&[&["load", "http", "--url", &url, "--connections", "4"], &quick[..]].concat());
    assert_eq!(code, 0, "{seen}");
    assert_eq!(seen["bytes"].as_u64().unwrap(), seen["done"].as_u64().unwrap() * 100);
    let (seen, code) =
        run(&[&["load", "http", "--url", &url, "--connections", "8", "--rate", "100"], &quick[..]].concat());
    assert_eq!(code, 0, "{seen}");
    assert_eq!(seen["done"], 40, "the rate is kept, whatever the latency");
    let (seen, code) = run(&[&["load", "http", "--url", &url, "--new-connections"], &quick[..]].concat());
    assert_eq!(code, 0, "{seen}");
}

#[test]
fn load_tells_failures() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = closed.local_addr().unwrap().to_string();
    drop(closed);
    let (seen, code) = run(&[
        "load",
        "tcp",
        "--mode",
        "up",
        "--connect",
        &address,
        "--seconds",
        "0.1",
        "--warmup-seconds",
        "0",
    ]);
    assert_eq!((code, &seen["errors"]), (1, &serde_json::json!({ "refused": 1 })));
}

#[test]
fn the_misbehaving_server_breaks_as_it_is_asked_to() {
    let (_server, address) = serve(&["misbehaving"]);
    let ask = |path: &str| {
        let mut stream = TcpStream::connect(&address).unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: h\r\n\r\n").as_bytes()).unwrap();
        let mut answer = Vec::new();
        let ended = stream.read_to_end(&mut answer).map_err(|error| error.kind());
        (String::from_utf8_lossy(&answer).into_owned(), ended.err())
    };
    // The first two requests: one bad, one good.
    assert!(ask("/burst?bad=1&good=1").0.starts_with("HTTP/1.1 503"));
    assert!(ask("/burst?bad=1&good=1").0.starts_with("HTTP/1.1 200"));
    let reset = Some(std::io::ErrorKind::ConnectionReset);
    assert_eq!(ask("/reset"), (String::new(), reset));
    assert_eq!(ask("/reset-in-header").1, reset);
    assert!(ask("/half").0.ends_with("content-length: 100\r\n\r\nhalf"));
    assert!(ask("/half-chunk").0.ends_with("64\r\nhalf"));
    assert!(!ask("/garbage").0.starts_with("HTTP"));
    assert!(ask("/huge-headers?bytes=200000").0.len() > 200_000);
    assert_eq!(ask("/many-headers?count=300").0.matches("x-").count(), 300);
    let (drip, _) = ask("/drip?bytes=3&ms=1");
    assert!(drip.ends_with("\r\n\r\n..."), "{drip}");
    assert_eq!(ask("/silent?ms=1"), (String::new(), None));
    assert!(ask("/").0.ends_with("ok"));
}
