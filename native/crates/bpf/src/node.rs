//! What the agent holds of a node's BPF: the shared programs and maps, and each pod's links.

mod glance;
mod report;
mod settings;
mod settling;

use crate::bpffs;
use crate::error::{BpfError, failed};
use crate::inside::on_thread;
use crate::interfaces::{self, Interface, Survey};
use crate::layout::{COUNTERS, MAPS, Place, SETTINGS, Settings};
use crate::pins::{LISTENERS, pod_directory, pods_directory};
use crate::settings::PodSettings;
use crate::sys::{self, Map, Plain, Tag};
use crate::template::{self, KernelTypes, Programs, Template};
use crate::walk::Walk;
use crate::wanted::{self, Spot, Wanted};
use nix::sys::stat::fstat;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Where a pod's guard is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuardAt {
    /// At the host's end of each of the pod's interfaces, out of the pod's reach.
    Host,
    /// At least one interface has no such end: there it is inside the pod, which is weaker.
    Pod,
}

/// What is attached to a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodPrograms {
    pub guard: Option<GuardAt>,
    pub redirect: bool,
    pub interfaces: Vec<Interface>,
    /// The kernel's numbers of the links, by their pins' names.
    pub link_ids: BTreeMap<String, u32>,
}

/// Made once per agent, in the host's network namespace, of which every call has to come. Calls for different
/// pods may be made at the same time; for one pod, one after the other.
#[derive(Debug)]
pub struct Node {
    directory: PathBuf,
    home_cookie: u64,
    maps: HashMap<&'static str, OwnedFd>,
    settings: Map<Place, Settings>,
    /// Of each namespace's settings.
    places: Mutex<HashMap<u64, Vec<Place>>>,
    /// By namespace, for the short look (glance.rs).
    seen: Mutex<HashMap<u64, glance::Seen>>,
    guard_template: Template,
    pod_template: Template,
    guard: Programs,
    walk: Walk,
    tags: HashMap<String, Tag>,
    possible_cpus: usize,
    /// Pods whose links are still to be made (settling.rs).
    settling: Mutex<settling::Settling>,
}

/// In a pod's directory once its guard is complete: from then on no connection is exempt for its age.
const ENROLLED: &str = "enrolled";
/// In a pod's directory while it is to have a redirection.
const REDIRECTED: &str = "redirected";

impl Node {
    /// Opens the node's directory, or makes it, with a BPF file system where there is none. What is pinned
    /// there stays in force; programs of another build are replaced when their pod is attached again.
    pub fn open(directory: &Path) -> Result<Self, BpfError> {
        bpffs::prepare(directory)?;
        bpffs::make_directories(&pods_directory(directory))?;
        // On a thread of its own: the kernel's types take memory that is given back with it.
        on_thread(|| Self::load(directory))
    }

    fn load(directory: &Path) -> Result<Self, BpfError> {
        let kernel = KernelTypes::read()?;
        let guard_template = Template::new(template::guard(), &kernel)?;
        let pod_template = Template::new(template::pod(), &kernel)?;
        let walk_template = Template::new(template::sockets(), &kernel)?;
        drop(kernel);
        let maps = MAPS
            .iter()
            .map(|(name, pin)| Ok((*pin, guard_template.pinned_map(name, &directory.join(pin))?)))
            .collect::<Result<HashMap<_, _>, BpfError>>()?;
        let home_cookie = interfaces::current_cookie()?;
        let shared = template::node_maps(&maps);
        let guard = guard_template.load(None, &shared, &[("home_cookie", home_cookie.bytes())])?;
        let walk = Walk::new(&walk_template.load(None, &shared, &[])?)?;
        // Only to learn what the pods' programs are to look like.
        let listeners = pod_template.create_map("listeners")?;
        let mut all = shared;
        all.insert("listeners", listeners.as_fd());
        let mut tags = pod_template.load(None, &all, &[])?.tags()?;
        tags.extend(guard.tags()?);
        let settings_map = sys::open_pinned(&directory.join(SETTINGS)).and_then(Map::new);
        let settings: Map<Place, Settings> = settings_map.map_err(failed("open the pods' settings"))?;
        let places = Mutex::new(settings::known_places(&settings)?);
        let possible_cpus = report::possible_cpus().map_err(failed("count the processors"))?;
        let directory = directory.to_owned();
        Ok(Self {
            directory,
            home_cookie,
            maps,
            settings,
            places,
            seen: Mutex::default(),
            guard_template,
            pod_template,
            guard,
            walk,
            tags,
            possible_cpus,
            settling: Mutex::default(),
        })
    }

