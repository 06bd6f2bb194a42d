//! The descriptor's bytes, its seals, and the exchange over a real SEQPACKET socket.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use meltemi_telemetry::Metrics;
use meltemi_types::Identity;
use meltemi_types::meltemi::key_request::Payload;
use meltemi_types::meltemi::{KeyRequest, KeyResponse};
use parking_lot::Mutex;
use prost::Message as _;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept, bind, listen, recvmsg,
    sendmsg, socket_with,
};
use tokio::sync::watch;

use super::{Contents, KeyKeeper, SealedEntry, SealedError, open, seal};
use crate::key::PrivateKey;
use crate::testing::{FixedJitter, TestCa, TokioClock};
use crate::{CertificateStore, StoreOptions, SystemClock};

const DEADLINE: Duration = Duration::from_secs(20);

fn id(account: &str) -> Identity {
    Identity::new("cluster.local", "team", account).unwrap()
}

fn contents(entries: usize) -> Contents {
    let entry = |index: usize| SealedEntry {
        identity: id(&format!("account-{index}")),
        obtained_at: SystemTime::UNIX_EPOCH + Duration::from_millis(1_234_567 + index as u64),
        key: PrivateKey::generate().unwrap(),
        chain: vec![vec![index as u8; 300].into(), vec![7; 10].into()],
    };
    Contents { roots: vec![vec![1; 200].into()], entries: (0..entries).map(entry).collect() }
}

#[test]
fn what_is_written_is_read() {
    for count in [0, 1, 40] {
        let written = contents(count);
        let bytes = written.encode().unwrap();
        assert_eq!(bytes.len(), bytes.capacity(), "the buffer never grew");
        let read = Contents::decode(&bytes).unwrap();
        assert_eq!(read.roots, written.roots);
        assert_eq!(read.entries.len(), count);
        for (read, written) in read.entries.iter().zip(&written.entries) {
            assert_eq!(read.identity, written.identity);
            assert_eq!(read.obtained_at, written.obtained_at);
            assert_eq!(read.chain, written.chain);
            assert_eq!(read.key.public(), written.key.public());
            assert_eq!(read.key.secret().unwrap().as_ref(), written.key.secret().unwrap().as_ref());
        }
    }
}

#[test]
fn every_truncation_and_every_flipped_byte_is_refused() {
    let bytes = contents(2).encode().unwrap();
    for length in 0..bytes.len() {
        assert!(Contents::decode(&bytes[..length]).is_err(), "{length} bytes");
    }
    for at in 0..bytes.len() {
        let mut damaged = bytes.to_vec();
        damaged[at] ^= 0x40;
        assert!(Contents::decode(&damaged).is_err(), "byte {at}");
    }
    let mut longer = bytes.to_vec();
    longer.push(0);
    assert!(Contents::decode(&longer).is_err());
}

/// With a right checksum, so that the reader behind it is reached.
#[test]
fn no_body_makes_the_reader_panic() {
    let whole = contents(2).encode().unwrap();
    let mut random = StdRng::seed_from_u64(3);
    let (mut refused, mut read) = (0, 0);
    for round in 0..20_000 {
        let mut body = whole[14..whole.len() - 32].to_vec();
        match round % 3 {
            0 => body.truncate(random.random_range(0..body.len())),
            1 => body.extend((0..random.random_range(1..40)).map(|_| random.random::<u8>())),
            _ => {}
        }
        for _ in 0..random.random_range(0..4) {
            if !body.is_empty() {
                let at = random.random_range(0..body.len());
                body[at] = *[0, 1, 0x7f, 0xff, random.random()].get(random.random_range(0..5)).unwrap();
            }
        }
        let mut bytes = whole[..10].to_vec();
        bytes.extend((body.len() as u32).to_le_bytes());
        bytes.extend(&body);
        let sum = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &bytes);
        bytes.extend(sum.as_ref());
        match Contents::decode(&bytes) {
            Ok(contents) => {
                read += 1;
                assert!(contents.entries.len() <= 2);
            }
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 10_000 && read > 100, "refused {refused}, read {read}");
}

#[test]
fn another_version_is_refused_by_name() {
    let mut bytes = contents(1).encode().unwrap().to_vec();
    bytes[8] = 2;
    assert!(Contents::decode(&bytes).unwrap_err().to_string().contains("of another version"));
}

