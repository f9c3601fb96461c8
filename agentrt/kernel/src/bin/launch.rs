//! `gpve-agent-launch REQUEST RESULT`: starts one agent for a program that cannot do so itself, since it has threads (a
//! Python interpreter, a server), and waits for its end.
//!
//! REQUEST and RESULT are descriptors: a request of JSON is read from the first; to the second go a line when the agent
//! runs (or why it does not) and a line when it has ended. Standard input, output and error are the agent's own. Ends as
//! the agent does. Signals are passed on; when this program dies, so does the agent.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::PathBuf;

use agent_kernel::{
    AgentReport, Applied, Cgroup, Host, Identity, Launch, Launched, Plan, Policy, Prepared, compile, launch, sealed,
    sys,
};
use serde::{Deserialize, Serialize};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    policy: Policy,
    argv: Vec<String>,
    env: BTreeMap<String, String>,
    cwd: Option<String>,
    first_id: Option<u32>,
    hostname: Option<String>,
    image: Option<PathBuf>,
}

#[derive(Serialize)]
struct Started<'a> {
    pid: i32,
    applied: &'a Applied,
}

#[derive(Serialize)]
struct Ended {
    code: i32,
    report: AgentReport,
}

fn main() {
    let descriptor =
        |at: usize| std::env::args().nth(at).and_then(|text| text.parse::<RawFd>().ok()).filter(|fd| *fd > 2);
    let (Some(request), Some(result)) = (descriptor(1), descriptor(2)) else {
        eprintln!("usage: gpve-agent-launch REQUEST RESULT (two descriptors); agent_kernel.spawn starts this");
        std::process::exit(2);
    };
    let tell = |value: serde_json::Value| {
        let _ = sys::write(result, format!("{value}\n").as_bytes());
    };
    if let Err(error) = sealed::become_sealed() {
        tell(serde_json::json!({"error": error.to_string()}));
        std::process::exit(126);
    }
    // SAFETY: the caller has given us this descriptor for our own.
    let request = unsafe { OwnedFd::from_raw_fd(request) };
    let _ = sys::set_cloexec(result, true);
    match run(&request, &tell) {
        Ok(code) => std::process::exit(code),
        Err(error) => {
            tell(serde_json::json!({"error": error}));
            std::process::exit(126);
        }
    }
}

fn run(request: &OwnedFd, tell: &dyn Fn(serde_json::Value)) -> Result<i32, String> {
    let mut text = Vec::new();
    let mut chunk = [0u8; 4096];
    while let Ok(got @ 1..) = sys::read(request.as_raw_fd(), &mut chunk) {
        text.extend_from_slice(&chunk[..got]);
    }
    let request: Request = serde_json::from_slice(&text).map_err(|error| format!("the request: {error}"))?;
    // Once more by the front door: what a document may not say is checked there.
    let policy = serde_json::to_string(&request.policy).map_err(|error| error.to_string())?;
    let policy = Policy::from_json(&policy).map_err(|error| error.to_string())?;
    let host = Host::probe();
    let plan = compile(&policy, &host).map_err(|error| error.to_string())?;
    let prepared = Prepared::new(&plan, &host, request.image.as_deref()).map_err(|error| error.to_string())?;
    let identity = identity(&request);
    let cgroup = cgroup(&plan, &host)?;
    let denials = sys::memfd(c"gpve-denials").map_err(|error| error.to_string())?;
    let words = |words: Vec<String>| -> Result<Vec<CString>, String> {
        words
            .into_iter()
            .map(|word| CString::new(word).map_err(|_| "a word of the command has a NUL".to_owned()))
            .collect()
    };
    let mut start = Launch::new(&prepared, &identity, &[]);
    start.argv = words(request.argv)?;
    start.env = words(request.env.iter().map(|(name, value)| format!("{name}={value}")).collect())?;
    start.cwd = request.cwd.map(|cwd| CString::new(cwd).map_err(|_| "cwd has a NUL")).transpose()?;
    start.stdio = [Some(0), Some(1), Some(2)];
    start.cgroup = cgroup.as_ref();
    start.denials = Some(denials.as_raw_fd());
    start.dies_with_launcher = true;
    // Signals that come while it starts wait until there is somebody to pass them to.
    sys::block_signals().map_err(|error| error.to_string())?;
    let started = launch(start).map_err(|error| error.to_string());
    let ended = started.and_then(|started| {
        tell(serde_json::json!(Started { pid: started.pid, applied: &started.applied }));
        look_after(&started)
    });
    let bytes = std::fs::read(format!("/proc/self/fd/{}", denials.as_raw_fd())).unwrap_or_default();
    let report = AgentReport::new(cgroup.as_ref(), &bytes);
    if let Some(cgroup) = cgroup {
        cgroup.kill().and_then(|()| cgroup.remove_with_parents(&cgroup_name())).map_err(|error| error.to_string())?;
    }
    let code = ended?;
    tell(serde_json::json!(Ended { code, report }));
    Ok(code)
}

/// Ids of its own for an agent of root: by our process id, which nobody else has while we live.
fn identity(request: &Request) -> Identity {
    let own = request.first_id.unwrap_or(0x2000_0000 + (std::process::id() % 0x4000) * 0x1_0000);
    let machine = format!("{:032x}", u128::from(std::process::id()) << 64 | u128::from(own));
    Identity::new(own, 0x1_0000, request.hostname.as_deref().unwrap_or("agent"), &machine)
}

fn cgroup_name() -> PathBuf {
    format!("gpve-spawned/{}", std::process::id()).into()
}

fn cgroup(plan: &Plan, host: &Host) -> Result<Option<Cgroup>, String> {
    if plan.cgroup.controllers().is_empty() {
        return Ok(None);
    }
    Cgroup::create(&host.cgroups, &cgroup_name(), &plan.cgroup).map(Some).map_err(|error| error.to_string())
}

/// Pass signals on until the agent has ended.
fn look_after(started: &Launched) -> Result<i32, String> {
    let signals = sys::signalfd().map_err(|error| error.to_string())?;
    let entry = |fd: RawFd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    let mut polls = [entry(signals.as_raw_fd()), entry(started.pidfd.as_raw_fd())];
    loop {
        sys::poll(&mut polls, -1).map_err(|error| error.to_string())?;
        if polls[1].revents != 0 {
            return started.wait().map_err(|error| error.to_string());
        }
        let mut info = [0u8; 128];
        while sys::read(signals.as_raw_fd(), &mut info) == Ok(128) {
            let signal = i32::from_ne_bytes([info[0], info[1], info[2], info[3]]);
            if signal != libc::SIGCHLD {
                let _ = sys::pidfd_kill(started.pidfd.as_raw_fd(), signal);
            }
        }
    }
}
