//! Pods, nodes and their data planes.
use super::agent::{Agent, Session};
use super::control::Control;
use super::objects::PodSpec;
use super::sandbox::shell;
use super::{DEADLINE, soon};
use meltemi_capture::{HomeNetns, PodNetns};
use meltemi_identity::testing::{TestCa, TokioClock, serve_on_unix};
use serde_json::Value;
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixStream};

/// What the node agent sets in an enrolled pod.
const CAPTURE: &str = r#"
ip route add local default dev lo table 100
ip rule add fwmark 0x111/0xfff lookup 100
nft -f - <<'RULES'
table inet meltemi {
  chain before_routing {
    type filter hook prerouting priority mangle; policy accept;
    iif "lo" meta mark & 0xfff == 0x539 ct mark set ct mark & 0xfffff000 | 0x111
  }
  chain redirect_in {
    type nat hook prerouting priority dstnat; policy accept;
    iif "lo" accept
    tcp dport 15008 accept
    meta nfproto ipv4 tcp flags & (fin | syn | rst | ack) == syn redirect to :15006
  }
  chain route_out {
    type route hook output priority mangle; policy accept;
    oif "lo" accept
    ct direction reply ct mark & 0xfff == 0x111 meta mark set ct mark
  }
  chain redirect_out {
    type nat hook output priority -100; policy accept;
    oif "lo" accept
    meta mark & 0xfff == 0x539 accept
    meta nfproto ipv4 tcp flags & (fin | syn | rst | ack) == syn redirect to :15001
  }
}
RULES
"#;

/// A pod's network namespace, and sockets in it as its application has them.
#[derive(Debug, Clone)]
pub struct Pod {
    pub spec: PodSpec,
    pub netns: PodNetns,
}

impl Pod {
    pub fn file(&self) -> OwnedFd {
        File::open(format!("/run/netns/{}", self.spec.name)).unwrap().into()
    }

    pub fn listen(&self, port: u16) -> TcpListener {
        let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        let socket = self.netns.run(|| std::net::TcpListener::bind(address)).unwrap().unwrap();
        socket.set_nonblocking(true).unwrap();
        TcpListener::from_std(socket).unwrap()
    }

    pub async fn connect(&self, to: SocketAddr) -> std::io::Result<TcpStream> {
        let socket = self.netns.run(TcpSocket::new_v4).unwrap().unwrap();
        tokio::time::timeout(DEADLINE, socket.connect(to)).await.expect("connect took too long")
    }

    pub fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::from((self.spec.ip, port))
    }

    pub fn identity(&self) -> meltemi_types::Identity {
        meltemi_types::Identity::new("cluster.local", "default", self.spec.account).unwrap()
    }
}

