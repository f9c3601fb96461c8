//! Measures starts, paired: `starts ROUNDS true --vs NAME COMMAND... [--vs NAME COMMAND...]` runs, in each round, one cold
//! start of the Agent Kernel at L3 with cgroups and limits, and each other command once, all from this small process, and
//! prints the microseconds from start to exit as JSON. `starts --rate SECONDS true` counts starts alone,
//! `starts --rate-of SECONDS COMMAND...` those of another command.
//!
//! The bench (`bench/agent_kernel.py`) runs it; it is an example so that it shows a launcher, whole.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::time::{Duration, Instant};

use agent_kernel::{Cgroup, Host, Identity, Launch, Network, Networks, Policy, Prepared, compile, launch, sys};

/// What a spawner holds: everything that agents of one policy share.
struct Launcher {
    host: Host,
    prepared: Prepared,
    identity: Identity,
    networks: Networks,
    number: u64,
}

impl Launcher {
    fn new() -> Self {
        let host = Host::probe();
        let level = std::env::var("LEVEL").unwrap_or_else(|_| "L3".into());
        let policy = Policy::from_toml(&format!("version = 1\nlevel = {level:?}\n")).expect("a policy");
        let plan = compile(&policy, &host).expect("a plan");
        let prepared = Prepared::new(&plan, &host, None).expect("a prepared plan");
        let identity = Identity::new(700_000, 65_536, "agent", "0123456789abcdef0123456789abcdef");
        Self { host, prepared, identity, networks: Networks::new(2), number: 0 }
    }

    /// From nothing to the end of the command, with fresh cgroups that are removed, in a network that was used before or
    /// is as fresh as they.
    fn start(&mut self, command: &str, fresh_network: bool) {
        self.number += 1;
        let name = format!("gpve-starts/{}-{}", std::process::id(), self.number);
        let values = &self.prepared.plan().cgroup;
        let cgroup = (!values.controllers().is_empty())
            .then(|| Cgroup::create(&self.host.cgroups, Path::new(&name), values).expect("a cgroup"));
        let mut start = Launch::new(&self.prepared, &self.identity, &[command]);
        start.cgroup = cgroup.as_ref();
        start.cwd = Some(c"/".into());
        let network =
            (!fresh_network).then(|| self.networks.take().unwrap_or_else(|| Network::make().expect("a network")));
        start.netns = network.as_ref().map(|network| network.as_fd().as_raw_fd());
        let started = launch(start).expect("a start");
        assert_eq!(started.wait(), Ok(0));
        if let Some(network) = network {
            self.networks.give_back(network);
        }
        if let Some(cgroup) = cgroup {
            cgroup.remove().expect("removing a cgroup");
        }
    }
}

impl Drop for Launcher {
    fn drop(&mut self) {
        // The cgroup above those of the agents: made with one of them, removed with another.
        let name = Path::new("gpve-starts/last");
        if let Ok(last) = Cgroup::create(&self.host.cgroups, name, &self.prepared.plan().cgroup) {
            let _ = last.remove_with_parents(name);
        }
    }
}

/// posix_spawn and wait.
fn spawn(argv: &[CString]) {
    let mut pointers: Vec<*mut libc::c_char> = argv.iter().map(|word| word.as_ptr().cast_mut()).collect();
    pointers.push(std::ptr::null_mut());
    let environment = [c"PATH=/usr/sbin:/usr/bin:/bin".as_ptr().cast_mut(), std::ptr::null_mut()];
    let (mut pid, mut status) = (0, 0);
    // SAFETY: both arrays hold live C strings and end in null; the results are live integers.
    unsafe {
        let (path, none) = (argv[0].as_ptr(), std::ptr::null());
        assert_eq!(
            libc::posix_spawnp(&raw mut pid, path, none, std::ptr::null(), pointers.as_ptr(), environment.as_ptr()),
            0
        );
        assert_eq!(libc::waitpid(pid, &raw mut status, 0), pid);
    }
    assert_eq!(status, 0, "{argv:?} failed");
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // As a spawner does: a mount namespace of its own, so that nothing is copied for each agent that it does not need.
    if sys::ids().0 == 0 {
        sys::unshare(libc::CLONE_NEWNS as u64).expect("a mount namespace");
        sys::set_attributes(sys::HERE, c"/", true, 0, libc::MS_PRIVATE).expect("private mounts");
    }
    if arguments[0] == "--rate-of" {
        let limit = Duration::from_secs_f64(arguments[1].parse().expect("seconds"));
        let argv: Vec<CString> =
            arguments[2..].iter().map(|word| CString::new(word.as_str()).expect("no NUL")).collect();
        let (begun, mut starts) = (Instant::now(), 0u64);
        while begun.elapsed() < limit {
            spawn(&argv);
            starts += 1;
        }
        println!("{}", serde_json::json!({"starts": starts, "seconds": begun.elapsed().as_secs_f64()}));
        return;
    }
    let mut launcher = Launcher::new();
    if arguments[0] == "--rate" {
        let limit = Duration::from_secs_f64(arguments[1].parse().expect("seconds"));
        let (begun, mut starts) = (Instant::now(), 0u64);
        while begun.elapsed() < limit {
            launcher.start(&arguments[2], false);
            starts += 1;
        }
        println!("{}", serde_json::json!({"starts": starts, "seconds": begun.elapsed().as_secs_f64()}));
        return;
    }
    let rounds: usize = arguments[0].parse().expect("rounds");
    let command = arguments[1].clone();
    let mut others: Vec<(String, Vec<CString>)> = Vec::new();
    let mut words = arguments[2..].iter();
    while let Some(word) = words.next() {
        if word == "--vs" {
            others.push((words.next().expect("a name").clone(), Vec::new()));
        } else if let Some((_, argv)) = others.last_mut() {
            argv.push(CString::new(word.as_str()).expect("no NUL"));
        }
    }
    let mut times: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    let mut time = |name, body: &mut dyn FnMut()| {
        let begun = Instant::now();
        body();
        times.entry(name).or_default().push(begun.elapsed().as_secs_f64() * 1e6);
    };
    for _ in 0..rounds {
        time("agent_kernel", &mut || launcher.start(&command, false));
        time("agent_kernel_fresh_network", &mut || launcher.start(&command, true));
        for (name, argv) in &others {
            time(name.as_str(), &mut || spawn(argv));
        }
    }
    println!("{}", serde_json::to_string(&times).expect("JSON"));
}
