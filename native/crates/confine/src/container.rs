//! A container of the node, as `daemonset/*.json` describes it.

use crate::capabilities::{self, Kept};
use crate::error::ConfineError;
use crate::root;
use crate::seccomp::Profile;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The file: a container's `securityContext`, and why it holds what it holds.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Container {
    /// The container's name in its pod.
    pub name: String,
    /// What a container runtime is told.
    pub security_context: Security,
    /// Why each capability is there.
    pub capability_reasons: BTreeMap<String, String>,
    /// What the container mounts of the host, and why.
    pub mount_reasons: BTreeMap<String, String>,
}

/// Kubernetes' `SecurityContext`, as far as it is used.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Security {
    /// Always 0: the sockets and files of a node are root's.
    pub run_as_user: u32,
    /// Always false.
    pub privileged: bool,
    /// False: no-new-privs.
    pub allow_privilege_escalation: bool,
    /// True: what may be written is mounted.
    pub read_only_root_filesystem: bool,
    /// `drop: [ALL]` and what is added to nothing.
    pub capabilities: Capabilities,
    /// The profile's file.
    pub seccomp_profile: SeccompProfile,
    /// `Unconfined`: container runtimes' default forbids what the agent is there to do (mounts' and sysctls' paths).
    pub app_armor_profile: AppArmorProfile,
}

/// Kubernetes' `Capabilities`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Capabilities {
    /// `["ALL"]`
    pub drop: Vec<String>,
    /// Names without `CAP_`.
    pub add: Vec<String>,
}

/// Kubernetes' `SeccompProfile`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct SeccompProfile {
    /// `Localhost`
    #[serde(rename = "type")]
    pub kind: String,
    /// Path below the kubelet's directory of profiles; here, below `seccomp/` beside the file.
    pub localhost_profile: PathBuf,
}

/// Kubernetes' `AppArmorProfile`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppArmorProfile {
    /// `Unconfined`
    #[serde(rename = "type")]
    pub kind: String,
}

impl Container {
    /// Reads `text`, which `name` names in errors.
    ///
    /// # Errors
    /// `Invalid` naming the field: also where something is granted that this program would not take away.
    pub fn parse(name: &str, text: &str) -> Result<Self, ConfineError> {
        let container: Self =
            serde_json::from_str(text).map_err(|error| ConfineError::invalid(name, error.to_string()))?;
        container.check().map_err(|problem| ConfineError::invalid(name, problem))?;
        Ok(container)
    }

    fn check(&self) -> Result<(), String> {
        let Security { run_as_user, privileged, allow_privilege_escalation, capabilities, .. } =
            &self.security_context;
        if *run_as_user != 0 {
            return Err("securityContext.runAsUser: must be 0".into());
        }
        if *privileged || *allow_privilege_escalation {
            return Err("securityContext: privileged and allowPrivilegeEscalation must be false".into());
        }
        if capabilities.drop != ["ALL"] {
            return Err("securityContext.capabilities.drop: must be [\"ALL\"]".into());
        }
        if self.security_context.seccomp_profile.kind != "Localhost" {
            return Err("securityContext.seccompProfile.type: must be Localhost".into());
        }
        if !capabilities.add.iter().eq(self.capability_reasons.keys()) {
            return Err("capabilityReasons: must give one reason for each added capability, sorted".into());
        }
        Ok(())
    }

    /// The capabilities that the container keeps.
    ///
    /// # Errors
    /// `Invalid` naming what is no capability.
    pub fn kept(&self) -> Result<Kept, ConfineError> {
        Kept::parse(&self.name, &self.security_context.capabilities.add)
    }

    /// Confines the calling thread, which is to become the container's program by exec: nothing can be given
    /// back afterwards. `writable` are the paths that the container mounts for writing. `file` is where the
    /// container was read from: its seccomp profile is found beside it.
    ///
    /// # Errors
    /// When something cannot be taken away: the program must not be started then.
    pub fn confine(&self, file: &Path, writable: &[PathBuf]) -> Result<(), ConfineError> {
        let directory = file.parent().unwrap_or(Path::new("."));
        let profile = Profile::read(
            &directory.join("seccomp").join(&self.security_context.seccomp_profile.localhost_profile),
        )?;
        let kept = self.kept()?;
        if self.security_context.read_only_root_filesystem {
            root::make_read_only(writable)?;
        }
        // Mounting and lowering the bound need what is dropped here; filtering needs only no-new-privs.
        nix::sys::prctl::set_no_new_privs()
            .map_err(|error| ConfineError::refused("set no-new-privs", error))?;
        capabilities::limit(&kept)?;
        profile.install()
    }
}
