//! What a launch promises.

use super::*;

type Case = (&'static str, fn(&Ground));

pub const CASES: &[Case] = &[
    ("every_level_says_who_it_is", every_level),
    ("exit_codes_and_signals_come_back", exits),
    ("the_record_is_written_where_it_is_wanted", records),
    ("errors_say_layer_and_reason", errors),
    ("one_more_process_enters", into),
    ("a_supervisor_takes_its_program_with_it", supervisor),
    ("orphans_are_reaped", orphans),
    ("a_workspace_survives_its_agent_and_is_copied", workspace),
    ("quotas_can_be_changed", resize),
    ("denials_are_counted_by_name", denials),
    ("paused_is_paused", freeze),
    ("a_limit_below_what_runs_is_refused", update),
    ("out_of_memory_is_told", memory),
    ("what_cannot_be_recorded_does_not_run", unrecorded),
    ("an_overlay_makes_the_root_writable", overlay),
    ("a_ready_network_is_lent_until_it_was_used", netns),
    ("capabilities_stay_that_are_kept", kept),
    ("descriptors_are_passed_where_they_are_wanted", passed),
    ("enter_confines_this_process", enter),
    ("explanations_come_true", explained),
    ("nothing_is_left_after_many", flat),
];

fn every_level(ground: &Ground) {
    for (level, uid) in [("L1", 701_000), ("L2", 1000), ("L3", 1000)] {
        let policy = format!("level = {level:?}\n[files]\nread = [\"/etc/hostname\"]\n");
        let cwd = CString::new("/usr").unwrap();
        let ended = ground.run(&policy, &["id", "-u"], |start| start.cwd = Some(cwd.clone())).unwrap();
        assert_eq!((ended.text.as_str(), ended.code), (uid.to_string().as_str(), 0), "{level}");
        assert_eq!(format!("{:?}", ended.applied.level), level);
        assert!(ended.applied.layers.contains_key("seccomp") && ended.applied.missing.is_empty());
    }
    let status = ground.shell("", "cat /proc/self/status").text;
    for line in ["CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(status.contains(line), "{line}");
    }
    assert_eq!(
        ground.shell("", "cat /etc/machine-id; hostname; ls /workspace; ls -A /tmp").text,
        "0123456789abcdef0123456789abcdef\ninside"
    );
}

fn exits(ground: &Ground) {
    for (line, code) in [("exit 7", 7), ("kill -9 $$", 137), ("kill -TERM $$", 143), ("true", 0)] {
        assert_eq!(ground.shell("", line).code, code, "{line}");
    }
    // Process 1 passes signals on from outside.
    let plan = ground.plan("level = \"L2\"");
    let prepared = ground.prepare(&plan);
    let (read, write) = sys::pipe().unwrap();
    let mut start = Launch::new(
        &prepared,
        &ground.identity,
        &["sh", "-c", "trap 'exit 9' TERM; echo up; while :; do sleep 0.01; done"],
    );
    start.stdio[1] = Some(write.as_raw_fd());
    let started = launch(start).unwrap();
    drop(write);
    let mut byte = [0u8; 3];
    assert_eq!(sys::read(read.as_raw_fd(), &mut byte), Ok(3));
    sys::pidfd_kill(started.pidfd.as_raw_fd(), libc::SIGTERM).unwrap();
    assert_eq!(started.wait(), Ok(9));
}

fn records(ground: &Ground) {
    let (read, write) = sys::pipe().unwrap();
    ground.run("", &["sh", "-c", "exit 3"], |start| start.status = Some(write.as_raw_fd())).unwrap();
    let mut bytes = [0u8; ExitRecord::SIZE];
    assert_eq!(sys::read(read.as_raw_fd(), &mut bytes), Ok(ExitRecord::SIZE));
    assert_eq!(ExitRecord::from_bytes(&bytes).unwrap().code, Some(3));
    let file = sys::memfd(c"record").unwrap();
    let at = |start: &mut Launch| (start.status, start.status_offset) = (Some(file.as_raw_fd()), 64);
    ground.run("", &["sh", "-c", "kill -KILL $$"], at).unwrap();
    let all = fs::read(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap();
    assert_eq!(ExitRecord::from_bytes(&all[64..]).unwrap().signal, Some(9));
    assert_eq!(ExitRecord::from_bytes(&all[..64]), None);
}

fn errors(ground: &Ground) {
    let failed = |argv: &[&str], change: &dyn Fn(&mut Launch)| ground.run("", argv, change).err().unwrap().to_string();
    let said = failed(&["no-such-program"], &|_| ());
    assert!(said.contains("exec: executing no-such-program failed: ENOENT"), "{said}");
    let said = failed(&["/etc/passwd"], &|_| ());
    assert!(said.contains("exec: executing /etc/passwd failed: EACCES"), "{said}");
    let said = failed(&["true"], &|start| start.cwd = Some(c"/no/where".into()));
    assert!(said.contains("root: entering the directory /no/where failed: ENOENT"), "{said}");
    let said = failed(&["true"], &|start| start.cgroup = None);
    assert!(said.contains("no cgroup was given"), "{said}");
    let said = failed(&[], &|_| ());
    assert!(said.contains("the command is empty"), "{said}");
    let zero = Identity { first_id: 0, ..ground.identity.clone() };
    let plan = ground.plan("level = \"L2\"");
    let said = launch(Launch::new(&ground.prepare(&plan), &zero, &["true"])).unwrap_err().to_string();
    assert!(said.contains("host's root"), "{said}");
    // Nothing half made: no child is left.
    assert!(sys::wait(-1, libc::WNOHANG).is_err());
}

/// An agent that sleeps until it is killed.
fn sleeper(ground: &Ground, prepared: &Prepared, cgroup: Option<&Cgroup>) -> agent_kernel::Launched {
    let mut start = Launch::new(prepared, &ground.identity, &["sleep", "60"]);
    start.cgroup = cgroup;
    launch(start).unwrap()
}

fn into(ground: &Ground) {
    let plan = ground.plan("");
    let (prepared, cgroup) = (ground.prepare(&plan), ground.cgroup(&plan).unwrap());
    let agent = sleeper(ground, &prepared, Some(&cgroup.0));
    let (read, write) = sys::pipe().unwrap();
    let line = "hostname; grep -E 'Seccomp:|CapBnd|NoNewPrivs' /proc/self/status; id -u; touch /usr/x; exit 5";
    let mut start = Launch::new(&prepared, &ground.identity, &["sh", "-c", line]);
    start.stdio = [None, Some(write.as_raw_fd()), Some(write.as_raw_fd())];
    start.cgroup = Some(&cgroup.0);
    let second = launch_into(agent.pidfd.as_raw_fd(), start).unwrap();
    drop(write);
    let said = text(&read);
    for part in ["inside\n", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2", "\n1000\n", "Read-only"] {
        assert!(said.contains(part), "{said:?} lacks {part:?}");
    }
    assert_eq!(second.wait(), Ok(5));
    cgroup.0.kill().unwrap();
    assert_eq!(agent.wait(), Ok(137));
}

fn supervisor(ground: &Ground) {
    let plan = ground.plan("");
    let (prepared, cgroup) = (ground.prepare(&plan), ground.cgroup(&plan).unwrap());
    let agent = sleeper(ground, &prepared, Some(&cgroup.0));
    let mut start = Launch::new(&prepared, &ground.identity, &["sleep", "50"]);
    start.cgroup = Some(&cgroup.0);
    let second = launch_into(agent.pidfd.as_raw_fd(), start).unwrap();
    let before = cgroup.0.stats().unwrap().processes.unwrap();
    sys::pidfd_kill(second.pidfd.as_raw_fd(), libc::SIGKILL).unwrap();
    second.wait().unwrap();
    let deadline = Instant::now() + Duration::from_secs(2);
    while cgroup.0.stats().unwrap().processes.unwrap() > before - 2 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(cgroup.0.stats().unwrap().processes, Some(before - 2));
    cgroup.0.kill().unwrap();
    agent.wait().unwrap();
}

fn orphans(ground: &Ground) {
    // Double forks, whose parents have ended: process 1 must reap them, or the limit on processes is soon reached.
    let line = "i=0; while [ $i -lt 60 ]; do (true & ) ; i=$((i+1)); done; sleep 0.2; ls -d /proc/[0-9]* | wc -l";
    let ended = ground.shell("[limits]\nprocesses = 40", line);
    let processes: u32 = ended.text.lines().last().unwrap().parse().unwrap();
    assert!(processes <= 6, "{processes} processes are left: {}", ended.text);
}

fn workspace(ground: &Ground) {
    let plan = ground.plan("level = \"L2\"");
    let prepared = ground.prepare(&plan);
    let workspace = Workspace::create(&plan, &ground.identity).unwrap();
    let run = |line: &str| {
        let (read, write) = sys::pipe().unwrap();
        let mut start = Launch::new(&prepared, &ground.identity, &["sh", "-c", line]);
        start.stdio[1] = Some(write.as_raw_fd());
        start.workspace = Some(&workspace);
        let started = launch(start).unwrap();
        drop(write);
        let said = text(&read);
        started.wait().unwrap();
        said
    };
    run("echo one > /workspace/kept; mkdir /workspace/d; echo two > /workspace/d/e; ln -s /etc/passwd /workspace/link");
    assert_eq!(run("cat /workspace/kept /workspace/d/e"), "one\ntwo");
    let limits = agent_kernel::archive::Limits::default();
    let mut out = Vec::new();
    let copied = agent_kernel::copy::copy_out(workspace.top(), Path::new("workspace"), &mut out, &limits).unwrap();
    assert_eq!(copied.entries, 4);
    agent_kernel::copy::copy_in(workspace.top(), workspace.owner(), Path::new("workspace/again"), &out[..], &limits)
        .unwrap();
    assert_eq!(
        run("cat /workspace/again/kept; stat -c %u /workspace/again/d/e; rm -r /workspace/again && echo mine"),
        "one\n1000\nmine"
    );
    // Through a running agent, by a launcher that does not hold the workspace.
    let mut start = Launch::new(&prepared, &ground.identity, &["sleep", "60"]);
    start.workspace = Some(&workspace);
    let agent = launch(start).unwrap();
    let reached = agent_kernel::workspace::reach(agent.pid, plan.workspace.as_ref().unwrap()).unwrap();
    let mut saved = Vec::new();
    agent_kernel::copy::snapshot(reached.as_fd(), &mut saved).unwrap();
    sys::pidfd_kill(agent.pidfd.as_raw_fd(), libc::SIGKILL).unwrap();
    agent.wait().unwrap();
    run("rm -r /workspace/*; echo other > /workspace/other");
    let place = sys::openat(workspace.top().as_raw_fd(), c"workspace", libc::O_RDONLY, 0).unwrap();
    agent_kernel::copy::restore(place.as_fd(), workspace.owner(), &saved[..]).unwrap();
    assert_eq!(run("cat /workspace/kept; ls /workspace"), "one\nd\nkept\nlink");
}

fn resize(ground: &Ground) {
    let plan = ground.plan("level = \"L2\"\n[workspace]\nsize = \"1MiB\"\ninodes = 100");
    let workspace = Workspace::create(&plan, &ground.identity).unwrap();
    let prepared = ground.prepare(&plan);
    let fill = || {
        let line = "dd if=/dev/zero of=/workspace/big bs=65536 count=40 2>/dev/null";
        let mut start = Launch::new(&prepared, &ground.identity, &["sh", "-c", line]);
        start.workspace = Some(&workspace);
        launch(start).unwrap().wait().unwrap()
    };
    assert_eq!(fill(), 1, "a quota of 1 MiB lets 2.5 MiB pass");
    workspace.resize(8 << 20, 200).unwrap();
    assert_eq!(fill(), 0);
    let said = workspace.resize(1 << 20, 200).unwrap_err().to_string();
    assert!(said.contains("in use"), "{said}");
}

fn denials(ground: &Ground) {
    let file = sys::memfd(c"denials").unwrap();
    // SAFETY: plain integers.
    assert_eq!(unsafe { libc::ftruncate(file.as_raw_fd(), 4096) }, 0);
    let line = "unshare -U true; unshare -U true; mount -t tmpfs x /tmp; hostname other; exit 0";
    let ended = ground.run("", &["sh", "-c", line], |start| start.denials = Some(file.as_raw_fd())).unwrap();
    assert!(ended.text.contains("Operation not permitted"), "{}", ended.text);
    let bytes = fs::read(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap();
    let denied = AgentReport::new(None, &bytes).denials;
    assert_eq!(denied.get("unshare"), Some(&2), "{denied:?}");
    assert_eq!(denied.get("sethostname"), Some(&1), "{denied:?}");
    assert!(
        denied.contains_key("mount") || denied.contains_key("fsopen") || denied.contains_key("open_tree"),
        "{denied:?}"
    );
}

fn freeze(ground: &Ground) {
    let plan = ground.plan("");
    let (prepared, cgroup) = (ground.prepare(&plan), ground.cgroup(&plan).unwrap());
    let mut start = Launch::new(&prepared, &ground.identity, &["sh", "-c", "while :; do :; done"]);
    start.cgroup = Some(&cgroup.0);
    let agent = launch(start).unwrap();
    let used = || {
        let before = cgroup.0.stats().unwrap().cpu_usec.unwrap();
        std::thread::sleep(Duration::from_millis(60));
        cgroup.0.stats().unwrap().cpu_usec.unwrap() - before
    };
    assert!(used() > 10_000);
    cgroup.0.freeze().unwrap();
    let frozen = used();
    assert!(frozen < 2_000, "{frozen} microseconds of CPU while paused");
    // Found again after the daemon has died.
    let again =
        Cgroup::open(&serde_json::from_str(&serde_json::to_string(&cgroup.0.handle()).unwrap()).unwrap()).unwrap();
    again.thaw().unwrap();
    assert!(used() > 10_000);
    cgroup.0.freeze().unwrap();
    again.kill().unwrap();
    assert_eq!(agent.wait(), Ok(137), "killed while paused");
}

fn update(ground: &Ground) {
    let plan = ground.plan("");
    let (prepared, cgroup) = (ground.prepare(&plan), ground.cgroup(&plan).unwrap());
    let agent = sleeper(ground, &prepared, Some(&cgroup.0));
    let values = |memory, processes| agent_kernel::cgroup::Values { memory, processes, ..Default::default() };
    let said = cgroup.0.update(&values(Some(4096), None)).unwrap_err().to_string();
    assert!(said.contains("below the") && said.contains("in use now"), "{said}");
    let said = cgroup.0.update(&values(None, Some(1))).unwrap_err().to_string();
    assert!(said.contains("below the 2 that run now"), "{said}");
    cgroup.0.update(&values(Some(1 << 30), Some(50))).unwrap();
    cgroup.0.update(&values(Some(64 << 20), Some(20))).unwrap();
    cgroup.0.kill().unwrap();
    agent.wait().unwrap();
}

fn memory(ground: &Ground) {
    let plan = ground.plan("[limits]\nmemory = \"32MiB\"");
    let (prepared, cgroup) = (ground.prepare(&plan), ground.cgroup(&plan).unwrap());
    let mut start = Launch::new(&prepared, &ground.identity, &["python3", "-c", "x = bytearray(200 << 20)"]);
    start.cgroup = Some(&cgroup.0);
    let agent = launch(start).unwrap();
    assert_eq!(agent.wait(), Ok(137));
    assert!(cgroup.0.stats().unwrap().oom_kills.unwrap() >= 1, "{:?}", cgroup.0.stats());
}

fn unrecorded(ground: &Ground) {
    let plan = ground.plan("level = \"L2\"");
    let prepared = ground.prepare(&plan);
    let (read, write) = sys::pipe().unwrap();
    let mut refuse = |_: i32, _: std::os::fd::BorrowedFd| Err(std::io::Error::other("the disk is full"));
    let mut start = Launch::new(&prepared, &ground.identity, &["echo", "ran"]);
    start.stdio[1] = Some(write.as_raw_fd());
    start.on_cloned = Some(&mut refuse);
    let said = launch(start).unwrap_err().to_string();
    drop(write);
    assert!(said.contains("the disk is full") && text(&read).is_empty(), "{said}");
    // The launcher is killed before it lets the agent run: the agent ends without having run anything.
    let (read, write) = sys::pipe().unwrap();
    // SAFETY: this program has one thread.
    let pid = unsafe { sys::fork() }.unwrap();
    if pid == 0 {
        let mut die = |_: i32, _: std::os::fd::BorrowedFd| -> std::io::Result<()> {
            sys::kill(std::process::id() as i32, libc::SIGKILL)?;
            Ok(())
        };
        let mut start = Launch::new(&prepared, &ground.identity, &["echo", "ran"]);
        start.stdio[1] = Some(write.as_raw_fd());
        start.on_cloned = Some(&mut die);
        let _ = launch(start);
        sys::exit_now(1);
    }
    drop(write);
    assert_eq!(text(&read), "", "an agent ran that nobody knows");
    sys::wait(pid, 0).unwrap();
}

fn overlay(ground: &Ground) {
    // Root of its own namespace owns the files of its root.
    let policy = "[identity]\nuid = 0\ngid = 0\n[workspace]\nkind = \"overlay\"\nsize = \"8MiB\"";
    let line = "touch /usr/mine && ls /usr/mine /usr/bin/env; echo more >> /usr/lib/os-release && tail -n 1 /usr/lib/os-release; rm /usr/bin/env && ls /usr/bin/env; touch /workspace/x && echo ok";
    let ended = ground.shell(policy, line);
    assert!(ended.text.starts_with("/usr/bin/env\n/usr/mine\nmore\n") && ended.text.ends_with("ok"), "{}", ended.text);
    assert!(ended.text.contains("cannot access '/usr/bin/env'"), "{}", ended.text);
    assert!(Path::new("/usr/bin/env").exists() && !Path::new("/usr/mine").exists());
    assert!(!fs::read_to_string("/usr/lib/os-release").unwrap().contains("more\n"));
    // Beyond the quota nothing can be written, as in the workspace.
    assert_ne!(ground.shell(policy, "dd if=/dev/zero of=/usr/big bs=1048576 count=16 2>/dev/null").code, 0);
}

fn netns(ground: &Ground) {
    let own = || fs::read_link("/proc/self/ns/net").unwrap();
    let home = own();
    let mut networks = Networks::new(2);
    assert!(networks.take().is_none());
    for _ in 0..3 {
        networks.fill().unwrap();
    }
    assert_eq!(networks.ready(), 2, "no more than wanted");
    let mut run = |command: &str| {
        let network = networks.take().unwrap();
        let fd = network.as_fd().as_raw_fd();
        let name = fs::read_link(format!("/proc/self/fd/{fd}")).unwrap();
        let line = format!("readlink /proc/self/ns/net; {command}");
        let ended = ground.run("", &["sh", "-c", &line], |start| start.netns = Some(fd)).unwrap();
        assert_eq!(ended.text.lines().next(), name.to_str());
        assert_eq!(own(), home, "the launcher came home");
        let ready = networks.ready();
        networks.give_back(network);
        (ended.text, networks.ready() > ready)
    };
    assert!(run("true").1, "nobody used it");
    let python = |line: &str| {
        format!("python3 -c 'import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); {line}'")
    };
    let (said, kept) = run(&python("s.bind((\"127.0.0.1\", 5)); s.sendto(b\"x\", s.getsockname()); print(s.recv(1))"));
    assert!(said.ends_with("Permission denied") && kept, "its ports below 1024 are not the agent's: {said}");
    let (said, kept) =
        run(&python("s.bind((\"127.0.0.1\", 5000)); s.sendto(b\"x\", s.getsockname()); print(s.recv(1))"));
    assert!(said.ends_with("b'x'"), "the loopback interface is up: {said}");
    assert!(!kept, "a packet has passed");
    // What somebody else still has open in it is not lent to the next.
    let held = Network::make().unwrap();
    let visit = Visit::begin(held.as_fd().as_raw_fd()).unwrap();
    let socket = std::net::UdpSocket::bind("0.0.0.0:5000").unwrap();
    visit.end();
    networks.give_back(held);
    assert_eq!(networks.ready(), 1);
    drop(socket);
}

fn kept(ground: &Ground) {
    let ended = ground.shell("[capabilities]\nkeep = [\"net_bind_service\"]", "grep CapEff /proc/self/status");
    assert_eq!(ended.text, "CapEff:\t0000000000000400");
}

fn passed(ground: &Ground) {
    let (read, write) = sys::pipe().unwrap();
    ground.run("", &["sh", "-c", "echo through >&9"], |start| start.pass = vec![(write.as_raw_fd(), 9)]).unwrap();
    drop(write);
    assert_eq!(text(&read), "through");
    let said = ground.run("", &["true"], |start| start.pass = vec![(0, 2)]).err().unwrap().to_string();
    assert!(said.contains("not between 3 and 255"), "{said}");
}

fn enter(_: &Ground) {
    let policy = |more: &str| Policy::from_toml(&format!("version = 1\n{more}")).unwrap();
    let said = agent_kernel::enter(&policy("")).unwrap_err().to_string();
    assert!(said.contains("level = \"L1\""), "{said}");
    let said = agent_kernel::enter(&policy("level = \"L1\"")).unwrap_err().to_string();
    assert!(said.contains("root has to become somebody else"), "{said}");
    let confined = "level = \"L1\"\n[identity]\nuid = 4321\ngid = 4321";
    let thread = std::thread::spawn(|| std::thread::sleep(Duration::from_millis(200)));
    let said = agent_kernel::enter(&policy(confined)).unwrap_err().to_string();
    assert!(said.contains("2 threads"), "{said}");
    thread.join().unwrap();
    agent_kernel::enter(&policy(confined)).unwrap();
    assert_eq!(sys::ids(), (4321, 4321));
    assert!(fs::read("/etc/shadow").is_err() && fs::read_dir("/home").is_err() && fs::write("/tmp/x", "x").is_err());
    assert!(fs::read("/usr/bin/env").is_ok());
    let report = agent_kernel::report();
    assert!(report.no_new_privileges && report.seccomp == Some(2) && report.capabilities.is_empty(), "{report:?}");
    assert!(report.memory_peak_bytes.unwrap() > 100_000);
}

fn explained(ground: &Ground) {
    let policy = Policy::from_toml("version = 1\n[files]\nread = [\"/etc/passwd\"]").unwrap();
    let tries = [
        ("read", "/usr/bin/env", "cat /usr/bin/env"),
        ("write", "/usr/bin/env", "echo x >> /usr/bin/env"),
        ("write", "/workspace/x", "echo x > /workspace/x"),
        ("write", "/etc/x", "echo x > /etc/x"),
        ("read", "/root/x", "ls /root"),
        ("execute", "/etc/passwd", "/etc/passwd"),
        ("call", "unshare", "unshare -U true"),
    ];
    for (verb, object, line) in tries {
        let told = agent_kernel::explain(&policy, &Access::parse(verb, object).unwrap());
        let ended = ground.shell("[files]\nread = [\"/etc/passwd\"]", &format!("{line} >/dev/null 2>&1"));
        let expected = told.allowed && object != "unshare";
        assert_eq!(ended.code == 0, expected, "{verb} {object}: {told:?}, and {line:?} ended with {}", ended.code);
    }
}

fn flat(ground: &Ground) {
    let mounts = || fs::read_to_string("/proc/self/mountinfo").unwrap();
    let plan = ground.plan("");
    let prepared = ground.prepare(&plan);
    let (descriptors, table) = (open_descriptors(), mounts());
    for _ in 0..100 {
        let cgroup = ground.cgroup(&plan).unwrap();
        let mut start = Launch::new(&prepared, &ground.identity, &["true"]);
        start.cgroup = Some(&cgroup.0);
        assert_eq!(launch(start).unwrap().wait(), Ok(0));
    }
    assert_eq!((open_descriptors(), mounts()), (descriptors, table));
    assert!(sys::wait(-1, libc::WNOHANG).is_err(), "a child is left");
}
