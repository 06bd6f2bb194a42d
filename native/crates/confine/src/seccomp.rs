//! A seccomp profile in the OCI runtime specification's form, as a filter of the kernel's.
//!
//! Understood is what the node's profiles use: one default that refuses, calls that are allowed (with all
//! conditions on their arguments met), and calls with an error number of their own. Anything else is refused,
//! so that a profile never means more here than for a container runtime.

use crate::error::ConfineError;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter,
};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::str::FromStr;
use syscalls::Sysno;

/// A profile, compiled for this machine. A call passes when every filter lets it.
#[derive(Debug)]
pub struct Profile {
    filters: Vec<BpfProgram>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Document {
    default_action: Action,
    default_errno_ret: u32,
    /// For the container runtime: here the filter is always of the machine it runs on.
    #[serde(default)]
    #[allow(dead_code)]
    arch_map: Vec<serde_json::Value>,
    syscalls: Vec<Group>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
enum Action {
    #[serde(rename = "SCMP_ACT_ALLOW")]
    Allow,
    #[serde(rename = "SCMP_ACT_ERRNO")]
    Errno,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Group {
    names: Vec<String>,
    action: Action,
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Vec<Argument>,
    /// Why; container runtimes ignore it.
    #[serde(default)]
    #[allow(dead_code)]
    comment: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Argument {
    index: u8,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: Operator,
}

#[derive(Debug, Clone, Copy, Deserialize)]
enum Operator {
    #[serde(rename = "SCMP_CMP_EQ")]
    Eq,
    #[serde(rename = "SCMP_CMP_NE")]
    Ne,
    #[serde(rename = "SCMP_CMP_LE")]
    Le,
    #[serde(rename = "SCMP_CMP_GE")]
    Ge,
    #[serde(rename = "SCMP_CMP_MASKED_EQ")]
    MaskedEq,
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

impl Profile {
    /// Reads the file.
    ///
    /// # Errors
    /// `File`, or `Invalid` naming what is not understood.
    pub fn read(path: &Path) -> Result<Self, ConfineError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfineError::File { path: path.to_owned(), source })?;
        Self::parse(&path.display().to_string(), &text)
    }

    /// Reads `text`, which `name` names in errors.
    ///
    /// # Errors
    /// `Invalid` naming what is not understood.
    pub fn parse(name: &str, text: &str) -> Result<Self, ConfineError> {
        let invalid = |problem: String| ConfineError::invalid(name, problem);
        let document: Document = serde_json::from_str(text).map_err(|error| invalid(error.to_string()))?;
        if document.default_action != Action::Errno {
            return Err(invalid("defaultAction: must be SCMP_ACT_ERRNO".into()));
        }
        let mut allowed = Rules::new();
        let mut refused: BTreeMap<u32, Rules> = BTreeMap::new();
        for group in &document.syscalls {
            let errno = match (group.action, group.errno_ret) {
                (Action::Allow, None) => None,
                (Action::Errno, Some(errno)) if group.args.is_empty() => Some(errno),
                _ => {
                    return Err(invalid(format!(
                        "{}: SCMP_ACT_ALLOW without errnoRet, or SCMP_ACT_ERRNO with one and without args",
                        group.names.join(" ")
                    )));
                }
            };
            for call in &group.names {
                // Some calls exist on some machines only, and newer ones are not known everywhere.
                let Ok(number) = Sysno::from_str(call) else { continue };
                let number = i64::from(number.id());
                if let Some(errno) = errno {
                    refused.entry(errno).or_default().insert(number, Vec::new());
                    // A filter of its own says the number: this one must let it come to that.
                    allowed.insert(number, Vec::new());
                    continue;
                }
                let rule = group.rule().map_err(|error| invalid(format!("{call}: {error}")))?;
                match (allowed.get_mut(&number), rule) {
                    (_, None) => drop(allowed.insert(number, Vec::new())),
                    (None, Some(rule)) => drop(allowed.insert(number, vec![rule])),
                    // Without rules it is allowed already, whatever its arguments.
                    (Some(rules), Some(rule)) if !rules.is_empty() => rules.push(rule),
                    (Some(_), Some(_)) => {}
                }
            }
        }
        let mut filters = Vec::new();
        for (errno, rules) in refused {
            filters.push(compile(rules, SeccompAction::Allow, SeccompAction::Errno(errno)).map_err(invalid)?);
        }
        let default = SeccompAction::Errno(document.default_errno_ret);
        filters.push(compile(allowed, default, SeccompAction::Allow).map_err(invalid)?);
        Ok(Self { filters })
    }

    /// Filters the calling thread and what it starts from now on. Sets no-new-privs.
    ///
    /// # Errors
    /// `Refused`
    pub fn install(&self) -> Result<(), ConfineError> {
        // The one that refuses by default comes last: it need not allow the installing of filters.
        for filter in &self.filters {
            apply_filter(filter)
                .map_err(|error| ConfineError::refused("install the seccomp filter", error))?;
        }
        Ok(())
    }
}

impl Group {
    /// `None`: whatever the arguments.
    fn rule(&self) -> Result<Option<SeccompRule>, seccompiler::BackendError> {
        if self.args.is_empty() {
            return Ok(None);
        }
        let conditions = self.args.iter().map(Argument::condition).collect::<Result<_, _>>()?;
        SeccompRule::new(conditions).map(Some)
    }
}

impl Argument {
    fn condition(&self) -> Result<SeccompCondition, seccompiler::BackendError> {
        let (operator, value) = match self.op {
            Operator::Eq => (SeccompCmpOp::Eq, self.value),
            Operator::Ne => (SeccompCmpOp::Ne, self.value),
            Operator::Le => (SeccompCmpOp::Le, self.value),
            Operator::Ge => (SeccompCmpOp::Ge, self.value),
            // The specification's masked comparison has the mask first.
            Operator::MaskedEq => (SeccompCmpOp::MaskedEq(self.value), self.value_two),
        };
        SeccompCondition::new(self.index, SeccompCmpArgLen::Qword, operator, value)
    }
}

/// `rules` lead to `matching`, everything else to `otherwise`.
pub(crate) fn compile(
    rules: Rules,
    otherwise: SeccompAction,
    matching: SeccompAction,
) -> Result<BpfProgram, String> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(|error| error.to_string())?;
    let filter = SeccompFilter::new(rules, otherwise, matching, arch).map_err(|error| error.to_string())?;
    BpfProgram::try_from(filter).map_err(|error| error.to_string())
}
