//! The suite: every attack, at every level, by a launcher that is root and by one that is not; each with its control.
//!
//! `gpve-attack-suite [--only NAME] [--launcher root] [--without seccomp|landlock|limits] [--lent]
//! [--claim PROGRAM SOCKET [--forks]]` prints a line of JSON for each run, then a summary. `--lent`: at L3 by root, in one
//! network that is lent on and on. Ends with 1 where an attack succeeded that the level promises to stop, where a refusal
//! looked wrong, or where something outside changed.

use std::ffi::CString;
use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use agent_kernel::{Cgroup, Host, Identity, Launch, Level, Networks, Policy, Prepared, compile, launch, sys};
use attacks::table;

#[path = "suite/world.rs"]
mod world;

use world::World;

const USER: u32 = 12_345;
/// Held by Landlock's rules for files and by nothing else, which agents that may be forked do not have.
const BY_LANDLOCK_ALONE: &str = "reopen_for_writing";

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
enum End {
    Succeeded,
    Refused(i32),
    Killed(i32),
    Strange(String),
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let option = |name: &str| arguments.iter().position(|a| a == name).and_then(|at| arguments.get(at + 1)).cloned();
    let only = option("--only");
    if sys::ids().0 != 0 {
        println!("{}", serde_json::json!({"skipped": "the suite needs root, to make the worlds in which it attacks"}));
        return;
    }
    let host_namespace = fs::metadata("/proc/self/ns/mnt").map_or(0, |meta| meta.ino());
    // A private world: nothing that an attack does, the controls included, may touch the host.
    let kinds = libc::CLONE_NEWNS | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC | libc::CLONE_NEWNET;
    sys::unshare(kinds as u64).expect("a private world");
    sys::set_attributes(sys::HERE, c"/", true, 0, libc::MS_PRIVATE).expect("private mounts");
    sys::loopback_up().expect("loopback");

    let mut failures = 0;
    let mut counted = 0;
    let mut runs = 0;
    // PROGRAM and SOCKET of a runtime: then attacks run in instances that it keeps ready, and at their level alone.
    let by =
        arguments.iter().position(|a| a == "--claim").map(|at| (arguments[at + 1].clone(), arguments[at + 2].clone()));
    let lent = arguments.iter().any(|a| a == "--lent");
    let launchers: &[u32] = if by.is_some() || lent {
        &[0]
    } else {
        if option("--launcher").as_deref() == Some("root") { &[0] } else { &[0, USER] }
    };
    for &user in launchers {
        let mut suite = Suite::new(user, host_namespace, option("--without"));
        suite.by = by.clone();
        suite.forks = arguments.iter().any(|a| a == "--forks");
        if lent {
            suite.networks = Some(Networks::new(1));
        }
        for attack in table::all().iter().filter(|a| only.as_deref().is_none_or(|only| only == a.name)) {
            let control = suite.control(attack);
            let succeeded = control == End::Succeeded;
            counted += u32::from(succeeded && user == 0);
            let mut row = serde_json::json!({
                "attack": attack.name, "group": attack.group, "launcher": if user == 0 { "root" } else { "user" },
                "from": format!("{:?}", attack.from), "control": said(&control),
            });
            for level in [Level::L1, Level::L2, Level::L3] {
                let key = format!("{level:?}");
                if (by.is_some() || lent) && level != Level::L3 {
                    continue;
                }
                let lacks_its_layer = suite.forks && attack.name == BY_LANDLOCK_ALONE;
                if !succeeded || lacks_its_layer || level < attack.from || (attack.needs_cgroup && user != 0) {
                    row[key] = if succeeded { "not promised" } else { "not counted" }.into();
                    continue;
                }
                runs += 1;
                let (end, changed) = suite.attacked(attack, level);
                let refused = match &end {
                    End::Refused(errno) => attack.refusals.contains(errno),
                    End::Killed(signal) => attack.signals.contains(signal),
                    End::Succeeded => attack.judged_at_victim,
                    End::Strange(_) => false,
                };
                let held = refused && changed.is_none();
                failures += u32::from(!held);
                row[key] = format!(
                    "{}{}{}",
                    if held { "" } else { "FAILED: " },
                    said(&end),
                    changed.map(|what| format!(", {what}")).unwrap_or_default()
                )
                .into();
            }
            println!("{row}");
        }
    }
    let attacks = table::all().len();
    println!("{}", serde_json::json!({"attacks": attacks, "counted": counted, "runs": runs, "failures": failures}));
    std::process::exit(i32::from(failures > 0));
}

