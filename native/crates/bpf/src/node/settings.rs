//! What the programs are told of each pod.

use super::Node;
use crate::error::{BpfError, failed};
use crate::interfaces::Survey;
use crate::layout::{FLAG_DRAINING, Place, Settings};
use crate::settings::PodSettings;
use crate::sys::{self, Map, Plain};
use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};

impl Node {
    /// Changes an attached pod's settings; whether it drains stays as it is.
    pub fn update(&self, inode: u64, settings: &PodSettings) -> Result<(), BpfError> {
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
    pub fn mark_for_drain(&self, namespace: BorrowedFd<'_>, inode: u64) -> Result<usize, BpfError> {
        self.require(namespace, inode)?;
        for (place, known) in self.known(inode)? {
            let draining = Settings { flags: known.flags | FLAG_DRAINING, ..known };
            self.settings.set(&place, &draining).map_err(failed("let a pod drain"))?;
        }
        self.walk.mark_carried(namespace)
    }

    pub(super) fn known(&self, inode: u64) -> Result<Vec<(Place, Settings)>, BpfError> {
        let places = self.places().get(&inode).cloned().ok_or(BpfError::Unknown { inode })?;
        let mut known = Vec::with_capacity(places.len());
        for place in places {
            let settings = self.settings.get(&place).map_err(failed("read a pod's settings"))?;
            known.extend(settings.map(|settings| (place, settings)));
        }
        Ok(known)
    }

    pub(super) fn cookie_of(&self, inode: u64) -> Result<Option<u64>, BpfError> {
        match self.known(inode) {
            Ok(known) => Ok(known.first().map(|(_, settings)| settings.netns_cookie)),
            Err(BpfError::Unknown { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) fn write_settings(
        &self,
        inode: u64,
        survey: &Survey,
        compiled: Settings,
    ) -> Result<(), BpfError> {
        let writing = || failed("write a pod's settings");
        let wanted = places(survey);
        for (place, netns_id) in &wanted {
            let settings =
                Settings { netns_cookie: survey.cookie, netns_inode: inode, netns_id: *netns_id, ..compiled };
            self.settings.set(place, &settings).map_err(writing())?;
        }
        let wanted: Vec<Place> = wanted.into_iter().map(|(place, _)| place).collect();
        let former = self.places().insert(inode, wanted.clone()).unwrap_or_default();
        for gone in former {
            if !wanted.contains(&gone) && !self.is_anothers(inode, &gone) {
                sys::map_delete(self.settings.as_fd(), gone.bytes()).map_err(writing())?;
            }
        }
        Ok(())
    }

    /// An interface's index may have become another pod's meanwhile.
    pub(super) fn is_anothers(&self, inode: u64, place: &Place) -> bool {
        self.places().iter().any(|(other, places)| *other != inode && places.contains(place))
    }
}

/// Where a pod's settings are looked up, with the pod's number as seen from there.
pub(super) fn places(survey: &Survey) -> Vec<(Place, i32)> {
    let ends = survey.interfaces.iter().filter_map(|interface| interface.host.as_ref());
    let mut places: Vec<_> = ends.map(|end| (Place::host_end(end.ifindex), survey.netns_id)).collect();
    places.push((Place::inside(survey.cookie), -1));
    places
}

pub(super) fn known_places(settings: &Map<Place, Settings>) -> Result<HashMap<u64, Vec<Place>>, BpfError> {
    let reading = || failed("read the pods' settings");
    let mut known: HashMap<u64, Vec<Place>> = HashMap::new();
    for place in sys::map_keys::<Place>(settings.as_fd()).map_err(reading())? {
        if let Some(found) = settings.get(&place).map_err(reading())? {
            known.entry(found.netns_inode).or_default().push(place);
        }
    }
    Ok(known)
}
