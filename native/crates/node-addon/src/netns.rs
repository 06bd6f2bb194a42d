//! Network namespaces: opening, checking, and looking or writing inside one.

use std::fs;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use napi::bindgen_prelude::PromiseRaw;
use napi::{Env, Result};
use napi_derive::napi;
use nix::ifaddrs::getifaddrs;
use nix::sched::{CloneFlags, setns};
use tokio::sync::{Semaphore, oneshot};

use crate::bind::{c_path, raw};
use crate::descriptor::duplicate;
use crate::error::AddonError;

/// `NS_GET_NSTYPE`, ioctl_ns(2).
const NS_GET_NSTYPE: libc::c_ulong = 0xb703;

#[napi(object)]
#[derive(Debug)]
pub struct Netns {
    pub fd: i32,
    pub inode: f64,
    pub device: f64,
}

#[napi(object)]
#[derive(Debug)]
pub struct NetnsAddress {
    #[napi(js_name = "interface")]
    pub interface_name: String,
    pub address: String,
    pub prefix: u32,
}

#[napi]
pub fn open_netns(path: String) -> Result<Netns> {
    let (file, found) = open(&path)?;
    Ok(Netns { fd: file.into_raw_fd(), inode: found.ino() as f64, device: found.dev() as f64 })
}

/// Opens a file and makes sure that it is a network namespace.
pub(crate) fn open(path: &str) -> std::result::Result<(fs::File, fs::Metadata), AddonError> {
    let place = c_path(path)?;
    // O_NONBLOCK: the path is a user's word, and opening a FIFO would wait.
    // SAFETY: `place` is a C string; the result is a new descriptor or -1.
    let opened = unsafe { libc::open(place.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NONBLOCK) };
    if opened < 0 {
        return Err(AddonError::last_os(format!("open the network namespace {path}")));
    }
    // SAFETY: open has just made this descriptor.
    let file = unsafe { fs::File::from_raw_fd(opened) };
    // SAFETY: this ioctl takes no argument, and fails on anything that is not a namespace (ENOTTY).
    let kind = unsafe { libc::ioctl(raw(&file), NS_GET_NSTYPE) };
    let on_nsfs = nix::sys::statfs::fstatfs(&file)
        .is_ok_and(|found| found.filesystem_type() == nix::sys::statfs::NSFS_MAGIC);
    if !on_nsfs || kind != libc::CLONE_NEWNET {
        return Err(AddonError::BadArgument(format!("{path} is not a network namespace")));
    }
    let found = file
        .metadata()
        .map_err(|error| AddonError::system(format!("look at the namespace {path}"), error))?;
    Ok((file, found))
}

#[napi]
pub fn current_netns_inode() -> Result<f64> {
    let found = fs::metadata("/proc/self/ns/net")
        .map_err(|error| AddonError::system("look at the process's network namespace", error))?;
    Ok(found.ino() as f64)
}

/// Runs `work` on a thread of its own inside the namespace; the thread ends with it.
pub(crate) async fn inside<T: Send + 'static>(
    namespace: OwnedFd,
    work: impl FnOnce() -> std::result::Result<T, AddonError> + Send + 'static,
) -> std::result::Result<T, AddonError> {
    on_thread(move || {
        setns(&namespace, CloneFlags::CLONE_NEWNET)
            .map_err(|error| AddonError::system("enter the network namespace", error))?;
        work()
    })
    .await
}

/// Threads at a time. When hundreds of pods come together, more would only wait for the processors, each with a stack
/// that the C library keeps, and with the descriptors of the program that it has started.
static THREADS: Semaphore = Semaphore::const_new(32);

/// Runs `work` on a thread that lives for this call only.
pub(crate) async fn on_thread<T: Send + 'static>(
    work: impl FnOnce() -> std::result::Result<T, AddonError> + Send + 'static,
) -> std::result::Result<T, AddonError> {
    // Never closed: a place is always given.
    let _place = THREADS.acquire().await;
    let (done, outcome) = oneshot::channel();
    std::thread::Builder::new()
        .name("meltemi-netns".into())
        .stack_size(256 * 1024)
        .spawn(move || {
            // The caller may have gone.
            let _ = done.send(work());
        })
        .map_err(|error| AddonError::system("start a thread", error))?;
    outcome.await.unwrap_or_else(|_| {
        Err(AddonError::Protocol("the thread in the namespace ended without a result".into()))
    })
}

