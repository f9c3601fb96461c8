//! A program and who runs it, from the protocol's words into those of the Agent Kernel.

use super::protocol::{Program, Who};
use agent_kernel::cgroup::{Cgroup, Handle};
use agent_kernel::{Identity, Launch};
use std::ffi::CString;

pub fn identity(who: &Who) -> Identity {
    Identity::new(who.first_id, who.ids, &who.hostname, &who.machine_id)
}

/// What is executed, and where.
pub(super) fn set(wanted: &mut Launch, program: &Program, env: Vec<CString>) -> Result<(), String> {
    wanted.argv = program.argv.iter().map(|a| c_string(a)).collect::<Result<_, _>>()?;
    wanted.env = env;
    wanted.cwd = if program.cwd.is_empty() { None } else { Some(c_string(&program.cwd)?) };
    Ok(())
}

pub(super) fn open_cgroup(handle: &[u8]) -> Result<Option<Cgroup>, String> {
    if handle.is_empty() {
        return Ok(None);
    }
    let handle: Handle =
        serde_json::from_slice(handle).map_err(|e| format!("the cgroup's handle cannot be read: {e}"))?;
    Cgroup::open(&handle).map(Some).map_err(|e| e.to_string())
}

pub(super) fn c_string(text: &str) -> Result<CString, String> {
    CString::new(text).map_err(|_| format!("{text:?} contains a NUL byte"))
}

/// What every program has in its environment, unless it is given another.
pub const USUAL: [(&str, &str); 2] =
    [("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"), ("HOME", agent_kernel::plan::WORKSPACE)];

pub(super) fn environment(env: &[(String, String)]) -> Result<Vec<CString>, String> {
    let mut all: Vec<_> = env.iter().map(|(k, v)| c_string(&format!("{k}={v}"))).collect::<Result<_, _>>()?;
    for (name, value) in USUAL {
        if !env.iter().any(|(k, _)| k == name) {
            all.push(c_string(&format!("{name}={value}"))?);
        }
    }
    Ok(all)
}
