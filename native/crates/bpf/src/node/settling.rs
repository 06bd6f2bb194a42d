//! A pod's first programs: at the older hook (clsact.rs), where they are in force at once; then, when nobody waits
//! for the kernel, links in their place. Until the links are there a TCX program that somebody else attaches to the
//! same interface runs before ours; where one is attached already, the links are made at once.

use super::Node;
use crate::clsact::{self, Filter};
use crate::error::{BpfError, failed};
use crate::inside::inside;
use crate::interfaces::Survey;
use crate::pins::pod_directory;
use crate::sys;
use crate::wanted::{self, Spot, Wanted};
use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// For how long no pod must have come or gone: a link is made with the kernel's network lock held.
const QUIET: Duration = Duration::from_millis(300);
/// After which a pod no longer waits for that.
const LONGEST: Duration = Duration::from_secs(10);

/// A pod whose links are still to be made.
#[derive(Debug)]
struct Unsettled {
    namespace: OwnedFd,
    survey: Survey,
    since: Instant,
    /// Held while a link of it is made, and by who takes it away.
    turn: Mutex<()>,
}

#[derive(Debug)]
pub(super) struct Settling {
    pods: HashMap<u64, Arc<Unsettled>>,
    /// Calls that attach or detach.
    calls: usize,
    last_call: Instant,
    /// Whether a thread is making links.
    thread: bool,
}

impl Default for Settling {
    fn default() -> Self {
        Self { pods: HashMap::new(), calls: 0, last_call: Instant::now(), thread: false }
    }
}

/// A program at an interface.
struct First {
    program: OwnedFd,
    /// By TCX; else at the older hook.
    linked: bool,
}

/// A call that attaches or detaches, for as long as it lives.
pub(super) struct Call<'a>(&'a Node);

impl Drop for Call<'_> {
    fn drop(&mut self) {
        let mut settling = self.0.settling();
        settling.calls -= 1;
        settling.last_call = Instant::now();
    }
}