#[napi]
pub fn netns_addresses(env: &Env, fd: i32) -> Result<PromiseRaw<'_, Vec<NetnsAddress>>> {
    let namespace = duplicate(fd);
    env.spawn_future(async move { Ok(inside(namespace?, addresses).await?) })
}

fn addresses() -> std::result::Result<Vec<NetnsAddress>, AddonError> {
    let all = getifaddrs().map_err(|error| AddonError::system("list addresses", error))?;
    Ok(all
        .filter_map(|entry| {
            let address = entry.address?;
            let mask = entry.netmask;
            let (address, prefix) = if let Some(v4) = address.as_sockaddr_in() {
                let prefix = mask.and_then(|mask| Some(u32::from(mask.as_sockaddr_in()?.ip()).count_ones()));
                (v4.ip().to_string(), prefix.unwrap_or(32))
            } else {
                let v6 = address.as_sockaddr_in6()?;
                let prefix =
                    mask.and_then(|mask| Some(u128::from(mask.as_sockaddr_in6()?.ip()).count_ones()));
                (v6.ip().to_string(), prefix.unwrap_or(128))
            };
            Some(NetnsAddress { interface_name: entry.interface_name, address, prefix })
        })
        .collect())
}

#[napi]
pub fn write_netns_sysctl(env: &Env, fd: i32, name: String, value: String) -> Result<PromiseRaw<'_, ()>> {
    let namespace = duplicate(fd);
    env.spawn_future(async move {
        let place = sysctl_path(&name)?;
        // /proc/sys/net shows the namespace of the thread that looks.
        let action = format!("write sysctl {name}={value}");
        let write = move || fs::write(&place, value).map_err(|error| AddonError::system(action, error));
        Ok(inside(namespace?, write).await?)
    })
}

/// The values of sysctls, without the line's end; `None` for one that this namespace does not have.
#[napi]
pub fn read_netns_sysctls(
    env: &Env,
    fd: i32,
    names: Vec<String>,
) -> Result<PromiseRaw<'_, Vec<Option<String>>>> {
    let namespace = duplicate(fd);
    env.spawn_future(async move {
        let places =
            names.iter().map(|name| sysctl_path(name)).collect::<std::result::Result<Vec<_>, _>>()?;
        let read = move || places.iter().map(|place| read_if_present(place)).collect();
        Ok(inside(namespace?, read).await?)
    })
}

/// The text of the namespace's /proc/net/tcp and tcp6, one after the other.
#[napi]
pub fn netns_tcp_table(env: &Env, fd: i32) -> Result<PromiseRaw<'_, String>> {
    let namespace = duplicate(fd);
    env.spawn_future(async move {
        let read = || {
            // /proc/net is the process's; this thread is elsewhere.
            let v4 = read_if_present("/proc/thread-self/net/tcp")?;
            let v6 = read_if_present("/proc/thread-self/net/tcp6")?;
            Ok([v4, v6].into_iter().flatten().collect::<Vec<_>>().join("\n"))
        };
        Ok(inside(namespace?, read).await?)
    })
}

fn read_if_present(place: &str) -> std::result::Result<Option<String>, AddonError> {
    match fs::read_to_string(place) {
        Ok(text) => Ok(Some(text.trim_end().to_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(AddonError::system(format!("read {place}"), error)),
    }
}

/// A container's own /proc/sys is read-only: on a cluster the node's `net` is mounted here (src/manifests/node.ts). Which
/// namespace's values either shows is decided by who looks.
const HOST_PROC_SYS: &str = "/host/proc/sys";

fn proc_sys() -> &'static str {
    static FOUND: std::sync::OnceLock<&'static str> = std::sync::OnceLock::new();
    FOUND.get_or_init(|| {
        let mounted = std::path::Path::new(HOST_PROC_SYS).join("net").is_dir();
        if mounted { HOST_PROC_SYS } else { "/proc/sys" }
    })
}

/// Only below `net/`: nothing else belongs to a network namespace.
pub(crate) fn sysctl_path(name: &str) -> std::result::Result<String, AddonError> {
    let plain = |part: &str| {
        !part.is_empty()
            && part != "."
            && part != ".."
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
    };
    if !name.starts_with("net/") || !name.split('/').all(plain) {
        return Err(AddonError::BadArgument(format!(
            "{name:?} is not a sysctl of a network namespace (net/ipv4/ip_forward, for example)"
        )));
    }
    Ok(format!("{}/{name}", proc_sys()))
}