#[test]
fn the_descriptor_cannot_be_changed_and_an_unsealed_one_is_refused() {
    let sealed = seal(b"precious").unwrap();
    let all = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    assert!(fcntl_get_seals(&sealed).unwrap().contains(all));
    assert!(rustix::io::write(&sealed, b"x").is_err());
    assert!(rustix::fs::ftruncate(&sealed, 0).is_err());
    assert!(rustix::io::fcntl_getfd(&sealed).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
    assert_eq!(open(sealed).unwrap().as_slice(), b"precious");

    let writable = memfd_create("test", MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC).unwrap();
    rustix::io::write(&writable, b"precious").unwrap();
    fcntl_add_seals(&writable, SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL).unwrap();
    assert!(matches!(open(writable), Err(SealedError::NotSealed(_))));
    assert!(matches!(open(seal(b"").unwrap()), Err(SealedError::NotSealed(_))));
    assert!(matches!(open(tempfile::tempfile().unwrap().into()), Err(SealedError::NotSealed(_))));
}

/// The node agent's side: keeps the last descriptor.
struct Agent {
    path: PathBuf,
    kept: Arc<Mutex<Option<OwnedFd>>>,
    deposits: watch::Receiver<usize>,
}

/// How the agent answers.
#[derive(Clone, Copy, PartialEq)]
enum Manner {
    Well,
    WithAnError,
    NotAtAll,
}

impl Agent {
    fn start(directory: &Path, manner: Manner) -> Self {
        let path = directory.join("keys.sock");
        let socket =
            socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        bind(&socket, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        listen(&socket, 8).unwrap();
        let kept: Arc<Mutex<Option<OwnedFd>>> = Arc::default();
        let (count, deposits) = watch::channel(0);
        let keeps = Arc::clone(&kept);
        std::thread::spawn(move || {
            while let Ok(connection) = accept(&socket) {
                answer(&connection, &keeps, &count, manner);
            }
        });
        Self { path, kept, deposits }
    }
}

fn answer(
    connection: &OwnedFd,
    kept: &Mutex<Option<OwnedFd>>,
    deposits: &watch::Sender<usize>,
    manner: Manner,
) {
    let mut bytes = vec![0; 256];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let Ok(message) =
        recvmsg(connection, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)
    else {
        return;
    };
    let mut received = Vec::new();
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = part {
            received.extend(descriptors);
        }
    }
    let request = KeyRequest::decode(&bytes[..message.bytes]).unwrap();
    let mut handed = None;
    let response = match (manner, request.payload.unwrap()) {
        (Manner::NotAtAll, _) => return,
        (Manner::WithAnError, _) => KeyResponse { error: "full".to_owned(), found: false },
        (Manner::Well, Payload::Deposit(_)) => {
            assert_eq!(received.len(), 1);
            *kept.lock() = received.pop();
            deposits.send_modify(|count| *count += 1);
            KeyResponse { error: String::new(), found: true }
        }
        (Manner::Well, Payload::Withdraw(_)) => {
            handed = kept.lock().as_ref().map(|descriptor| descriptor.try_clone().unwrap());
            KeyResponse { error: String::new(), found: handed.is_some() }
        }
    };
    let mut packet = response.encode_to_vec();
    if packet.is_empty() {
        packet = vec![0x0a, 0];
    }
    let descriptors: Vec<_> = handed.iter().map(|descriptor| descriptor.as_fd()).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
    }
    let _ = sendmsg(connection, &[IoSlice::new(&packet)], &mut control, SendFlags::NOSIGNAL);
}

#[tokio::test]
async fn a_descriptor_comes_back_as_it_was_deposited() {
    let directory = tempfile::tempdir().unwrap();
    let agent = Agent::start(directory.path(), Manner::Well);
    let keeper = KeyKeeper::new(agent.path.clone());
    assert!(keeper.withdraw().await.unwrap().is_none(), "nothing yet");
    keeper.deposit(seal(b"first").unwrap()).await.unwrap();
    keeper.deposit(seal(b"second").unwrap()).await.unwrap();
    for _ in 0..2 {
        let back = keeper.withdraw().await.unwrap().unwrap();
        assert_eq!(open(back).unwrap().as_slice(), b"second");
    }
}

#[tokio::test]
async fn an_agent_that_fails_is_named() {
    for (manner, problem) in [(Manner::WithAnError, "full"), (Manner::NotAtAll, "closed without an answer")] {
        let directory = tempfile::tempdir().unwrap();
        let agent = Agent::start(directory.path(), manner);
        let keeper = KeyKeeper::new(agent.path.clone());
        let error = keeper.deposit(seal(b"x").unwrap()).await.unwrap_err().to_string();
        assert!(error.contains(problem) && error.contains("keys.sock"), "{error}");
        assert!(keeper.withdraw().await.is_err());
    }
    let nobody = KeyKeeper::new("/nonexistent/keys.sock".into());
    assert!(matches!(nobody.withdraw().await, Err(SealedError::Agent { .. })));
}

fn store(ca: &Arc<TestCa>, clock: Arc<dyn crate::Clock>) -> Arc<CertificateStore> {
    let options = StoreOptions {
        trust_domain: "cluster.local".into(),
        trust_domain_aliases: Vec::new(),
        concurrent_requests: 4,
        clock,
        jitter: Arc::new(FixedJitter(0.5)),
    };
    CertificateStore::new(options, ca.clone(), Metrics::new("ztunnel", "test"))
}