    /// Puts the guard in force. At a pod's first time, connections that are there are exempt from it, and its links
    /// are left to [`Node::settle_in_background`]. Again for one that has it: repairs what is broken, takes new
    /// interfaces and settings, ends draining.
    pub fn attach_guard(
        &self,
        namespace: BorrowedFd<'_>,
        inode: u64,
        settings: &PodSettings,
    ) -> Result<PodPrograms, BpfError> {
        let _call = self.begin_call();
        let survey = self.survey(namespace, inode)?;
        let compiled = settings.compile()?;
        let directory = pod_directory(&self.directory, inode);
        self.seen().remove(&inode);
        // A number that another namespace had before.
        if self.cookie_of(inode)?.is_some_and(|known| known != survey.cookie) {
            self.detach(inode)?;
        }
        let first = !directory.join(ENROLLED).exists();
        bpffs::make_directories(&directory)?;
        let attached = self.attach_guard_links(namespace, inode, &survey, compiled, first);
        if attached.is_err() && first {
            // The first error is the one to tell of; what remains is removed at the next attempt.
            let _ = self.detach(inode);
        }
        attached
    }

    fn attach_guard_links(
        &self,
        namespace: BorrowedFd<'_>,
        inode: u64,
        survey: &Survey,
        compiled: Settings,
        first: bool,
    ) -> Result<PodPrograms, BpfError> {
        let directory = pod_directory(&self.directory, inode);
        self.make_counters(survey.cookie)?;
        self.write_settings(inode, survey, compiled)?;
        if first {
            self.walk.exempt_present(namespace)?;
        }
        let stood_in_for = if first {
            self.stand_in(namespace, inode, survey)?
        } else {
            self.stop_settling(inode);
            HashSet::new()
        };
        for link in wanted::guard(survey).iter().filter(|link| !stood_in_for.contains(&link.pin)) {
            self.ensure(link, namespace, inode, survey)?;
        }
        if !first {
            // Also where no link was lacking: an agent may have ended between the last link and this.
            self.stand_back(namespace, survey)?;
        }
        self.forget_interfaces(&directory, survey)?;
        if first {
            self.walk.exempt_late(namespace)?;
            bpffs::make_directories(&directory.join(ENROLLED))?;
        }
        self.programs(inode, survey)
    }

    /// Has the pod's new connections brought to the listeners that the data plane leaves in the pod's map.
    /// Needs the guard: it knows the pod's settings.
    pub fn attach_redirect(&self, namespace: BorrowedFd<'_>, inode: u64) -> Result<PodPrograms, BpfError> {
        let _call = self.begin_call();
        let survey = self.survey(namespace, inode)?;
        if self.cookie_of(inode)? != Some(survey.cookie) {
            return Err(BpfError::Unknown { inode });
        }
        let directory = pod_directory(&self.directory, inode);
        self.seen().remove(&inode);
        self.pod_template.pinned_map("listeners", &directory.join(LISTENERS))?;
        bpffs::make_directories(&directory.join(REDIRECTED))?;
        for link in &wanted::redirect() {
            self.ensure(link, namespace, inode, &survey)?;
        }
        self.programs(inode, &survey)
    }

    /// Takes the redirection away and leaves the guard.
    pub fn detach_redirect(&self, inode: u64) -> Result<(), BpfError> {
        let _call = self.begin_call();
        self.seen().remove(&inode);
        let directory = pod_directory(&self.directory, inode);
        for name in bpffs::names(&directory)? {
            if wanted::is_redirect_link(&name) {
                wanted::remove(&directory.join(name))?;
            }
        }
        bpffs::unpin(&directory.join(LISTENERS))?;
        bpffs::remove_directory(&directory.join(REDIRECTED))
    }

    /// Removes everything of a pod, also when its namespace is gone. The guard goes last.
    pub fn detach(&self, inode: u64) -> Result<(), BpfError> {
        let _call = self.begin_call();
        let directory = pod_directory(&self.directory, inode);
        self.detach_redirect(inode)?;
        self.stand_back_entirely(inode)?;
        for name in bpffs::names(&directory)? {
            if name != ENROLLED {
                wanted::remove(&directory.join(name))?;
            }
        }
        bpffs::remove_directory(&directory.join(ENROLLED))?;
        bpffs::remove_directory(&directory)?;
        let cookie = self.cookie_of(inode)?;
        let removing = || failed("remove a pod's settings and counters");
        let places = self.places().remove(&inode).unwrap_or_default();
        for place in places {
            sys::map_delete(self.settings.as_fd(), place.bytes()).map_err(removing())?;
        }
        match cookie {
            Some(cookie) => sys::map_delete(self.maps[COUNTERS].as_fd(), cookie.bytes()).map_err(removing()),
            None => Ok(()),
        }
    }

