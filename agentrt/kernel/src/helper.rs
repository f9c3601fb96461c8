//! Starting an agent from a process that has threads: by the small program `gpve-agent-launch`, which has none.

use std::ffi::CString;
use std::io::{BufRead, BufReader};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::path::Path;

use crate::error::LaunchError;
use crate::policy::Policy;
use crate::sys::{self, Errno};

/// An agent that was started by the helper.
#[derive(Debug)]
pub struct Spawned {
    /// Process id of the helper, which ends as the agent does and passes signals on.
    pub pid: i32,
    /// What is enforced, as JSON (see [`crate::Applied`]).
    pub applied: serde_json::Value,
    results: BufReader<std::fs::File>,
}

/// How an agent ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// Exit code, or 128 and the signal's number.
    pub code: i32,
    /// What it used and was denied, as JSON (see [`crate::AgentReport`]).
    pub report: serde_json::Value,
}

/// Start `argv` under a policy, by the helper at `helper`; `stdio` becomes its standard input, output and error.
pub fn spawn(
    helper: &Path,
    policy: &Policy,
    argv: &[String],
    env: &[(String, String)],
    stdio: [RawFd; 3],
) -> Result<Spawned, LaunchError> {
    let failed = |what: &'static str| move |errno| LaunchError::new("helper", what, errno);
    let env: serde_json::Map<String, serde_json::Value> =
        env.iter().map(|(k, v)| (k.clone(), v.clone().into())).collect();
    let request = serde_json::json!({"policy": policy, "argv": argv, "env": env, "cwd": null});
    let memory = sys::memfd(c"gpve-request").map_err(failed("making a file for the request"))?;
    let text = request.to_string();
    sys::write(memory.as_raw_fd(), text.as_bytes()).map_err(failed("writing the request"))?;
    sys::rewind(memory.as_raw_fd()).map_err(failed("writing the request"))?;
    let (results, write) = sys::pipe().map_err(failed("making a pipe"))?;
    let pid = start(helper, &memory, &write, stdio)?;
    drop(write);
    // SAFETY: the descriptor is ours, and handed on whole.
    let mut results = BufReader::new(unsafe { std::fs::File::from_raw_fd(results.into_raw_fd()) });
    let first = line(&mut results);
    match first {
        Some(first) if first.get("applied").is_some() => {
            Ok(Spawned { pid, applied: first["applied"].clone(), results })
        }
        other => {
            let _ = sys::wait(pid, 0);
            let why = other.and_then(|line| line["error"].as_str().map(str::to_owned));
            Err(LaunchError::refused("helper", why.unwrap_or_else(|| "it died before it said anything".into())))
        }
    }
}

impl Spawned {
    /// Wait for the end.
    pub fn wait(mut self) -> Result<End, LaunchError> {
        let last = line(&mut self.results);
        let status = sys::wait(self.pid, 0).map_err(|errno| LaunchError::new("helper", "waiting for it", errno))?;
        let code = status.map_or(-1, |(_, status)| crate::init::code_of(status));
        Ok(End { code, report: last.map_or(serde_json::Value::Null, |line| line["report"].clone()) })
    }
}

fn line(from: &mut BufReader<std::fs::File>) -> Option<serde_json::Value> {
    let mut text = String::new();
    from.read_line(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

/// posix_spawn: it copies no memory, and asks nothing of our threads.
fn start(helper: &Path, request: &OwnedFd, results: &OwnedFd, stdio: [RawFd; 3]) -> Result<i32, LaunchError> {
    let path = crate::root::c(helper.as_os_str().as_encoded_bytes());
    let words = [path.clone(), c"10".to_owned(), c"11".to_owned()];
    let argv: Vec<_> =
        words.iter().map(|word: &CString| word.as_ptr().cast_mut()).chain([std::ptr::null_mut()]).collect();
    let environment = [std::ptr::null_mut()];
    // Copies above every target: a target may be the number of another source.
    let copy =
        |fd: RawFd| sys::dup_above(fd, 12).map_err(|errno| LaunchError::new("helper", "copying a descriptor", errno));
    let sources =
        [copy(stdio[0])?, copy(stdio[1])?, copy(stdio[2])?, copy(request.as_raw_fd())?, copy(results.as_raw_fd())?];
    let mut pid = 0;
    // SAFETY: the actions are initialised before they are used and destroyed after; both arrays hold live C strings and
    // end in null.
    let error = unsafe {
        let mut actions = std::mem::MaybeUninit::uninit();
        libc::posix_spawn_file_actions_init(actions.as_mut_ptr());
        for (source, target) in sources.iter().zip([0, 1, 2, 10, 11]) {
            libc::posix_spawn_file_actions_adddup2(actions.as_mut_ptr(), source.as_raw_fd(), target);
        }
        let null = std::ptr::null();
        let error =
            libc::posix_spawn(&raw mut pid, path.as_ptr(), actions.as_ptr(), null, argv.as_ptr(), environment.as_ptr());
        libc::posix_spawn_file_actions_destroy(actions.as_mut_ptr());
        error
    };
    if error != 0 {
        return Err(LaunchError::new("helper", format!("executing {}", helper.display()), Errno(error)));
    }
    Ok(pid)
}