/// A clock that is ahead.
#[derive(Debug)]
struct Ahead(Duration);

impl crate::Clock for Ahead {
    fn now(&self) -> SystemTime {
        SystemClock.now() + self.0
    }
}

#[tokio::test]
async fn a_restarted_store_goes_on_without_the_ca() {
    let directory = tempfile::tempdir().unwrap();
    let mut agent = Agent::start(directory.path(), Manner::Well);
    let keeper = KeyKeeper::new(agent.path.clone());
    let ca = TestCa::new(TokioClock::start(), Duration::from_secs(3_600));

    let before = store(&ca, Arc::new(SystemClock));
    let keeping = before.keep_with(keeper.clone());
    let claims = (before.serve(&id("a")), before.serve(&id("b")));
    let old = before.get(&id("a"), DEADLINE).await.unwrap();
    before.get(&id("b"), DEADLINE).await.unwrap();
    let deposited = async {
        loop {
            agent.deposits.changed().await.unwrap();
            let kept = agent.kept.lock().as_ref().unwrap().try_clone().unwrap();
            if Contents::decode(&open(kept).unwrap()).unwrap().entries.len() == 2 {
                break;
            }
        }
    };
    tokio::time::timeout(DEADLINE, deposited).await.unwrap();
    keeping.abort();
    before.shut_down();

    ca.hold();
    let after = store(&ca, Arc::new(SystemClock));
    assert_eq!(after.restore_from(&keeper).await.unwrap(), 2);
    let _served = after.serve(&id("a"));
    let restored = after.current(&id("a")).expect("at once");
    assert_eq!(restored.chain(), old.chain());
    assert_eq!(restored.key().public(), old.key().public());
    assert_eq!(restored.renew_at().duration_since(old.renew_at()).unwrap_or_default().as_secs(), 0);
    assert!(after.trust().still_trusted(old.chain()), "roots come back too");
    after.forget_unclaimed();
    let _b = after.serve(&id("b"));
    assert!(after.current(&id("b")).is_none(), "wiped: it was claimed too late");
    drop(claims);

    let late = store(&ca, Arc::new(Ahead(Duration::from_secs(7_200))));
    assert_eq!(late.restore_from(&keeper).await.unwrap(), 0, "expired in the meantime");
}

#[tokio::test]
async fn a_removed_identity_leaves_the_descriptor() {
    let directory = tempfile::tempdir().unwrap();
    let mut agent = Agent::start(directory.path(), Manner::Well);
    let ca = TestCa::new(TokioClock::start(), Duration::from_secs(3_600));
    let store = store(&ca, Arc::new(SystemClock));
    let keeping = store.keep_with(KeyKeeper::new(agent.path.clone()));
    let (a, _b) = (store.serve(&id("a")), store.serve(&id("b")));
    store.get(&id("a"), DEADLINE).await.unwrap();
    store.get(&id("b"), DEADLINE).await.unwrap();
    drop(a);
    let wanted = async {
        loop {
            agent.deposits.changed().await.unwrap();
            let kept = agent.kept.lock().as_ref().unwrap().try_clone().unwrap();
            let entries = Contents::decode(&open(kept).unwrap()).unwrap().entries;
            if entries.iter().map(|entry| entry.identity.clone()).eq([id("b")]) {
                break;
            }
        }
    };
    tokio::time::timeout(DEADLINE, wanted).await.unwrap();
    keeping.abort();
}

#[tokio::test]
async fn an_agent_that_comes_late_is_given_the_keys_all_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let ca = TestCa::new(TokioClock::start(), Duration::from_secs(3_600));
    let store = store(&ca, Arc::new(SystemClock));
    let keeper = KeyKeeper::new(directory.path().join("keys.sock"));
    assert!(store.restore_from(&keeper).await.is_err(), "nobody is there");
    let keeping = store.keep_with(keeper);
    let _served = store.serve(&id("a"));
    store.get(&id("a"), DEADLINE).await.unwrap();
    let mut agent = Agent::start(directory.path(), Manner::Well);
    tokio::time::timeout(DEADLINE, agent.deposits.changed()).await.unwrap().unwrap();
    let shown_as_kept = async {
        while !store.certificates()[0].kept {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, shown_as_kept).await.unwrap();
    // One that was restarted has nothing, and is given them again without any change.
    *agent.kept.lock() = None;
    store.deposit_again();
    assert!(!store.certificates()[0].kept);
    tokio::time::timeout(DEADLINE, agent.deposits.changed()).await.unwrap().unwrap();
    assert!(agent.kept.lock().is_some());
    keeping.abort();
}
