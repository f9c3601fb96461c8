//! What others had to learn: a case for each CVE of the design's list that is a launcher's business.

use std::os::unix::fs::symlink;

use super::*;

type Case = (&'static str, fn(&Ground));

pub const CASES: &[Case] = &[
    ("cve_2019_5736_the_launcher_runs_from_sealed_memory", sealed),
    ("cve_2019_5736_init_cannot_be_looked_into", hidden_init),
    ("cve_2024_21626_a_working_directory_outside_is_refused", working_directory),
    ("cve_2024_21626_no_descriptor_leaks", leaks),
    ("cve_2021_30465_links_in_an_image_lead_nowhere", links_in_the_root),
    ("cve_2025_31133_masked_paths_do_not_exist", masked_paths),
    ("cve_2025_52881_nothing_is_written_to_a_false_proc", false_proc),
    ("cve_2022_0492_no_cgroup_can_be_mounted", release_agent),
    ("srt_unix_sockets_outside_are_out_of_reach", unix_sockets),
    ("srt_a_denied_path_that_does_not_exist_yet_stays_denied", not_yet),
    ("host_uid_0_is_never_inside", uid_zero),
    ("a_terminal_is_not_typed_into", terminal),
];

fn sealed(_: &Ground) {
    assert!(!agent_kernel::sealed::is_sealed());
    let own = sys::openat(sys::HERE, c"/proc/self/exe", libc::O_RDONLY, 0).unwrap();
    let copy = agent_kernel::sealed::copy(&own).unwrap();
    let path = format!("/proc/self/fd/{}", copy.as_raw_fd());
    let said = fs::OpenOptions::new().write(true).open(&path).and_then(|mut file| file.write_all(b"x")).unwrap_err();
    assert_eq!(said.raw_os_error(), Some(libc::EPERM));
    assert_eq!(fs::metadata(&path).unwrap().len(), fs::metadata("/proc/self/exe").unwrap().len());
}

fn hidden_init(ground: &Ground) {
    let ended = ground.shell("", "ls /proc/1; cat /proc/1/maps; readlink /proc/1/exe; ls /proc/1/fd");
    assert!(!ended.text.contains("exe\n") && !ended.text.contains("r-xp"), "{}", ended.text);
}

fn working_directory(ground: &Ground) {
    let outside = fs::File::open("/root").or_else(|_| fs::File::open("/")).unwrap();
    sys::set_cloexec(outside.as_raw_fd(), false).unwrap();
    for directory in
        [format!("/proc/self/fd/{}", outside.as_raw_fd()), "/proc/self/cwd/../../..".into(), "/proc/1/root".into()]
    {
        let cwd = CString::new(directory.clone()).unwrap();
        match ground.run("", &["sh", "-c", "pwd -P; ls"], |start| start.cwd = Some(cwd.clone())) {
            // What is refused is refused by the layer of the root; what is not must lie inside.
            Err(error) => assert!(error.layer == "root", "{directory}: {error}"),
            Ok(ended) => {
                assert!(ended.text.starts_with("/\n") && !ended.text.contains("boot"), "{directory}: {}", ended.text)
            }
        }
    }
}

fn leaks(ground: &Ground) {
    let outside = fs::File::open("/").unwrap();
    sys::set_cloexec(outside.as_raw_fd(), false).unwrap();
    let high = sys::dup_above(outside.as_raw_fd(), 200).unwrap();
    sys::set_cloexec(high.as_raw_fd(), false).unwrap();
    for level in ["L1", "L2", "L3"] {
        let line = "for fd in /proc/self/fd/*; do echo ${fd##*/}; done";
        let line = if level == "L1" {
            "i=3; while [ $i -lt 256 ]; do ls /proc/self/fd/$i/ 2>/dev/null; i=$((i+63)); done; echo done"
        } else {
            line
        };
        let ended = ground
            .run(&format!("level = {level:?}"), &["sh", "-c", line], |start| start.cwd = Some(c"/usr".into()))
            .unwrap();
        // 0, 1, 2, and the directory that the shell reads.
        let lines: Vec<&str> = ended.text.lines().filter(|line| !line.is_empty()).collect();
        assert!(lines.len() <= 4, "{level}: {lines:?}");
    }
}

/// A root that an attacker has filled: links where the launcher makes its own places and attaches its mounts.
fn links_in_the_root(ground: &Ground) {
    let top = std::env::temp_dir().join(format!("gpve-lesson-{}", std::process::id()));
    let (root, victim) = (top.join("root"), top.join("victim"));
    fs::create_dir_all(&root).unwrap();
    fs::create_dir_all(&victim).unwrap();
    for name in ["proc", "dev", "tmp", "run", "workspace", "srv"] {
        symlink(&victim, root.join(name)).unwrap();
    }
    symlink("/usr/bin", root.join("bin")).unwrap();
    symlink("/usr/lib", root.join("lib")).unwrap();
    symlink("/usr/lib64", root.join("lib64")).unwrap();
    let policy = |more: &str| format!("level = \"L2\"\n[root]\ndirectory = {root:?}\n{more}");
    // /workspace is a link in the root, and the workspace is to be there: refused, and nothing is made at its end.
    let said = ground.run(&policy(""), &["true"], |_| ()).err().map(|error| error.to_string());
    assert!(said.is_some_and(|said| said.starts_with("root:") || said.starts_with("workspace:")));
    let data = std::path::PathBuf::from(format!("/srv/gpve-lesson-{}", std::process::id()));
    fs::create_dir_all(&data).unwrap();
    let more = format!("[workspace]\nkind = \"none\"\n[files]\nread = [{data:?}]");
    let said = ground.run(&policy(&more), &["true"], |_| ()).err().map(|error| error.to_string());
    assert!(said.is_some_and(|said| said.contains("is a link in the way?")));
    assert_eq!(fs::read_dir(&victim).unwrap().count(), 0, "something was made outside");
    fs::remove_dir_all(&data).unwrap();
    fs::remove_dir_all(&top).unwrap();
}

fn masked_paths(ground: &Ground) {
    for path in [
        "/proc/sys/kernel/core_pattern",
        "/proc/sysrq-trigger",
        "/proc/kcore",
        "/proc/keys",
        "/proc/timer_list",
        "/sys",
        "/proc/acpi",
    ] {
        assert_eq!(ground.shell("", &format!("ls {path} 2>/dev/null || echo absent")).text, "absent", "{path}");
    }
}

fn false_proc(ground: &Ground) {
    // A tmpfs over /proc: what looks like a process' files would be files of whoever mounted it.
    let tmpfs = sys::Filesystem::open(c"tmpfs").unwrap().mount(0).unwrap();
    sys::attach(tmpfs.as_raw_fd(), sys::HERE, c"/proc").unwrap();
    let host = Host { user_namespaces: true, ..ground.host.clone() };
    let plan = compile(&Policy::from_toml("version = 1\nlevel = \"L2\"").unwrap(), &host).unwrap();
    let said = Prepared::new(&plan, &host, None).err().unwrap().to_string();
    assert!(said.contains("/proc is no procfs"), "{said}");
}

fn release_agent(ground: &Ground) {
    let line = "mount -t cgroup x /tmp && echo IN; mount -t cgroup2 x /tmp && echo IN; unshare -UrmC true && echo IN; ls /sys/fs/cgroup && echo IN; find / -name 'cgroup.procs' 2>/dev/null; true";
    let said = ground.shell("[identity]\nuid = 0\ngid = 0", line).text;
    assert!(!said.contains("IN") && !said.contains("cgroup.procs\n"), "{said}");
}

fn unix_sockets(ground: &Ground) {
    let path = std::env::temp_dir().join(format!("gpve-socket-{}", std::process::id()));
    let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let name = format!("gpve-hidden-{}", std::process::id());
    use std::os::linux::net::SocketAddrExt;
    let hidden = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
    let _hidden = std::os::unix::net::UnixListener::bind_addr(&hidden).unwrap();
    let script = format!(
        "import socket\nfor name in ({path:?}, '\\0{name}'):\n try:\n  socket.socket(socket.AF_UNIX).connect(name); print('reached')\n except OSError as e: print(e.errno)"
    );
    let ended = ground.run("", &["python3", "-c", &script], |_| ()).unwrap();
    fs::remove_file(&path).unwrap();
    assert_eq!(ended.text, format!("{}\n{}", libc::ENOENT, libc::ECONNREFUSED));
}

fn not_yet(ground: &Ground) {
    // Allowed is a directory; a path beside it does not exist when the agent starts, and is made by the host later.
    let top = std::path::PathBuf::from(format!("/srv/gpve-notyet-{}", std::process::id()));
    fs::create_dir_all(top.join("open")).unwrap();
    let policy = format!("level = \"L2\"\n[files]\nread = [{:?}]", top.join("open"));
    let line = format!("sleep 0.3; cat {}/later/secret", top.display());
    let plan = ground.plan(&policy);
    let prepared = ground.prepare(&plan);
    let agent = launch(Launch::new(&prepared, &ground.identity, &["sh", "-c", &line])).unwrap();
    fs::create_dir(top.join("later")).unwrap();
    fs::write(top.join("later/secret"), "secret").unwrap();
    assert_ne!(agent.wait(), Ok(0));
    fs::remove_dir_all(&top).unwrap();
}

fn uid_zero(ground: &Ground) {
    for level in ["L2", "L3"] {
        let policy = format!("level = {level:?}\n[identity]\nuid = 0\ngid = 0");
        let ended = ground
            .shell(&policy, "id -u; cat /proc/self/uid_map; cat /proc/sys/kernel/core_pattern; touch /workspace/f");
        assert!(ended.text.starts_with("0\n") && ended.text.contains("700000"), "{}", ended.text);
    }
    let said = Policy::from_toml("version = 1\nlevel = \"L1\"\n[identity]\nuid = 0")
        .map(|policy| compile(&policy, &ground.host));
    // At L1 ids are the host's own: 0 inside is the first of the range, never the host's root.
    let ended = said.ok().map(|_| {
        ground
            .run("level = \"L1\"\n[identity]\nuid = 0\ngid = 0", &["id", "-u"], |start| {
                start.cwd = Some(c"/usr".into())
            })
            .unwrap()
    });
    assert_eq!(ended.map(|ended| ended.text), Some("700000".to_owned()));
}

fn terminal(ground: &Ground) {
    let script = "import fcntl, os, pty\nm, s = os.openpty()\nfor request in (0x5412, 0x541C):\n try:\n  fcntl.ioctl(s, request, b'x'); print('typed')\n except OSError as e: print(e.errno)";
    let ended = ground.run("", &["python3", "-c", script], |_| ()).unwrap();
    assert_eq!(ended.text, "1\n1");
}