    /// The namespaces that something is pinned for, also by an agent before this one.
    pub fn attached(&self) -> Result<Vec<u64>, BpfError> {
        let names = bpffs::names(&pods_directory(&self.directory))?;
        let mut inodes: Vec<u64> = names.iter().filter_map(|name| name.parse().ok()).collect();
        inodes.sort_unstable();
        Ok(inodes)
    }

    /// Takes everything away: every pod's, then the node's maps and directory.
    pub fn dispose(&self) -> Result<(), BpfError> {
        for inode in self.attached()? {
            self.detach(inode)?;
        }
        bpffs::remove_directory(&pods_directory(&self.directory))?;
        for name in bpffs::names(&self.directory)? {
            // Of whatever version. The kernel's own files may be there, too.
            let ours = |(map, _): &(&str, &str)| {
                name.strip_prefix(map).is_some_and(|version| version.starts_with('-'))
            };
            if MAPS.iter().any(ours) {
                bpffs::unpin(&self.directory.join(&name))?;
            }
        }
        bpffs::dispose(&self.directory)
    }

    fn places(&self) -> MutexGuard<'_, HashMap<u64, Vec<Place>>> {
        // Every change of it is one step.
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn require(&self, namespace: BorrowedFd<'_>, inode: u64) -> Result<(), BpfError> {
        let found =
            fstat(namespace).map_err(|errno| BpfError::system("look at the pod's namespace", errno))?;
        if found.st_ino != inode {
            let problem = format!("the descriptor is of namespace {}", found.st_ino);
            return Err(BpfError::Namespace { inode, problem });
        }
        Ok(())
    }

    fn survey(&self, namespace: BorrowedFd<'_>, inode: u64) -> Result<Survey, BpfError> {
        self.require(namespace, inode)?;
        let survey = interfaces::survey(namespace)?;
        if survey.cookie == self.home_cookie {
            let problem = "is the host's own: such a pod cannot be guarded".to_owned();
            return Err(BpfError::Namespace { inode, problem });
        }
        Ok(survey)
    }

    fn tag(&self, link: &Wanted) -> Result<Tag, BpfError> {
        self.tags.get(link.program).copied().ok_or_else(|| BpfError::Object {
            object: "programs",
            problem: format!("has no program {}", link.program),
        })
    }

    /// Has the link as it is to be.
    fn ensure(
        &self,
        link: &Wanted,
        namespace: BorrowedFd<'_>,
        inode: u64,
        survey: &Survey,
    ) -> Result<(), BpfError> {
        let directory = pod_directory(&self.directory, inode);
        let Err(fault) = link.inspect(&directory, namespace, inode, self.tag(link)?)? else {
            return Ok(());
        };
        if let Spot::Host(_) = link.spot {
            let shared = link.establish(fault, &directory, namespace, self.guard.get(link.program)?);
            if !shared.as_ref().is_err_and(|error| error.code() == Some(libc::EEXIST)) {
                return shared;
            }
        }
        let own = self.load_own(link, &directory, survey)?;
        link.establish(fault, &directory, namespace, own.get(link.program)?)
    }

    /// Loads a pod's own instance of a program.
    fn load_own(&self, link: &Wanted, directory: &Path, survey: &Survey) -> Result<Programs, BpfError> {
        let mut maps = template::node_maps(&self.maps);
        let header: u32 = if link.ethernet { 14 } else { 0 };
        let cookie = if matches!(link.spot, Spot::Host(_)) { 0 } else { survey.cookie };
        let mut constants = vec![("pod_cookie", cookie.bytes()), ("link_header_bytes", header.bytes())];
        if link.program.starts_with("guard_") {
            constants.push(("home_cookie", self.home_cookie.bytes()));
            return self.guard_template.load(Some(&[link.program]), &maps, &constants);
        }
        // Every program of an object needs all of its maps; only redirect uses this one.
        let listeners = match link.program {
            "redirect" => self.pod_template.pinned_map("listeners", &directory.join(LISTENERS))?,
            _ => self.pod_template.create_map("listeners")?,
        };
        maps.insert("listeners", listeners.as_fd());
        self.pod_template.load(Some(&[link.program]), &maps, &constants)
    }

    /// Removes what was attached to interfaces that the pod no longer has.
    fn forget_interfaces(&self, directory: &Path, survey: &Survey) -> Result<(), BpfError> {
        for name in bpffs::names(directory)? {
            let index = name.rsplit_once('-').and_then(|(_, index)| index.parse::<u32>().ok());
            if index.is_some_and(|index| survey.interfaces.iter().all(|interface| interface.ifindex != index))
            {
                bpffs::unpin(&directory.join(name))?;
            }
        }
        Ok(())
    }
}