fn said(end: &End) -> String {
    match end {
        End::Succeeded => "succeeded".into(),
        End::Refused(errno) => sys::Errno(*errno).name().to_owned(),
        End::Killed(signal) => match *signal {
            libc::SIGKILL => "SIGKILL".into(),
            libc::SIGSYS => "SIGSYS".into(),
            other => format!("signal {other}"),
        },
        End::Strange(what) => format!("strange: {what}"),
    }
}

struct Suite {
    user: u32,
    /// A layer that is left out, to show that the suite sees it.
    without: Option<String>,
    host: Host,
    world: World,
    /// Program and socket of a runtime by which attacks run.
    by: Option<(String, String)>,
    /// Networks that are lent to one attack after another.
    networks: Option<Networks>,
    /// There in forks of agents that wait at a checkpoint.
    forks: bool,
    /// Policies for which the runtime has a template: their places are the templates' names.
    templates: Vec<String>,
}

impl Suite {
    fn new(user: u32, host_namespace: u64, without: Option<String>) -> Self {
        let mut host = Host::probe();
        host.root = user == 0;
        Self {
            user,
            without,
            host,
            world: World::new(user, host_namespace),
            by: None,
            networks: None,
            forks: false,
            templates: Vec::new(),
        }
    }

    fn control(&mut self, attack: &table::Attack) -> End {
        self.world.reset();
        let mut targets = self.world.targets.clone();
        targets.scratch = self.world.scratch.clone();
        let (program, user) = (self.world.program.clone(), self.user);
        let _leak = leak(&targets.outside);
        let end = self.in_child(|_| {
            if user == 0 {
                // Mounts and names of a control are its own.
                sys::unshare((libc::CLONE_NEWNS | libc::CLONE_NEWUTS) as u64).expect("a private world");
            }
            become_program(&[&program, attack.name, &serde_json::to_string(&targets).expect("JSON")])
        });
        if attack.judged_at_victim {
            std::thread::sleep(std::time::Duration::from_millis(100));
            return if end == End::Succeeded && !self.world.victim_lives() { end } else { End::Refused(0) };
        }
        end
    }

