//! What is attached, whether it is intact, and what it has counted.

use super::glance::{Seen, SeenLink};
use super::settings::places;
use super::{Node, PodPrograms, REDIRECTED};
use crate::GuardAt;
use crate::abi::REASONS;
use crate::error::{BpfError, failed};
use crate::interfaces::Survey;
use crate::layout::{COUNTERS, Counters, FLOWS, FlowKey};
use crate::pins::pod_directory;
use crate::sys::{self, Plain};
use crate::wanted::{self, Fault};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};

impl Node {
    /// What is not as attached: constant phrases, each once. Empty: all is intact.
    pub fn verify(&self, namespace: BorrowedFd<'_>, inode: u64) -> Result<Vec<&'static str>, BpfError> {
        let survey = self.survey(namespace, inode)?;
        let directory = pod_directory(&self.directory, inode);
        let mut faults = Vec::new();
        let mut links = wanted::guard(&survey);
        if directory.join(REDIRECTED).exists() {
            links.extend(wanted::redirect());
        }
        let mut seen = Vec::with_capacity(links.len());
        let mut partial = false;
        for link in &links {
            match link.inspect(&directory, namespace, inode, self.tag(link)?)? {
                Ok((_, info)) => seen.push(SeenLink::new(link, info)),
                Err(Fault::Gone) if self.is_stood_in_for(link, namespace, inode)? => partial = true,
                Err(fault) => faults.push(link.phrase(fault)),
            }
        }
        for (place, _) in places(&survey) {
            let settings = self.settings.get(&place).map_err(failed("read a pod's settings"))?;
            if settings.is_none_or(|settings| settings.netns_cookie != survey.cookie) {
                faults.push("pod settings gone");
            }
        }
        if faults.is_empty() {
            self.seen().insert(inode, Seen { links: seen, netns_cookie: survey.cookie, partial });
        } else {
            self.seen().remove(&inode);
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

    pub(super) fn programs(&self, inode: u64, survey: &Survey) -> Result<PodPrograms, BpfError> {
        let directory = pod_directory(&self.directory, inode);
        let mut link_ids = BTreeMap::new();
        for link in wanted::guard(survey).into_iter().chain(wanted::redirect()) {
            let path = directory.join(&link.pin);
            let Ok(open) = sys::open_pinned(&path) else { continue };
            let info =
                sys::link_info(open.as_fd()).map_err(failed(format!("look at link {}", path.display())))?;
            link_ids.insert(link.pin, info.id);
        }
        let guarded = link_ids.keys().any(|pin| pin.starts_with("guard_")) || self.is_unsettled(inode);
        let inside = survey.interfaces.iter().any(|interface| interface.host.is_none());
        let guard = if inside { GuardAt::Pod } else { GuardAt::Host };
        Ok(PodPrograms {
            guard: guarded.then_some(guard),
            redirect: link_ids.contains_key("redirect"),
            interfaces: survey.interfaces.clone(),
            link_ids,
        })
    }

    pub(super) fn make_counters(&self, cookie: u64) -> Result<(), BpfError> {
        const BPF_NOEXIST: u64 = 1;
        let zero = vec![0_u8; size_of::<Counters>() * self.possible_cpus];
        match sys::map_update(self.maps[COUNTERS].as_fd(), cookie.bytes(), &zero, BPF_NOEXIST) {
            Err(error) if error.raw_os_error() != Some(libc::EEXIST) => {
                Err(BpfError::system("make a pod's counters", error))
            }
            _ => Ok(()),
        }
    }

    /// The connections that are remembered as exempt, of all pods.
    pub fn flow_count(&self) -> Result<usize, BpfError> {
        let keys = sys::map_keys::<FlowKey>(self.maps[FLOWS].as_fd());
        Ok(keys.map_err(failed("list the exempt connections"))?.len())
    }
}

/// How many values a per-CPU map has for each key.
pub(super) fn possible_cpus() -> std::io::Result<usize> {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/possible")?;
    let last = text.trim().rsplit([',', '-']).next().and_then(|last| last.parse::<usize>().ok());
    last.map(|last| last + 1)
        .ok_or_else(|| std::io::Error::other(format!("not a list of processors: {text:?}")))
}
