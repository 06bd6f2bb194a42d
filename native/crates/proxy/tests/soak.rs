//! Connections that end in every way leave nothing behind.
#![allow(clippy::unwrap_used, reason = "a test")]
mod support;
use socket2::SockRef;
use std::net::Ipv4Addr;
use std::time::Duration;
use support::objects::PodSpec;
use support::world::{Pod, Proxy, World};
use support::{sandbox, soon};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const ROUNDS: usize = 20;
const AT_ONCE: usize = 100;

fn pod(name: &'static str, last: u8, node: &'static str, hbone: bool) -> PodSpec {
    let ip = Ipv4Addr::new(10, 77, 0, last);
    PodSpec { name, ip, account: name, node, hbone, services: Vec::new(), policies: Vec::new() }
}

/// Answers the first byte, then behaves as it says.
fn application(pod: &Pod) {
    let listener = pod.listen(8080);
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let Ok(how) = socket.read_u8().await else { return };
                let _ = socket.write_u8(how).await;
                match how {
                    // Ends first.
                    0 => drop(socket),
                    1 => reset(socket),
                    // Ends its output, and waits for the other's end.
                    2 => {
                        let _ = socket.shutdown().await;
                        let _ = socket.read_to_end(&mut Vec::new()).await;
                    }
                    // Waits for the other's end.
                    _ => {
                        let _ = socket.read_to_end(&mut Vec::new()).await;
                    }
                }
            });
        }
    });
}

fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}

async fn one(pod: &Pod, to: std::net::SocketAddr, index: usize) {
    let mut stream = pod.connect(to).await.unwrap();
    let how = (index % 4) as u8;
    stream.write_u8(how).await.unwrap();
    let answer = soon("answer", stream.read_u8()).await;
    // A reset may overtake the answer.
    assert!(how == 1 || answer.unwrap() == how);
    match index / 4 % 4 {
        0 => drop(stream),
        1 => reset(stream),
        2 => {
            let _ = stream.shutdown().await;
            let _ = soon("end", stream.read_to_end(&mut Vec::new())).await;
        }
        _ => {
            let _ = stream.write_all(&[how; 5000]).await;
        }
    }
}

async fn round(pod: &Pod, to: std::net::SocketAddr) {
    let connections = (0..AT_ONCE).map(|index| one(pod, to, index));
    futures::future::join_all(connections).await;
}

fn descriptors(proxy: &Proxy) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", proxy.child.id())).unwrap().count()
}

/// Resident, in KiB.
fn resident(proxy: &Proxy) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", proxy.child.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

