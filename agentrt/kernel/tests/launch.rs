//! Launching, in earnest. One process with one thread, so without the usual harness: every case is a function, and runs
//! in a mount namespace of its own. What a host cannot do is skipped by name.

use std::cell::RefCell;
use std::ffi::CString;
use std::fs;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use agent_kernel::init::ExitRecord;
use agent_kernel::network::{Network, Networks, Visit};
use agent_kernel::{
    Access, AgentReport, Applied, Cgroup, Host, Identity, Launch, LaunchError, Plan, Policy, Prepared, Workspace,
    compile, launch, launch_into, sys,
};

#[path = "launch/cases.rs"]
mod cases;
#[path = "launch/lessons.rs"]
mod lessons;

/// What most cases need.
struct Ground {
    host: Host,
    identity: Identity,
}

/// One agent's end: its output, its exit code, and what was in force.
struct Ended {
    text: String,
    code: i32,
    applied: Applied,
}

impl Ground {
    fn new() -> Self {
        let identity = Identity::new(700_000, 65_536, "inside", "0123456789abcdef0123456789abcdef");
        Self { host: Host::probe(), identity }
    }

    fn plan(&self, text: &str) -> Plan {
        let text = format!("version = 1\n{text}");
        compile(&Policy::from_toml(&text).unwrap(), &self.host).unwrap_or_else(|error| panic!("{error}"))
    }

    fn prepare(&self, plan: &Plan) -> Prepared {
        Prepared::new(plan, &self.host, None).unwrap_or_else(|error| panic!("{error}"))
    }

    fn cgroup(&self, plan: &Plan) -> Option<Cleaned> {
        thread_local!(static NEXT: RefCell<u32> = const { RefCell::new(0) });
        let number = NEXT.with_borrow_mut(|next| {
            *next += 1;
            *next
        });
        let name = format!("gpve-test/{}-{number}", std::process::id());
        let wanted = !plan.cgroup.controllers().is_empty();
        wanted.then(|| Cleaned(Cgroup::create(&self.host.cgroups, Path::new(&name), &plan.cgroup).unwrap()))
    }

    /// Run a shell's line to its end.
    fn shell(&self, policy: &str, line: &str) -> Ended {
        self.run(policy, &["sh", "-c", line], |_| ()).unwrap_or_else(|error| panic!("{error}"))
    }

    fn run(&self, policy: &str, argv: &[&str], change: impl Fn(&mut Launch)) -> Result<Ended, LaunchError> {
        let plan = self.plan(policy);
        let prepared = Prepared::new(&plan, &self.host, None)?;
        let cgroup = self.cgroup(&plan);
        let (read, write) = sys::pipe().unwrap();
        let mut start = Launch::new(&prepared, &self.identity, argv);
        start.stdio = [None, Some(write.as_raw_fd()), Some(write.as_raw_fd())];
        start.cgroup = cgroup.as_ref().map(|cgroup| &cgroup.0);
        change(&mut start);
        let started = launch(start)?;
        drop(write);
        let text = text(&read);
        let code = started.wait().unwrap();
        Ok(Ended { text, code, applied: started.applied })
    }
}

/// A cgroup that is gone at the end.
struct Cleaned(Cgroup);

impl Drop for Cleaned {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.remove_with_parents(Path::new("gpve-test/x")).unwrap();
    }
}

fn text(from: &OwnedFd) -> String {
    let mut out = Vec::new();
    let mut chunk = [0u8; 4096];
    while let Ok(got @ 1..) = sys::read(from.as_raw_fd(), &mut chunk) {
        out.extend_from_slice(&chunk[..got]);
    }
    String::from_utf8_lossy(&out).trim().to_owned()
}

fn open_descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

fn main() {
    let filter = std::env::args().nth(1).filter(|argument| !argument.starts_with('-'));
    if sys::ids().0 != 0 {
        println!("skipped: launch: these tests start agents as root (as another user: tests/agentrt)");
        return;
    }
    let host = Host::probe();
    if host.landlock < 6 || !host.user_namespaces || host.cgroups.kind() == "none" {
        println!("skipped: launch: Landlock ABI 6, user namespaces and cgroups are needed");
        return;
    }
    let (mut passed, mut failed) = (0, Vec::new());
    for (name, case) in cases::CASES.iter().chain(lessons::CASES) {
        if filter.as_ref().is_some_and(|filter| !name.contains(filter.as_str())) {
            continue;
        }
        // SAFETY: this program has one thread.
        let pid = unsafe { sys::fork() }.unwrap();
        if pid == 0 {
            sys::unshare((libc::CLONE_NEWNS | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC) as u64).unwrap();
            sys::set_attributes(sys::HERE, c"/", true, 0, libc::MS_PRIVATE).unwrap();
            let outcome = std::panic::catch_unwind(|| case(&Ground::new()));
            std::io::stdout().flush().unwrap();
            sys::exit_now(i32::from(outcome.is_err()));
        }
        let ended = sys::wait(pid, 0).unwrap().map(|(_, status)| status);
        println!("test {name} ... {}", if ended == Some(0) { "ok" } else { "FAILED" });
        if ended == Some(0) { passed += 1 } else { failed.push(*name) }
    }
    println!("{passed} passed, {} failed {failed:?}", failed.len());
    std::process::exit(i32::from(!failed.is_empty()));
}
