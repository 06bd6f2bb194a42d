//! A node agent in this process: tells a data plane of its pods.
use meltemi_capture::PacketSocket;
use meltemi_types::zds::workload_request::Payload;
use meltemi_types::zds::{
    AddWorkload, DelWorkload, SnapshotSent, WorkloadInfo, WorkloadRequest, WorkloadResponse, ZdsHello,
    workload_response,
};
use prost::Message;
use socket2::{Domain, SockAddr, Socket, Type};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

#[derive(Debug)]
pub struct Agent(Socket);

/// The agent's end of a data plane's connection.
#[derive(Debug)]
pub struct Session(PacketSocket);

impl Agent {
    pub fn listen(path: &Path) -> Self {
        let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None).unwrap();
        socket.bind(&SockAddr::unix(path).unwrap()).unwrap();
        socket.listen(4).unwrap();
        Self(socket)
    }

    /// Waits for a data plane and its hello.
    pub async fn accept(&self) -> Session {
        let listener = self.0.try_clone().unwrap();
        let accepting = tokio::task::spawn_blocking(move || listener.accept().unwrap().0);
        let accepted = accepting.await.unwrap();
        accepted.set_nonblocking(true).unwrap();
        let fd = OwnedFd::from(accepted);
        let socket = PacketSocket::from_fd(fd).unwrap();
        let mut buffer = [0; 1024];
        let hello = socket.receive(&mut buffer).await.unwrap().unwrap();
        assert_eq!(ZdsHello::decode(&buffer[..hello.length]).unwrap().version, 1);
        Session(socket)
    }
}

impl Session {
    pub async fn add(&self, uid: &str, name: &str, account: &str, netns: &OwnedFd) -> Result<(), String> {
        let info =
            WorkloadInfo { name: name.into(), namespace: "default".into(), service_account: account.into() };
        let add = AddWorkload { uid: uid.into(), workload_info: Some(info) };
        self.send(Payload::Add(add), &[netns.as_raw_fd()]).await
    }

    pub async fn delete(&self, uid: &str) -> Result<(), String> {
        self.send(Payload::Del(DelWorkload { uid: uid.into() }), &[]).await
    }

    pub async fn snapshot(&self) -> Result<(), String> {
        self.send(Payload::SnapshotSent(SnapshotSent {}), &[]).await
    }

    async fn send(&self, payload: Payload, descriptors: &[i32]) -> Result<(), String> {
        self.raw(&WorkloadRequest { payload: Some(payload) }.encode_to_vec(), descriptors).await
    }

    /// Sends any bytes; the answer's error.
    pub async fn raw(&self, message: &[u8], descriptors: &[i32]) -> Result<(), String> {
        self.0.send(message, descriptors).await.unwrap();
        let mut buffer = [0; 4096];
        let answer = self.0.receive(&mut buffer).await.unwrap().expect("the data plane hung up");
        match WorkloadResponse::decode(&buffer[..answer.length]).unwrap().payload {
            Some(workload_response::Payload::Ack(ack)) if ack.error.is_empty() => Ok(()),
            Some(workload_response::Payload::Ack(ack)) => Err(ack.error),
            None => panic!("an answer without content"),
        }
    }
}