impl Node {
    fn settling(&self) -> MutexGuard<'_, Settling> {
        // Every change of it is one step.
        self.settling.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn begin_call(&self) -> Call<'_> {
        self.settling().calls += 1;
        Call(self)
    }

    /// Puts the guard in force at a pod's first time, at the older hook. The pins of the links that are stood
    /// in for so; the others are to be made.
    pub(super) fn stand_in(
        &self,
        namespace: BorrowedFd<'_>,
        inode: u64,
        survey: &Survey,
    ) -> Result<HashSet<String>, BpfError> {
        let held = namespace.try_clone_to_owned().map_err(failed("hold the pod's network namespace"))?;
        let pod = Unsettled {
            namespace: held,
            survey: survey.clone(),
            since: Instant::now(),
            turn: Mutex::new(()),
        };
        // First of all, so that a failure leaves nothing.
        self.settling().pods.insert(inode, Arc::new(pod));
        let mut pins = HashSet::new();
        for interface in survey.interfaces.iter().filter(|interface| interface.host.is_some()) {
            let [out, into, mark] = wanted::guard_of(interface);
            for group in [&[out, into][..], &[mark]] {
                if self.stand_in_for(group, namespace, inode, survey)? {
                    pins.extend(group.iter().map(|link| link.pin.clone()));
                }
            }
        }
        if pins.is_empty() {
            self.settling().pods.remove(&inode);
        }
        Ok(pins)
    }

    /// `false` where others have something at that place, or the hook does not take it: links are made then.
    fn stand_in_for(
        &self,
        links: &[Wanted],
        namespace: BorrowedFd<'_>,
        inode: u64,
        survey: &Survey,
    ) -> Result<bool, BpfError> {
        let directory = pod_directory(&self.directory, inode);
        let mut own = Vec::new();
        for link in links {
            if let Spot::Pod(_) = link.spot {
                own.push(self.load_own(link, &directory, survey)?);
            }
        }
        let mut filters = Vec::with_capacity(links.len());
        for (index, link) in links.iter().enumerate() {
            let program = own.get(index).unwrap_or(&self.guard).get(link.program)?;
            filters.push(Filter { name: link.program, attach: link.attach, program });
        }
        let Some(first) = links.first() else { return Ok(false) };
        let attached = at(first.spot, namespace, |ifindex| {
            for link in links {
                if sys::first_program(ifindex, link.attach)?.is_some() {
                    return Ok(false);
                }
            }
            if clsact::attach(ifindex, &filters)? {
                return Ok(true);
            }
            // Of an agent that was killed, perhaps.
            clsact::detach(ifindex)?;
            clsact::attach(ifindex, &filters)
        });
        // Where the kernel does not take it, the link's error is the one to tell of.
        Ok(attached.unwrap_or(false))
    }

    /// Whether a link that is not made yet is stood in for, or is being made at this moment: its program is the
    /// first that runs there.
    pub(super) fn is_stood_in_for(
        &self,
        link: &Wanted,
        namespace: BorrowedFd<'_>,
        inode: u64,
    ) -> Result<bool, BpfError> {
        Ok(self.is_unsettled(inode) && self.first_at(link, namespace)?.is_some())
    }

    /// The program that runs first where a link is to be, if it is the same one.
    fn first_at(&self, link: &Wanted, namespace: BorrowedFd<'_>) -> Result<Option<First>, BpfError> {
        let tag = self.tag(link)?;
        at(link.spot, namespace, |ifindex| {
            let linked = sys::first_program(ifindex, link.attach)?;
            let first = match linked {
                Some(id) => Some(id),
                None => clsact::filters(ifindex, link.attach)?.first().and_then(|filter| filter.program),
            };
            let Some(program) = first.map(sys::prog_by_id).transpose()? else { return Ok(None) };
            let same = sys::prog_tag(program.as_fd())? == tag;
            Ok(same.then_some(First { program, linked: linked.is_some() }))
        })
    }

    pub(super) fn is_unsettled(&self, inode: u64) -> bool {
        self.settling().pods.contains_key(&inode)
    }

    /// The links of this pod are made now, or not at all: no longer later.
    pub(super) fn stop_settling(&self, inode: u64) {
        let pod = self.settling().pods.remove(&inode);
        if let Some(pod) = pod {
            drop(pod.turn.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// Takes away what stood in for links.
    pub(super) fn stand_back(&self, namespace: BorrowedFd<'_>, survey: &Survey) -> Result<(), BpfError> {
        for interface in &survey.interfaces {
            let Some(host) = &interface.host else { continue };
            at(Spot::Host(host.ifindex), namespace, clsact::detach)?;
            at(Spot::Pod(interface.ifindex), namespace, clsact::detach)?;
        }
        Ok(())
    }

    /// The same for a pod of which only its places on the host are known, or nothing more.
    pub(super) fn stand_back_entirely(&self, inode: u64) -> Result<(), BpfError> {
        let pod = self.settling().pods.remove(&inode);
        if let Some(pod) = pod {
            let _turn = pod.turn.lock().unwrap_or_else(PoisonError::into_inner);
            return self.stand_back(pod.namespace.as_fd(), &pod.survey);
        }
        let places = self.places().get(&inode).cloned().unwrap_or_default();
        for place in places {
            if place.ifindex != 0 && !self.is_anothers(inode, &place) {
                clsact::detach(place.ifindex).map_err(failed("take a filter away"))?;
            }
        }
        Ok(())
    }

    /// Makes one link that a pod still lacks; `false` when none lacks any. A pod for which that fails is left to
    /// the next look at it (`verify`).
    pub fn settle_one(&self) -> Result<bool, BpfError> {
        let oldest = {
            let settling = self.settling();
            let oldest = settling.pods.iter().min_by_key(|(_, pod)| pod.since);
            oldest.map(|(inode, pod)| (*inode, pod.clone()))
        };
        let Some((inode, pod)) = oldest else { return Ok(false) };
        let _turn = pod.turn.lock().unwrap_or_else(PoisonError::into_inner);
        // It may have been taken away meanwhile.
        if !self.settling().pods.get(&inode).is_some_and(|present| Arc::ptr_eq(present, &pod)) {
            return Ok(true);
        }
        let more = self.settle(inode, &pod);
        if !matches!(more, Ok(true)) {
            self.settling().pods.remove(&inode);
        }
        if matches!(more, Ok(false)) {
            // For the short looks, which go by links.
            self.verify(pod.namespace.as_fd(), inode)?;
        }
        more.map(|_| true)
    }

    /// `true` where there is more to do for this pod.
    fn settle(&self, inode: u64, pod: &Unsettled) -> Result<bool, BpfError> {
        let namespace = pod.namespace.as_fd();
        let directory = pod_directory(&self.directory, inode);
        for link in &wanted::guard(&pod.survey) {
            let Err(fault) = link.inspect(&directory, namespace, inode, self.tag(link)?)? else { continue };
            // Of a pod's own programs the instance that is there, not another one.
            match self.first_at(link, namespace)? {
                Some(First { program, linked: false }) => {
                    link.establish(fault, &directory, namespace, program.as_fd())?;
                }
                _ => {
                    self.ensure(link, namespace, inode, &pod.survey)?;
                }
            }
            return Ok(true);
        }
        self.stand_back(namespace, &pod.survey)?;
        Ok(false)
    }

    /// How long to wait until `settle_one` may be called without being in anybody's way; `None`: it has nothing to do.
    pub fn settling_due(&self) -> Option<Duration> {
        let settling = self.settling();
        let oldest = settling.pods.values().map(|pod| pod.since).min()?;
        if oldest.elapsed() >= LONGEST {
            return Some(Duration::ZERO);
        }
        Some(if settling.calls > 0 { QUIET } else { QUIET.saturating_sub(settling.last_call.elapsed()) })
    }

    /// Makes the links that pods lack, on a thread that ends when all are made.
    pub fn settle_in_background(self: &Arc<Self>) -> Result<(), BpfError> {
        {
            let mut settling = self.settling();
            if settling.thread || settling.pods.is_empty() {
                return Ok(());
            }
            settling.thread = true;
        }
        let node = Arc::downgrade(self);
        let work = move || {
            while let Some(node) = node.upgrade() {
                match node.settling_due() {
                    Some(Duration::ZERO) => {
                        // A pod that fails is named by the next short look, and the close one says what it lacks.
                        let _ = node.settle_one();
                    }
                    Some(wait) => {
                        drop(node);
                        std::thread::sleep(wait);
                    }
                    None => {
                        let mut settling = node.settling();
                        if settling.pods.is_empty() {
                            settling.thread = false;
                            return;
                        }
                    }
                }
            }
        };
        let thread = std::thread::Builder::new().name("meltemi-settle".into()).stack_size(256 * 1024);
        thread.spawn(work).map(drop).map_err(|error| {
            self.settling().thread = false;
            BpfError::system("start a thread", error)
        })
    }
}

/// Does something to an interface, in the namespace that it is in.
fn at<T: Send>(
    spot: Spot,
    namespace: BorrowedFd<'_>,
    work: impl FnOnce(u32) -> std::io::Result<T> + Send,
) -> Result<T, BpfError> {
    let doing = || failed("attach at the older hook (tc)");
    match spot {
        Spot::Host(ifindex) => work(ifindex).map_err(doing()),
        Spot::Pod(ifindex) => inside(namespace, || work(ifindex).map_err(doing())),
        Spot::Namespace => {
            Err(BpfError::Object { object: "programs", problem: "a namespace has no interface".to_owned() })
        }
    }
}