    /// How the attack ended inside, and what changed outside.
    fn attacked(&mut self, attack: &table::Attack, level: Level) -> (End, Option<String>) {
        self.world.reset();
        let before = self.world.look();
        let scratch = self.world.scratch.clone();
        let (directory, root) = (self.world.programs.clone(), self.user == 0);
        let usual = if level == Level::L1 { "" } else { "[workspace]\nsize = \"64MiB\"\ninodes = 2000\n" };
        let workspace = if attack.policy.is_empty() { usual } else { attack.policy };
        let optional = if root {
            ""
        } else {
            "optional = [\"cgroup-memory\", \"cgroup-cpu\", \"cgroup-pids\", \"cgroup-freezer\"]\n"
        };
        let writable = if level == Level::L1 { format!("write = [{scratch:?}]\n") } else { String::new() };
        let text = format!(
            "version = 1\nlevel = \"{level:?}\"\n{optional}[files]\nexecute = [{directory:?}]\n{writable}{workspace}[limits]\nmemory = \"96MiB\"\n{}",
            if level == Level::L3 { "processes = 200\n" } else { "" }
        );
        let text = if level == Level::L1 { text.replace("memory = \"96MiB\"\n", "") } else { text };
        if let Some((program, socket)) = self.by.clone() {
            let text = if self.forks { text.replacen('\n', "\ncheckpoints = true\n", 1) } else { text };
            return self.attacked_by(attack, &text, &program, &socket, &before);
        }
        let mut host = self.host.clone();
        if !root {
            host.cgroups = agent_kernel::cgroup::Layout::default();
        }
        let policy = Policy::from_toml(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        let mut plan = compile(&policy, &host).unwrap_or_else(|error| panic!("{error}"));
        match self.without.as_deref() {
            Some("seccomp") => {
                plan.filter = vec![sys::Instruction { code: 6, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW }];
                plan.record_denials = false;
            }
            Some("landlock") => plan.landlock = agent_kernel::plan::LandlockPlan::default(),
            Some("limits") => plan.limits.clear(),
            _ => {}
        }
        let mut targets = self.world.targets.clone();
        targets.scratch = if level == Level::L1 { scratch } else { "/workspace".into() };
        let argument = serde_json::to_string(&targets).expect("JSON");
        let program = self.world.program.clone();
        let canary = fs::File::open(format!("{}/canary", targets.outside)).expect("the canary");
        let leak = leak(&targets.outside);
        let cgroup_name = format!("gpve-attacks/{}", std::process::id());
        let cgroup = (!plan.cgroup.controllers().is_empty())
            .then(|| Cgroup::create(&host.cgroups, Path::new(&cgroup_name), &plan.cgroup).expect("a cgroup"));
        let network = self.networks.as_mut().map(|networks| {
            networks.fill().expect("a network");
            networks.take().expect("it is ready")
        });
        let end = self.in_child(|output| {
            let prepared = Prepared::new(&plan, &host, None).unwrap_or_else(|error| panic!("{error}"));
            let identity = Identity::new(700_000, 65_536, "inside", "0123456789abcdef0123456789abcdef");
            let mut start = Launch::new(&prepared, &identity, &[&program, attack.name, &argument]);
            start.stdio = [Some(canary.as_raw_fd()), Some(output), Some(2)];
            start.cgroup = cgroup.as_ref();
            start.netns = network.as_ref().map(|network| network.as_fd().as_raw_fd());
            if level == Level::L1 {
                start.cwd = CString::new(targets.scratch.as_str()).ok();
            }
            let started = launch(start).unwrap_or_else(|error| panic!("{error}"));
            let code = started.wait().unwrap_or(1);
            // As a shell would say it: 128 and the signal.
            if code > 128 {
                sys::exit_now(code);
            }
            sys::exit_now(0);
        });
        drop(leak);
        if let (Some(networks), Some(network)) = (&mut self.networks, network) {
            networks.give_back(network);
        }
        if let Some(cgroup) = cgroup {
            cgroup.kill().expect("killing what is left");
            cgroup.remove_with_parents(Path::new(&cgroup_name)).expect("removing the cgroup");
        }
        if attack.judged_at_victim {
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        (end, self.world.changed(&before))
    }

    /// The same in an instance of a template, which waits for it.
    fn attacked_by(
        &mut self,
        attack: &table::Attack,
        policy: &str,
        program: &str,
        socket: &str,
        before: &world::Look,
    ) -> (End, Option<String>) {
        let number = self.templates.iter().position(|known| known == policy).unwrap_or_else(|| {
            self.templates.push(policy.to_owned());
            let number = self.templates.len() - 1;
            let file = format!("{}/policy-{number}.toml", self.world.programs);
            fs::write(&file, policy).expect("a policy");
            let name = format!("attacks-{number}");
            let words = ["--socket", socket, "template", "create", &name, "--policy", &file, "--pool", "2"];
            let made = std::process::Command::new(program).args(words).status().expect("the runtime");
            assert!(made.success(), "no template");
            number
        });
        let mut targets = self.world.targets.clone();
        targets.scratch = "/workspace".into();
        let argument = serde_json::to_string(&targets).expect("JSON");
        let code = "import os, sys; os.execv(sys.argv[1], sys.argv[1:])";
        let template = format!("attacks-{number}");
        let attacker = self.world.program.clone();
        let words = [
            program,
            "--socket",
            socket,
            "claim",
            &template,
            "--rm",
            "--",
            "-c",
            code,
            &attacker,
            attack.name,
            &argument,
        ];
        let end = self.in_child(|_| {
            if self.forks {
                let claimed = [&["claim", &template, "-d", "--", "-c", FORKED][..], &words[9..]].concat();
                follow_a_fork(&Runtime { program, socket }, &claimed);
            }
            become_program(&words)
        });
        if attack.judged_at_victim {
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        (end, self.world.changed(before))
    }

    /// Run `body` in a child of the launcher's user; it gets the descriptor to print to.
    fn in_child(&self, body: impl FnOnce(i32)) -> End {
        let (read, write) = sys::pipe().expect("a pipe");
        // SAFETY: this program has one thread.
        let pid = unsafe { sys::fork() }.expect("a child");
        if pid == 0 {
            drop(read);
            if self.user != 0 {
                sys::clear_groups()
                    .and_then(|()| sys::set_gid(self.user))
                    .and_then(|()| sys::set_uid(self.user))
                    .expect("user");
                // A process that changed its ids is not dumpable, and so cannot write its own child's maps.
                sys::prctl(libc::PR_SET_DUMPABLE, 1, 0).expect("dumpable");
            }
            sys::dup_to(write.as_raw_fd(), 1).expect("standard output");
            // A panic must not unwind into the suite, whose world it would tear down.
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| body(1)));
            sys::exit_now(1);
        }
        drop(write);
        let mut text = Vec::new();
        let mut chunk = [0u8; 4096];
        while let Ok(got @ 1..) = sys::read(read.as_raw_fd(), &mut chunk) {
            text.extend_from_slice(&chunk[..got]);
        }
        let status = sys::wait(pid, 0).ok().flatten().map_or(0, |(_, status)| status);
        let text = String::from_utf8_lossy(&text).trim().to_owned();
        let code = agent_kernel::init::code_of(status);
        if text == "ok" {
            End::Succeeded
        } else if let Some(errno) = text.strip_prefix("errno ").and_then(|n| n.parse().ok()) {
            End::Refused(errno)
        } else if code > 128 {
            End::Killed(code - 128)
        } else {
            End::Strange(format!("{text:?}, code {code}"))
        }
    }
}

/// What an agent runs that is forked: the fork becomes the attack.
const FORKED: &str = "
import os, sys, time, gpve_agent
if gpve_agent.checkpoint():
    os.execv(sys.argv[1], sys.argv[1:])
time.sleep(1000)
";

/// A runtime, by its command line.
struct Runtime<'a> {
    program: &'a str,
    socket: &'a str,
}

