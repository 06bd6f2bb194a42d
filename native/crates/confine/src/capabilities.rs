//! Capability sets of the calling thread: threads that it starts afterwards have the same.

use crate::error::ConfineError;
use caps::{CapSet, Capability, CapsHashSet};
use std::str::FromStr;

/// Capabilities that a process may keep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept(pub(crate) CapsHashSet);

impl Kept {
    /// Names as in a manifest: `NET_ADMIN`.
    ///
    /// # Errors
    /// `Invalid` naming what is no capability.
    pub fn parse(list: &str, names: &[String]) -> Result<Self, ConfineError> {
        let parse = |name: &String| {
            Capability::from_str(&format!("CAP_{name}")).map_err(|_| {
                ConfineError::invalid(
                    list,
                    format!("{name:?} is no capability: write it without CAP_, as NET_ADMIN"),
                )
            })
        };
        Ok(Self(names.iter().map(parse).collect::<Result<_, _>>()?))
    }

    pub(crate) fn with(mut self, capability: Capability) -> Self {
        self.0.insert(capability);
        self
    }
}

/// What the calling thread may do now, as names without `CAP_`, sorted.
///
/// # Errors
/// If the kernel does not say.
pub fn held() -> Result<Vec<String>, ConfineError> {
    let held = caps::read(None, CapSet::Permitted)
        .map_err(|error| ConfineError::refused("read the capabilities", error))?;
    let mut names: Vec<String> =
        held.iter().map(|capability| capability.to_string().trim_start_matches("CAP_").to_owned()).collect();
    names.sort();
    Ok(names)
}

/// Leaves what is both kept and held: in force, and (where that may be changed) as the bound of every later
/// exec. Nothing is left to be inherited otherwise.
pub(crate) fn limit(kept: &Kept) -> Result<(), ConfineError> {
    let refused = |error| ConfineError::refused("limit the capabilities", error);
    let permitted = caps::read(None, CapSet::Permitted).map_err(refused)?;
    let remaining: CapsHashSet = permitted.intersection(&kept.0).copied().collect();
    // Without SETPCAP the bounding set cannot be lowered: then a program started from here could not exceed
    // it either, because it was somebody else's decision.
    if permitted.contains(&Capability::CAP_SETPCAP) {
        for capability in caps::all() {
            if !kept.0.contains(&capability)
                && caps::has_cap(None, CapSet::Bounding, capability).unwrap_or(false)
            {
                caps::drop(None, CapSet::Bounding, capability).map_err(refused)?;
            }
        }
    }
    caps::clear(None, CapSet::Ambient).map_err(refused)?;
    caps::set(None, CapSet::Effective, &remaining).map_err(refused)?;
    caps::set(None, CapSet::Permitted, &remaining).map_err(refused)?;
    caps::clear(None, CapSet::Inheritable).map_err(refused)
}