async fn quiet(proxy: &Proxy) {
    soon("quiet", async {
        while !proxy.get("/connections").await.as_array().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[test]
fn connections_that_end_in_every_way_leave_nothing_behind() {
    sandbox::run("connections_that_end_in_every_way_leave_nothing_behind", || async {
        let world =
            World::make(vec![pod("a", 2, "n1", true), pod("b", 3, "n2", true), pod("w", 4, "n3", false)]);
        let proxies = [world.proxy("n1").await, world.proxy("n2").await];
        let (a, b, w) = (world.pod("a"), world.pod("b"), world.pod("w"));
        application(b);
        application(w);
        // Through a tunnel and in plaintext out, and in plaintext in.
        let ways = [(a, b), (a, w), (w, b)];
        for (from, to) in ways {
            round(from, to.at(8080)).await;
        }
        for proxy in &proxies {
            quiet(proxy).await;
        }
        let before: Vec<_> = proxies.iter().map(|proxy| (descriptors(proxy), resident(proxy))).collect();
        for _ in 0..ROUNDS {
            for (from, to) in ways {
                round(from, to.at(8080)).await;
            }
        }
        for (proxy, (descriptors_before, resident_before)) in proxies.iter().zip(before) {
            quiet(proxy).await;
            soon("descriptors", async {
                while descriptors(proxy) > descriptors_before {
                    tokio::task::yield_now().await;
                }
            })
            .await;
            let grown = resident(proxy).saturating_sub(resident_before);
            assert!(grown < 4096, "{grown} KiB more than before");
        }
        // Exactly one record each.
        let connections = AT_ONCE * (ROUNDS + 1);
        for (proxy, each) in proxies.iter().zip([2 * connections, 2 * connections]) {
            let metrics = proxy.get("/metrics").await.as_str().unwrap().to_owned();
            let total = |name: &str| -> usize {
                let lines = metrics.lines().filter(|line| line.starts_with(name));
                lines.map(|line| line.rsplit(' ').next().unwrap().parse::<usize>().unwrap()).sum()
            };
            assert_eq!(total("istio_tcp_connections_opened_total"), each);
            assert_eq!(total("istio_tcp_connections_closed_total"), each);
            // What the log could not take is counted; nothing is lost otherwise.
            let written = each - total("meltemi_access_records_dropped_total");
            soon("records", async {
                while proxy.records().len() < written {
                    tokio::task::yield_now().await;
                }
            })
            .await;
            assert_eq!(proxy.records().len(), written);
        }
    });
}

const HALF_CLOSED: usize = 1000;

#[test]
fn half_closed_connections_end_and_leave_nothing_behind() {
    sandbox::run("half_closed_connections_end_and_leave_nothing_behind", || async {
        let world =
            World::make(vec![pod("a", 2, "n1", true), pod("b", 3, "n2", true), pod("w", 4, "n3", false)]);
        let flags = ["--half-closed-timeout-ms", "2000", "--pool-idle-ms", "1000"];
        let proxies = [world.proxy_with("n1", &flags).await, world.proxy_with("n2", &flags).await];
        let (a, b, w) = (world.pod("a"), world.pod("b"), world.pod("w"));
        application(b);
        application(w);
        let ways = [(a, b), (a, w), (w, b)];
        for (from, to) in ways {
            round(from, to.at(8080)).await;
        }
        for proxy in &proxies {
            quiet(proxy).await;
        }
        let before: Vec<_> = proxies.iter().map(|proxy| (descriptors(proxy), resident(proxy))).collect();
        // The application ends its output (2), and waits for an end that the client never tells.
        let mut held = Vec::new();
        for (from, to) in ways {
            for _ in 0..HALF_CLOSED / ways.len() {
                let mut stream = from.connect(to.at(8080)).await.unwrap();
                stream.write_u8(2).await.unwrap();
                assert_eq!(soon("answer", stream.read_u8()).await.unwrap(), 2);
                held.push(stream);
            }
        }
        for (proxy, (descriptors_before, resident_before)) in proxies.iter().zip(before) {
            quiet(proxy).await;
            soon("descriptors", async {
                while descriptors(proxy) > descriptors_before {
                    tokio::task::yield_now().await;
                }
            })
            .await;
            let grown = resident(proxy).saturating_sub(resident_before);
            assert!(grown < 8192, "{grown} KiB more than before");
            proxy.record("idle_timeout", |record| record["reason"] == "idle_timeout").await;
            let metrics = proxy.get("/metrics").await.as_str().unwrap().to_owned();
            assert!(metrics.contains("meltemi_connections_shed_total{reason=\"half_closed\"}"), "{metrics}");
        }
        // Where a tunnel lay between, the first proxy to lose patience told the other by a reset.
        drop(held);
    });
}

const LOADED: usize = 64;

#[test]
fn memory_goes_back_after_load_while_connections_stay_open() {
    sandbox::run("memory_goes_back_after_load_while_connections_stay_open", || async {
        let world = World::make(vec![pod("a", 2, "n1", true), pod("b", 3, "n2", true)]);
        let proxies = [world.proxy("n1").await, world.proxy("n2").await];
        let (a, b) = (world.pod("a"), world.pod("b"));
        let listener = b.listen(8080);
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = socket.split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                });
            }
        });
        let mut idle = a.connect(b.at(8080)).await.unwrap();
        idle.write_u8(1).await.unwrap();
        assert_eq!(soon("echo", idle.read_u8()).await.unwrap(), 1);
        let before: Vec<_> = proxies.iter().map(resident).collect();
        let loads = (0..LOADED).map(|_| async {
            let (mut read, mut write) = a.connect(b.at(8080)).await.unwrap().into_split();
            let writing = tokio::spawn(async move {
                for _ in 0..64 {
                    write.write_all(&[7; 64 << 10]).await.unwrap();
                }
                write
            });
            let mut echoed = vec![0; 64 << 16];
            soon("echo", read.read_exact(&mut echoed)).await.unwrap();
            writing.await.unwrap()
        });
        let kept = futures::future::join_all(loads).await;
        let loaded: Vec<_> = proxies.iter().map(resident).collect();
        for (index, proxy) in proxies.iter().enumerate() {
            // Most of what it has grown by goes back, though a connection is open.
            let most = before[index] + (loaded[index].saturating_sub(before[index]) / 2).max(2048);
            soon("memory", async {
                while resident(proxy) > most {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            })
            .await;
        }
        println!("KiB before {before:?}, loaded {loaded:?}, after {:?}", proxies.each_ref().map(resident));
        drop(kept);
        idle.write_u8(2).await.unwrap();
        assert_eq!(soon("echo", idle.read_u8()).await.unwrap(), 2);
    });
}