impl Runtime<'_> {
    /// What a command prints, if it ends well.
    fn told(&self, words: &[&str]) -> Option<String> {
        let done = std::process::Command::new(self.program).args(["--socket", self.socket]).args(words).output();
        let done = done.expect("the runtime");
        done.status.success().then(|| String::from_utf8_lossy(&done.stdout).trim().to_owned())
    }
}

/// Claims an agent, forks it once it waits, prints what the fork prints, and ends as it does.
fn follow_a_fork(runtime: &Runtime, claimed: &[&str]) -> ! {
    let agent = runtime.told(claimed).expect("an agent");
    let mut tries = 0;
    let fork = loop {
        if let Some(fork) = runtime.told(&["fork", &agent]) {
            break fork;
        }
        tries += 1;
        assert!(tries < 100, "no fork");
        std::thread::sleep(std::time::Duration::from_millis(20));
    };
    print!("{}", runtime.told(&["logs", "--follow", &fork]).unwrap_or_default());
    let rows = runtime.told(&["ps", "--json"]).unwrap_or_default();
    let of_fork = |line: &str| {
        let row: serde_json::Value = serde_json::from_str(line).ok()?;
        (row["id"] == fork.as_str()).then(|| row["last_exit"].clone())
    };
    let exit = rows.lines().find_map(of_fork).expect("the fork's end");
    runtime.told(&["rm", "--force", &fork, &agent]);
    let number = |key: &str| exit[key].as_i64().unwrap_or(0) as i32;
    let _ = std::io::Write::flush(&mut std::io::stdout());
    sys::exit_now(if number("signal") > 0 { 128 + number("signal") } else { number("code") })
}

/// Becomes another program, without any environment.
fn become_program(words: &[&str]) -> ! {
    let argv: Vec<CString> = words.iter().map(|word| CString::new(*word).expect("no NUL")).collect();
    let pointers: Vec<_> = argv.iter().map(|word| word.as_ptr()).chain([std::ptr::null()]).collect();
    let environment = [std::ptr::null()];
    // SAFETY: both arrays hold live C strings and end in null.
    let errno = unsafe { sys::execve(&argv[0], pointers.as_ptr(), environment.as_ptr()) };
    panic!("{errno}");
}

/// What a careless launcher would leak: a directory outside, without O_CLOEXEC.
fn leak(outside: &str) -> fs::File {
    let directory = fs::File::open(outside).expect("outside");
    sys::set_cloexec(directory.as_raw_fd(), false).expect("leak");
    directory
}

/// Counters that the processes of the world share with the suite.
pub(crate) struct Shared(*const AtomicU32);

impl Shared {
    fn new() -> Self {
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        // SAFETY: a fresh mapping, zeroed, kept until the end.
        let page = unsafe { libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
        Self(page.cast())
    }

    pub(crate) fn counter(&self) -> &AtomicU32 {
        // SAFETY: the mapping holds at least one AtomicU32, and is never unmapped.
        unsafe { &*self.0 }
    }

    pub(crate) fn value(&self) -> u32 {
        self.counter().load(Ordering::SeqCst)
    }
}

pub(crate) fn give(path: &Path, user: u32, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("permissions");
    std::os::unix::fs::chown(path, Some(user), Some(user)).expect("owner");
}

pub(crate) fn own_program(name: &str) -> PathBuf {
    std::env::current_exe().expect("own path").with_file_name(name)
}