/// One node's data plane, a real process.
#[derive(Debug)]
pub struct Proxy {
    pub child: Child,
    pub directory: PathBuf,
    pub session: Session,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Proxy {
    /// `GET` of the reading admin socket.
    pub async fn get(&self, path: &str) -> Value {
        let text = request(&self.directory.join("admin.sock"), &format!("GET {path}")).await;
        serde_json::from_str(&text).unwrap_or(Value::String(text))
    }

    pub async fn post(&self, path: &str) -> Value {
        let text = request(&self.directory.join("control.sock"), &format!("POST {path}")).await;
        serde_json::from_str(&text).unwrap_or(Value::String(text))
    }

    pub fn terminate(&self) {
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    }

    /// Access records so far.
    pub fn records(&self) -> Vec<Value> {
        let file = File::open(self.directory.join("access.log")).unwrap();
        BufReader::new(file).lines().map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect()
    }

    /// Waits for a record.
    pub async fn record(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        soon(what, async {
            loop {
                if let Some(found) = self.records().into_iter().find(&wanted) {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await
    }
}

async fn request(socket: &Path, line: &str) -> String {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    let text = format!("{line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default()
}

/// Everything together. The sandbox ends what is left when the test ends.
pub struct World {
    pub control: Control,
    pub ca: Arc<TestCa>,
    pub pods: HashMap<&'static str, Pod>,
    pub directory: tempfile::TempDir,
}

impl World {
    /// Makes the pods, with capture in those of the mesh, and the control plane.
    pub fn make(specs: Vec<PodSpec>) -> Self {
        let home = HomeNetns::current(None).unwrap();
        shell(
            "mount -t tmpfs tmpfs /run; mkdir /run/netns; ip link set lo up
             ip link add bridge0 type bridge; ip addr add 10.77.0.1/24 dev bridge0; ip link set bridge0 up",
        );
        let directory = tempfile::tempdir().unwrap();
        let control = Control::start(&directory.path().join("xds.sock"));
        let ca = TestCa::new(TokioClock::start(), Duration::from_secs(3600));
        serve_on_unix(&ca, &directory.path().join("ca.sock")).unwrap();
        let mut pods = HashMap::new();
        for spec in specs {
            let (name, ip) = (spec.name, spec.ip);
            shell(&format!(
                "ip netns add {name}; ip link add v{name} type veth peer name eth0 netns {name}
                 ip link set v{name} master bridge0 up
                 ip -n {name} link set lo up; ip -n {name} link set eth0 up
                 ip -n {name} addr add {ip}/24 dev eth0; ip -n {name} route add default via 10.77.0.1"
            ));
            if spec.hbone {
                shell(&format!("ip netns exec {name} sh -ec '{}'", CAPTURE.replace('\'', "'\\''")));
            }
            control.put(spec.object());
            let netns = PodNetns::open(&home, Path::new(&format!("/run/netns/{name}"))).unwrap();
            pods.insert(name, Pod { spec, netns });
        }
        Self { control, ca, pods, directory }
    }

    pub fn pod(&self, name: &str) -> &Pod {
        &self.pods[name]
    }

    /// Starts a node's data plane and tells it of its pods.
    pub async fn proxy(&self, node: &str) -> Proxy {
        self.proxy_with(node, &[]).await
    }

    pub async fn proxy_with(&self, node: &str, flags: &[&str]) -> Proxy {
        let directory = self.directory.path().join(node);
        if !directory.exists() {
            std::fs::create_dir(&directory).unwrap();
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o700)).unwrap();
        }
        let at = |name: &str| directory.join(name).display().to_string();
        let _ = std::fs::remove_file(directory.join("zds.sock"));
        let agent = Agent::listen(&directory.join("zds.sock"));
        let shared = self.directory.path().display();
        // The rig (an example) is told by its environment which binary it is about.
        let binary = option_env!("CARGO_BIN_EXE_meltemi-proxy").map(PathBuf::from);
        let binary = binary.or_else(|| std::env::var_os("MELTEMI_PROXY").map(PathBuf::from)).unwrap();
        let child = Command::new(binary)
            .args(["ztunnel", "--node", node, "--keys", "none", "--zds", &at("zds.sock")])
            .args(["--admin", &at("admin.sock"), "--control", &at("control.sock")])
            .args(["--xds", &format!("unix:{shared}/xds.sock"), "--ca", &format!("unix:{shared}/ca.sock")])
            .args(["--access-log-file", &at("access.log"), "--log-format", "text"])
            .args(flags)
            .env("RUST_BACKTRACE", "1")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let session = soon("hello", agent.accept()).await;
        let proxy = Proxy { child, directory, session };
        for pod in self.pods.values().filter(|pod| pod.spec.node == node && pod.spec.hbone) {
            let spec = &pod.spec;
            proxy.session.add(&spec.uid(), spec.name, spec.account, &pod.file()).await.unwrap();
        }
        proxy.session.snapshot().await.unwrap();
        soon("ready", async {
            while proxy.get("/ready").await["ready"] != true {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
        proxy
    }
}
