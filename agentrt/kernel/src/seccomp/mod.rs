//! The system calls of an agent: a table of rules, compiled to a filter that is a binary tree over the numbers.
//!
//! The kernel emulates a new filter once for every system call to know which of them it always allows, so what a
//! filter costs to install goes by the instructions that it runs for one call: a tree has about ten, a list hundreds.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

pub mod bpf;
pub mod calls;
mod rules;
mod tree;

pub use crate::sys::Instruction;
pub use rules::{Standing, denied_because, standing};
pub use tree::{compile, reference};

/// `AUDIT_ARCH_*` of the architecture this crate is compiled for.
#[cfg(target_arch = "x86_64")]
pub const ARCHITECTURE: u32 = 0xC000_003E;
/// `AUDIT_ARCH_*` of the architecture this crate is compiled for.
#[cfg(target_arch = "aarch64")]
pub const ARCHITECTURE: u32 = 0xC000_00B7;

/// What the filter answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Action {
    /// The call goes on.
    Allow,
    /// The call fails with this error.
    Fail(u16),
    /// The call fails with EPERM after init has noted its number.
    Note,
    /// The whole process is killed.
    Kill,
}

impl Action {
    /// As the kernel has it.
    pub const fn value(self) -> u32 {
        match self {
            Self::Allow => libc::SECCOMP_RET_ALLOW,
            Self::Fail(errno) => libc::SECCOMP_RET_ERRNO | errno as u32,
            Self::Note => libc::SECCOMP_RET_USER_NOTIF,
            Self::Kill => libc::SECCOMP_RET_KILL_PROCESS,
        }
    }
}

/// A test of one argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Test {
    /// Any of these bits of the low 32 is set.
    AnyBit(u8, u32),
    /// The low 32 bits, masked, are this value. (The kernel reads these arguments as 32-bit integers.)
    Masked(u8, u32, u32),
}

/// What holds for one system call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Tried in order: the first clause whose tests all hold decides.
    pub clauses: Vec<(Vec<Test>, Action)>,
    /// What holds otherwise.
    pub otherwise: Action,
}

impl Rule {
    /// A rule without conditions.
    pub const fn always(action: Action) -> Self {
        Self { clauses: Vec::new(), otherwise: action }
    }
}

/// All rules: what is not listed is unknown, and fails with ENOSYS.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    /// By number.
    pub calls: BTreeMap<u32, Rule>,
}

/// What the rules depend on.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Calls that are allowed beside the default set.
    pub allow: BTreeSet<String>,
    /// Calls that are denied though they are in it.
    pub deny: BTreeSet<String>,
    /// IP sockets may be made at all.
    pub internet: bool,
    /// TCP alone (the policy lists TCP ports, and nothing else could be held to them).
    pub tcp_only: bool,
    /// Memory files must be sealed against execution.
    pub no_memory_programs: bool,
    /// Denied calls are noted.
    pub note: bool,
    /// Namespaces may be entered.
    pub enter: bool,
}

#[cfg(test)]
mod tests;
