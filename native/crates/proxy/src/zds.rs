//! Follows the agent's pod discovery (ZDS), for ever: pods go on being served while the agent is away.
use crate::pod::PodInfo;
use crate::pods::Pods;
use meltemi_capture::{Packet, PacketSocket};
use meltemi_types::zds::workload_request::Payload;
use meltemi_types::zds::{
    Ack, AddWorkload, Version, WorkloadRequest, WorkloadResponse, ZdsHello, workload_response,
};
use prost::Message;
use std::collections::HashSet;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Largest message of the protocol; longer ones are answered with an error.
const MESSAGE_BYTES: usize = 1024;
const FIRST_RETRY: Duration = Duration::from_millis(50);
const LONGEST_RETRY: Duration = Duration::from_secs(2);

/// Runs until it is dropped. `snapshots` counts the complete sets of pods received.
pub(crate) async fn follow(path: &Path, pods: &Arc<Pods>, snapshots: &watch::Sender<u64>) {
    let mut wait = FIRST_RETRY;
    loop {
        let before = *snapshots.borrow();
        let ended = session(path, pods, snapshots).await;
        if *snapshots.borrow() > before {
            wait = FIRST_RETRY;
        }
        tracing::warn!(socket = %path.display(), error = %ended, retry_ms = wait.as_millis() as u64, "pod discovery interrupted");
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(LONGEST_RETRY);
    }
}

/// One connection to the agent. Returns why it ended.
async fn session(path: &Path, pods: &Arc<Pods>, snapshots: &watch::Sender<u64>) -> io::Error {
    let result: io::Result<()> = async {
        let socket = PacketSocket::connect(path)?;
        socket.send(&ZdsHello { version: Version::V1.into() }.encode_to_vec(), &[]).await?;
        tracing::info!(socket = %path.display(), "pod discovery connected");
        let mut seen = HashSet::new();
        // One byte more than allowed, so that a message that is too long is told from one that fits.
        let mut buffer = [0; MESSAGE_BYTES + 1];
        while let Some(packet) = socket.receive(&mut buffer).await? {
            let handled = handle(&buffer, packet, pods, &mut seen, snapshots).await;
            if let Err(error) = &handled {
                tracing::warn!(error, "pod discovery message refused");
            }
            let ack = Ack { error: handled.err().unwrap_or_default() };
            let response = WorkloadResponse { payload: Some(workload_response::Payload::Ack(ack)) };
            socket.send(&response.encode_to_vec(), &[]).await?;
        }
        Ok(())
    }
    .await;
    result
        .err()
        .unwrap_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, "the agent closed the socket"))
}

/// Does what one message says. What is wrong with a message is its answer, and changes nothing.
async fn handle(
    buffer: &[u8],
    packet: Packet,
    pods: &Arc<Pods>,
    seen: &mut HashSet<Arc<str>>,
    snapshots: &watch::Sender<u64>,
) -> Result<(), String> {
    if packet.truncated || packet.length > MESSAGE_BYTES {
        return Err(format!("message is longer than {MESSAGE_BYTES} bytes, or has too many descriptors"));
    }
    let request = WorkloadRequest::decode(&buffer[..packet.length])
        .map_err(|error| format!("message is no WorkloadRequest: {error}"))?;
    let payload = request.payload.ok_or("message says nothing that is understood")?;
    if !matches!(payload, Payload::Add(_)) && !packet.descriptors.is_empty() {
        return Err("only AddWorkload carries a descriptor".to_owned());
    }
    match payload {
        Payload::Add(add) => {
            let (info, namespace) = pod_of(add, packet.descriptors)?;
            let uid = info.uid.clone();
            pods.add(info, namespace).await?;
            seen.insert(uid);
        }
        Payload::Keep(keep) => {
            if !pods.has(&keep.uid) {
                return Err(format!("pod {:?} is not served; send AddWorkload", keep.uid));
            }
            seen.insert(keep.uid.into());
        }
        Payload::Del(del) => {
            pods.remove(&del.uid).await;
            seen.remove(del.uid.as_str());
        }
        Payload::SnapshotSent(_) => {
            pods.retain(seen).await;
            snapshots.send_modify(|count| *count += 1);
        }
    }
    Ok(())
}

fn pod_of(add: AddWorkload, descriptors: Vec<OwnedFd>) -> Result<(PodInfo, OwnedFd), String> {
    let count = descriptors.len();
    let Ok([namespace]) = <[OwnedFd; 1]>::try_from(descriptors) else {
        return Err(format!(
            "AddWorkload carries {count} descriptors: want the pod's network namespace alone"
        ));
    };
    let info = add.workload_info.ok_or("AddWorkload without workload_info")?;
    for (field, value) in [("uid", &add.uid), ("name", &info.name), ("namespace", &info.namespace)] {
        if value.is_empty() {
            return Err(format!("AddWorkload: {field} is empty"));
        }
    }
    let info = PodInfo {
        uid: add.uid.into(),
        name: info.name,
        namespace: info.namespace,
        service_account: info.service_account,
    };
    Ok((info, namespace))
}
