//! Handles to network namespaces, and code that runs inside them.
//!
//! A thread that enters a pod's namespace always comes back before anything else can run on it. If
//! coming back fails, sockets of other pods could be opened in the wrong namespace, under the wrong
//! identity: the process aborts instead.
use crate::CaptureError;
use meltemi_bpf::{ListenerRole, Sockets};
use nix::sched::{CloneFlags, setns};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What the kernel tells namespaces apart by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NetnsId {
    pub device: u64,
    pub inode: u64,
}

impl NetnsId {
    fn of(fd: &OwnedFd) -> io::Result<Self> {
        let stat = nix::sys::stat::fstat(fd.as_fd()).map_err(io::Error::from)?;
        Ok(Self { device: stat.st_dev, inode: stat.st_ino })
    }
}

/// The namespace that the data plane's threads live in.
#[derive(Debug, Clone)]
pub struct HomeNetns(Arc<Home>);

#[derive(Debug)]
struct Home {
    fd: OwnedFd,
    id: NetnsId,
    /// Where the agent's guard finds the data plane's sockets; none: there is no guard.
    bpf: Option<PathBuf>,
}

impl HomeNetns {
    /// The calling thread's namespace. Call once, before any thread enters another namespace. `bpf`: the
    /// node's directory of the agent's guard, with which every socket in a pod is registered then.
    pub fn current(bpf: Option<PathBuf>) -> Result<Self, CaptureError> {
        let path = format!("/proc/self/task/{}/ns/net", nix::unistd::gettid());
        let fd = OwnedFd::from(File::open(Path::new(&path))?);
        let id = NetnsId::of(&fd)?;
        Ok(Self(Arc::new(Home { fd, id, bpf })))
    }

    pub fn id(&self) -> NetnsId {
        self.0.id
    }
}

/// A pod's network namespace, kept alive by its descriptor. Cheap to clone.
#[derive(Debug, Clone)]
pub struct PodNetns(Arc<Pod>);

#[derive(Debug)]
struct Pod {
    home: HomeNetns,
    fd: OwnedFd,
    id: NetnsId,
    sockets: Option<Sockets>,
    redirected_by_bpf: bool,
}

impl PodNetns {
    /// Takes a descriptor, as received from the agent or opened from a path.
    ///
    /// # Errors
    /// When the descriptor is not of a network namespace, or is of the data plane's own; when there is a
    /// guard, and no socket could be registered with it.
    pub fn new(home: &HomeNetns, fd: OwnedFd) -> Result<Self, CaptureError> {
        require_network_namespace(&fd).map_err(CaptureError::NotANamespace)?;
        let id = NetnsId::of(&fd)?;
        if id == home.id() {
            return Err(CaptureError::OwnNamespace { inode: id.inode });
        }
        // Anew for each pod: an agent that was started again may have made the map again.
        let sockets = home.0.bpf.as_deref().map(Sockets::open).transpose()?;
        let listeners = sockets.as_ref().map(|sockets| sockets.listeners(id.inode)).transpose()?;
        let redirected_by_bpf = listeners.flatten().is_some();
        Ok(Self(Arc::new(Pod { home: home.clone(), fd, id, sockets, redirected_by_bpf })))
    }

    pub fn open(home: &HomeNetns, path: &Path) -> Result<Self, CaptureError> {
        Self::new(home, OwnedFd::from(File::open(path)?))
    }

    pub fn id(&self) -> NetnsId {
        self.0.id
    }

    /// Whether the pod's redirection was by BPF when the pod was taken up.
    pub(crate) fn is_redirected_by_bpf(&self) -> bool {
        self.0.redirected_by_bpf
    }

    /// Vouches for a socket to the guard: before it listens or connects, else its packets are dropped.
    pub(crate) fn register(&self, socket: &impl AsFd) -> Result<(), CaptureError> {
        match &self.0.sockets {
            Some(sockets) => Ok(sockets.register(socket)?),
            None => Ok(()),
        }
    }

    /// Has the pod's redirection, where that is by BPF, bring connections to a socket that listens.
    pub(crate) fn publish(
        &self,
        role: ListenerRole,
        ipv6: bool,
        listener: &impl AsFd,
    ) -> Result<(), CaptureError> {
        let Some(sockets) = &self.0.sockets else { return Ok(()) };
        match sockets.listeners(self.0.id.inode)? {
            Some(listeners) => Ok(listeners.set(role, ipv6, listener)?),
            None => Ok(()),
        }
    }

    /// Runs `f` with the calling thread inside the pod's namespace. `f` must not block for long and
    /// cannot await. The process aborts if the thread cannot return afterwards.
    pub fn run<T>(&self, f: impl FnOnce() -> T) -> Result<T, CaptureError> {
        setns(self.0.fd.as_fd(), CloneFlags::CLONE_NEWNET)
            .map_err(|e| CaptureError::Enter { inode: self.0.id.inode, source: e.into() })?;
        let _back = Return(&self.0.home);
        Ok(f())
    }
}

/// Brings the thread home when dropped, also when the closure panics.
struct Return<'a>(&'a HomeNetns);

impl Drop for Return<'_> {
    fn drop(&mut self) {
        if let Err(errno) = setns(self.0.0.fd.as_fd(), CloneFlags::CLONE_NEWNET) {
            tracing::error!(error = %errno, "cannot leave a pod's network namespace, aborting");
            std::process::abort();
        }
    }
}

/// `NS_GET_NSTYPE` of linux/nsfs.h: `_IO(0xb7, 3)`.
const NS_GET_NSTYPE: libc::Ioctl = 0xb703;

fn require_network_namespace(fd: &OwnedFd) -> io::Result<()> {
    // SAFETY: NS_GET_NSTYPE takes no argument and writes no memory; the descriptor is open for the
    // whole call because it is borrowed.
    let kind = unsafe { libc::ioctl(fd.as_raw_fd(), NS_GET_NSTYPE) };
    match kind {
        libc::CLONE_NEWNET => Ok(()),
        -1 => Err(io::Error::last_os_error()),
        other => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("namespace of another kind ({other:#x})"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_file_is_not_a_namespace() {
        let home = HomeNetns::current(None).unwrap();
        let error = PodNetns::open(&home, Path::new("/proc/self/status")).unwrap_err();
        assert!(matches!(error, CaptureError::NotANamespace(_)), "{error}");
    }

    #[test]
    fn a_namespace_of_another_kind_is_refused() {
        let home = HomeNetns::current(None).unwrap();
        let error = PodNetns::open(&home, Path::new("/proc/self/ns/mnt")).unwrap_err();
        assert!(matches!(error, CaptureError::NotANamespace(_)), "{error}");
    }

    #[test]
    fn without_the_guards_map_a_pod_is_refused() {
        let home = HomeNetns::current(Some("/nonexistent/bpf".into())).unwrap();
        // Another namespace than one's own is not to be had without privileges: the order of the checks is.
        let own = PodNetns::open(&home, Path::new("/proc/self/ns/net")).unwrap_err();
        assert!(matches!(own, CaptureError::OwnNamespace { .. }), "{own}");
        let absent = Sockets::open(Path::new("/nonexistent/bpf")).map_err(CaptureError::from).unwrap_err();
        assert!(absent.to_string().contains("/nonexistent/bpf/sockets-1"), "{absent}");
    }

    #[test]
    fn the_data_planes_own_namespace_is_refused() {
        let home = HomeNetns::current(None).unwrap();
        let error = PodNetns::open(&home, Path::new("/proc/self/ns/net")).unwrap_err();
        assert!(matches!(error, CaptureError::OwnNamespace { .. }), "{error}");
    }
}
