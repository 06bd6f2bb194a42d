//! What the agent holds of a node's BPF: the shared programs and maps, and each pod's links.

use crate::abi::{
    self, COUNTERS, Counters, FLAG_DRAINING, FLOWS, Place, REASONS, SETTINGS, SOCKETS, Settings,
};
use crate::bpffs;
use crate::error::{BpfError, failed};
use crate::inside::on_thread;
use crate::interfaces::{self, Interface, Survey};
use crate::pins::{LISTENERS, pod_directory, pods_directory};
use crate::settings::PodSettings;
use crate::sys::{self, Map, Plain, Tag};
use crate::template::{self, KernelTypes, Programs, Template};
use crate::walk::Walk;
use crate::wanted::{self, Spot, Wanted};
use nix::sys::stat::fstat;
use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

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

/// Made once per agent, in the host's network namespace, of which every call has to come.
#[derive(Debug)]
pub struct Node {
    directory: PathBuf,
    home_cookie: u64,
    maps: HashMap<&'static str, OwnedFd>,
    settings: Map<Place, Settings>,
    places: HashMap<u64, Vec<Place>>,
    guard_template: Template,
    pod_template: Template,
    guard: Programs,
    walk: Walk,
    tags: HashMap<String, Tag>,
    possible_cpus: usize,
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
        let maps = abi::MAPS
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
        let places = known_places(&settings)?;
        let possible_cpus = possible_cpus().map_err(failed("count the processors"))?;
        let directory = directory.to_owned();
        Ok(Self {
            directory,
            home_cookie,
            maps,
            settings,
            places,
            guard_template,
            pod_template,
            guard,
            walk,
            tags,
            possible_cpus,
        })
    }

    /// Puts the guard in force. At a pod's first time, connections that are there are exempt from it. Again
    /// for one that has it: repairs what is broken, takes new interfaces and settings, ends draining.
    pub fn attach_guard(
        &mut self,
        namespace: BorrowedFd<'_>,
        inode: u64,
        settings: &PodSettings,
    ) -> Result<PodPrograms, BpfError> {
        let survey = self.survey(namespace, inode)?;
        let compiled = settings.compile()?;
        let directory = pod_directory(&self.directory, inode);
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
        &mut self,
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
        let links = wanted::guard(survey);
        for link in &links {
            self.ensure(link, namespace, inode, survey)?;
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
    pub fn attach_redirect(
        &mut self,
        namespace: BorrowedFd<'_>,
        inode: u64,
    ) -> Result<PodPrograms, BpfError> {
        let survey = self.survey(namespace, inode)?;
        if self.cookie_of(inode)? != Some(survey.cookie) {
            return Err(BpfError::Unknown { inode });
        }
        let directory = pod_directory(&self.directory, inode);
        self.pod_template.pinned_map("listeners", &directory.join(LISTENERS))?;
        bpffs::make_directories(&directory.join(REDIRECTED))?;
        for link in &wanted::redirect() {
            self.ensure(link, namespace, inode, &survey)?;
        }
        self.programs(inode, &survey)
    }

    /// Takes the redirection away and leaves the guard.
    pub fn detach_redirect(&mut self, inode: u64) -> Result<(), BpfError> {
        let directory = pod_directory(&self.directory, inode);
        for name in bpffs::names(&directory)? {
            if wanted::is_redirect(&name) {
                bpffs::unpin(&directory.join(name))?;
            }
        }
        bpffs::remove_directory(&directory.join(REDIRECTED))
    }

    /// Changes an attached pod's settings; whether it drains stays as it is.
    pub fn update(&mut self, inode: u64, settings: &PodSettings) -> Result<(), BpfError> {
        let compiled = settings.compile()?;
        for (place, known) in self.known(inode)? {
            let changed = Settings {
                netns_cookie: known.netns_cookie,
                netns_inode: known.netns_inode,
                netns_id: known.netns_id,
                flags: compiled.flags | (known.flags & FLAG_DRAINING),
                ..compiled
            };
            self.settings.set(&place, &changed).map_err(failed("change a pod's settings"))?;
        }
        Ok(())
    }

    /// The pod leaves the mesh: the guard and the redirection let new connections pass directly, and the
    /// application's sockets that the proxy still carries get the mark 0x53b. Returns how many.
    pub fn mark_for_drain(&mut self, namespace: BorrowedFd<'_>, inode: u64) -> Result<usize, BpfError> {
        self.require(namespace, inode)?;
        for (place, known) in self.known(inode)? {
            let draining = Settings { flags: known.flags | FLAG_DRAINING, ..known };
            self.settings.set(&place, &draining).map_err(failed("let a pod drain"))?;
        }
        self.walk.mark_carried(namespace)
    }

    /// What is not as attached: constant phrases, each once. Empty: all is intact.
    pub fn verify(&self, namespace: BorrowedFd<'_>, inode: u64) -> Result<Vec<&'static str>, BpfError> {
        let survey = self.survey(namespace, inode)?;
        let directory = pod_directory(&self.directory, inode);
        let mut faults = Vec::new();
        let mut links = wanted::guard(&survey);
        if directory.join(REDIRECTED).exists() {
            links.extend(wanted::redirect());
        }
        for link in &links {
            if let Err(fault) = link.inspect(&directory, namespace, inode, self.tag(link)?)? {
                faults.push(link.phrase(fault));
            }
        }
        for (place, _) in places(&survey) {
            if !self
                .settings
                .get(&place)
                .map_err(failed("read a pod's settings"))?
                .is_some_and(|settings| settings.netns_cookie == survey.cookie)
            {
                faults.push("pod settings gone");
            }
        }
        faults.sort_unstable();
        faults.dedup();
        Ok(faults)
    }

    /// Packets since the guard was attached, by reason, both directions and all processors together.
    pub fn counters(&self, inode: u64) -> Result<BTreeMap<&'static str, u64>, BpfError> {
        let cookie = self.cookie_of(inode)?.ok_or(BpfError::Unknown { inode })?;
        let size = size_of::<Counters>();
        let mut values = vec![0_u8; size * self.possible_cpus];
        let map = self.maps[COUNTERS].as_fd();
        sys::map_lookup(map, cookie.bytes(), &mut values)
            .map_err(failed("read a pod's counters"))?
            .ok_or(BpfError::Unknown { inode })?;
        let mut sums: BTreeMap<_, _> = REASONS.iter().map(|reason| (*reason, 0_u64)).collect();
        for (index, number) in values.chunks_exact(8).enumerate() {
            let reason = REASONS[index % REASONS.len()];
            let packets = u64::from_ne_bytes(number.try_into().unwrap_or_default());
            *sums.entry(reason).or_default() += packets;
        }
        Ok(sums)
    }

    /// Removes everything of a pod, also when its namespace is gone. The guard goes last.
    pub fn detach(&mut self, inode: u64) -> Result<(), BpfError> {
        let directory = pod_directory(&self.directory, inode);
        self.detach_redirect(inode)?;
        for name in bpffs::names(&directory)? {
            if name != ENROLLED {
                bpffs::unpin(&directory.join(name))?;
            }
        }
        bpffs::remove_directory(&directory.join(ENROLLED))?;
        bpffs::remove_directory(&directory)?;
        let cookie = self.cookie_of(inode)?;
        let removing = || failed("remove a pod's settings and counters");
        for place in self.places.remove(&inode).unwrap_or_default() {
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
    pub fn dispose(mut self) -> Result<(), BpfError> {
        for inode in self.attached()? {
            self.detach(inode)?;
        }
        bpffs::remove_directory(&pods_directory(&self.directory))?;
        for name in bpffs::names(&self.directory)? {
            // Of whatever version. The kernel's own files may be there, too.
            let ours = |(map, _): &(&str, &str)| {
                name.strip_prefix(map).is_some_and(|version| version.starts_with('-'))
            };
            if abi::MAPS.iter().any(ours) {
                bpffs::unpin(&self.directory.join(&name))?;
            }
        }
        bpffs::dispose(&self.directory)
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

    fn known(&self, inode: u64) -> Result<Vec<(Place, Settings)>, BpfError> {
        let places = self.places.get(&inode).ok_or(BpfError::Unknown { inode })?;
        let mut known = Vec::with_capacity(places.len());
        for place in places {
            let settings = self.settings.get(place).map_err(failed("read a pod's settings"))?;
            known.extend(settings.map(|settings| (*place, settings)));
        }
        Ok(known)
    }

    fn cookie_of(&self, inode: u64) -> Result<Option<u64>, BpfError> {
        match self.known(inode) {
            Ok(known) => Ok(known.first().map(|(_, settings)| settings.netns_cookie)),
            Err(BpfError::Unknown { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn write_settings(&mut self, inode: u64, survey: &Survey, compiled: Settings) -> Result<(), BpfError> {
        let writing = || failed("write a pod's settings");
        let wanted = places(survey);
        for (place, netns_id) in &wanted {
            let settings =
                Settings { netns_cookie: survey.cookie, netns_inode: inode, netns_id: *netns_id, ..compiled };
            self.settings.set(place, &settings).map_err(writing())?;
        }
        let wanted: Vec<Place> = wanted.into_iter().map(|(place, _)| place).collect();
        for gone in self.places.insert(inode, wanted.clone()).unwrap_or_default() {
            if !wanted.contains(&gone) && !self.is_anothers(inode, &gone) {
                sys::map_delete(self.settings.as_fd(), gone.bytes()).map_err(writing())?;
            }
        }
        Ok(())
    }

    /// An interface's index may have become another pod's meanwhile.
    fn is_anothers(&self, inode: u64, place: &Place) -> bool {
        self.places.iter().any(|(other, places)| *other != inode && places.contains(place))
    }

    fn make_counters(&self, cookie: u64) -> Result<(), BpfError> {
        const BPF_NOEXIST: u64 = 1;
        let zero = vec![0_u8; size_of::<Counters>() * self.possible_cpus];
        match sys::map_update(self.maps[COUNTERS].as_fd(), cookie.bytes(), &zero, BPF_NOEXIST) {
            Err(error) if error.raw_os_error() != Some(libc::EEXIST) => {
                Err(BpfError::system("make a pod's counters", error))
            }
            _ => Ok(()),
        }
    }

    fn tag(&self, link: &Wanted) -> Result<Tag, BpfError> {
        self.tags.get(link.program).copied().ok_or_else(|| BpfError::Object {
            object: "programs",
            problem: format!("has no program {}", link.program),
        })
    }

    fn ensure(
        &self,
        link: &Wanted,
        namespace: BorrowedFd<'_>,
        inode: u64,
        survey: &Survey,
    ) -> Result<(), BpfError> {
        let directory = pod_directory(&self.directory, inode);
        let Err(fault) = link.inspect(&directory, namespace, inode, self.tag(link)?)? else { return Ok(()) };
        if let Spot::Host(_) = link.spot {
            return link.establish(fault, &directory, namespace, self.guard.get(link.program)?).map(drop);
        }
        let own = self.load_inside(link, &directory, survey)?;
        link.establish(fault, &directory, namespace, own.get(link.program)?).map(drop)
    }

    /// Loads a pod's own instance of a program.
    fn load_inside(&self, link: &Wanted, directory: &Path, survey: &Survey) -> Result<Programs, BpfError> {
        let mut maps = template::node_maps(&self.maps);
        let header: u32 = if link.ethernet { 14 } else { 0 };
        let mut constants =
            vec![("pod_cookie", survey.cookie.bytes()), ("link_header_bytes", header.bytes())];
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

    fn programs(&self, inode: u64, survey: &Survey) -> Result<PodPrograms, BpfError> {
        let directory = pod_directory(&self.directory, inode);
        let mut link_ids = BTreeMap::new();
        for link in wanted::guard(survey).into_iter().chain(wanted::redirect()) {
            let path = directory.join(&link.pin);
            let Ok(open) = sys::open_pinned(&path) else { continue };
            let info =
                sys::link_info(open.as_fd()).map_err(failed(format!("look at link {}", path.display())))?;
            link_ids.insert(link.pin, info.id);
        }
        let inside = survey.interfaces.iter().any(|interface| interface.host.is_none());
        let guard = if inside { GuardAt::Pod } else { GuardAt::Host };
        Ok(PodPrograms {
            guard: link_ids.keys().any(|pin| pin.starts_with("guard_")).then_some(guard),
            redirect: link_ids.contains_key("redirect"),
            interfaces: survey.interfaces.clone(),
            link_ids,
        })
    }

    /// The connections that are remembered as exempt, of all pods.
    pub fn flow_count(&self) -> Result<usize, BpfError> {
        let keys = sys::map_keys::<abi::FlowKey>(self.maps[FLOWS].as_fd());
        Ok(keys.map_err(failed("list the exempt connections"))?.len())
    }

    /// The map that the data plane registers its sockets in.
    pub fn sockets_path(&self) -> PathBuf {
        self.directory.join(SOCKETS)
    }
}

/// Where a pod's settings are looked up, with the pod's number as seen from there.
fn places(survey: &Survey) -> Vec<(Place, i32)> {
    let ends = survey.interfaces.iter().filter_map(|interface| interface.host.as_ref());
    let mut places: Vec<_> = ends.map(|end| (Place::host_end(end.ifindex), survey.netns_id)).collect();
    places.push((Place::inside(survey.cookie), -1));
    places
}

fn known_places(settings: &Map<Place, Settings>) -> Result<HashMap<u64, Vec<Place>>, BpfError> {
    let reading = || failed("read the pods' settings");
    let mut known: HashMap<u64, Vec<Place>> = HashMap::new();
    for place in sys::map_keys::<Place>(settings.as_fd()).map_err(reading())? {
        if let Some(found) = settings.get(&place).map_err(reading())? {
            known.entry(found.netns_inode).or_default().push(place);
        }
    }
    Ok(known)
}

/// How many values a per-CPU map has for each key.
fn possible_cpus() -> std::io::Result<usize> {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/possible")?;
    let last = text.trim().rsplit([',', '-']).next().and_then(|last| last.parse::<usize>().ok());
    last.map(|last| last + 1)
        .ok_or_else(|| std::io::Error::other(format!("not a list of processors: {text:?}")))
}
