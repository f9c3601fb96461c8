use std::collections::BTreeSet;
use std::path::Path;

use super::*;
use crate::explain::{Access, explain};
use crate::host::Host;
use crate::plan::compile;

fn error(text: &str) -> String {
    Policy::from_toml(text).unwrap_err().to_string()
}

#[test]
fn what_is_wrong_is_said_with_its_place_and_what_would_be_right() {
    for (text, expected) in [
        (
            "version = 1\n[limits]\nmemorry = 1",
            vec!["line 3", "limits", "unknown key \"memorry\"", "did you mean memory?"],
        ),
        ("version = 2", vec!["line 1", "version", "write version = 1"]),
        ("level = \"L2\"", vec!["\"version\" is missing", "write version = 1"]),
        ("version = 1\nlevel = \"L4\"", vec!["line 2", "level", "unknown value \"L4\"", "L1, L2, L3"]),
        ("version = 1\n[limits]\nmemory = \"12MB\"", vec!["line 3", "limits.memory", "KiB, MiB"]),
        ("version = 1\n[limits]\ncpus = 0", vec!["line 3", "limits.cpus", "between 0.01 and 4096"]),
        ("version = 1\n[limits]\nmemory = 100", vec!["line 3", "too little"]),
        ("version = 1\n[files]\nread = [\"a/b\"]", vec!["line 3", "files.read", "absolute"]),
        ("version = 1\n[files]\nwrite = [\"/a/../b\"]", vec!["line 3", "without . and .."]),
        ("version = 1\n[system_calls]\nallow = [\"bpf\"]", vec!["line 3", "cannot be allowed", "kernel"]),
        ("version = 1\n[system_calls]\nallow = [\"ptrase\"]", vec!["did you mean ptrace?"]),
        ("version = 1\n[capabilities]\nkeep = [\"sys_admin\"]", vec!["line 3", "cannot be kept"]),
        ("version = 1\n[network]\nmode = \"host\"", vec!["line 3", "exclude each other"]),
        ("version = 1\nlevel = \"L2\"\n[network]\nmode = \"loopback\"", vec!["needs level L3"]),
        ("version = 1\n[network]\nconnect = [443]", vec!["mode = \"host\""]),
        ("version = 1\n[network]\negress = [\"http://x\"]", vec!["no host and port"]),
        ("version = 1\nlevel = \"L2\"\ncheckpoints = true", vec!["line 3", "only an agent at L3"]),
        ("version = 1\ncheckpoints = true\n[workspace]\nkind = \"overlay\"", vec!["line 2", "tmpfs"]),
        ("version = 1\ncheckpoints = true\n[system_calls]\nrecord_denials = true", vec!["line 2", "record_denials"]),
        ("version = 1\n[network]\negress_connections = 0", vec!["line 3", "at least 1"]),
        ("version = 1\n[network]\negress_bytes_per_second = 9", vec!["line 3", "at least 1024"]),
        ("version = 1\n[network.secrets]\nKEY = [\"https://a.org:443\"]", vec!["KEY", "not in network.egress"]),
        ("version = 1\n[network.secrets]\nKEY = [\"https://*.a.org:443\"]", vec!["no origin"]),
        ("version = 1\n[network.secrets]\nKEY = [\"https://a.org\"]", vec!["no origin"]),
        ("version = 1\n[network.secrets]\nKEY = [\"a.org:443\"]", vec!["no origin"]),
        ("version = 1\n[network.secrets]\n\"A-B\" = []", vec!["no name of a variable"]),
        (
            "version = 1\n[network]\negress = [\"a.org:80\"]\n[network.secrets]\nA = [\"http://a.org:80\"]\nB = [\"https://a.org:80\"]",
            vec!["both an http and an https"],
        ),
        ("version = 1\n[root]\nimage = \"latest\"", vec!["no digest"]),
        ("version = 1\n[workspace]\npath = \"/etc/x\"", vec!["line 3", "taken by the root"]),
        ("version = 1\n[files]\nread = [\"/tmp/x\"]", vec!["line 3", "files.read", "/tmp is the agent's own"]),
        ("version = 1\n[files]\nwrite = [\"/\"]", vec!["line 3", "cannot be shown"]),
        ("version = ", vec!["line 1"]),
        ("version = 1\nversion = 1", vec!["line 2"]),
    ] {
        let said = error(text);
        for part in expected {
            assert!(said.contains(part), "{text:?} said {said:?}, which lacks {part:?}");
        }
        assert!(!said.contains('\n'), "one sentence: {said:?}");
    }
}

#[test]
fn hosts_that_two_parsers_could_read_apart_are_refused() {
    for host in [
        "a\0.example.org:443",
        "a.org",
        "a.org:0",
        "a.org:99999",
        ".org:1",
        "a..b:1",
        "-a.org:1",
        "*:443",
        "a_b.org:1",
        "a.org:+1",
        "[::1]:1",
        "ä.org:1",
    ] {
        let mut policy = Policy::new();
        policy.network = Some(Network { egress: Some(BTreeSet::from([host.to_owned()])), ..Network::default() });
        assert!(Policy::from_json(&serde_json::to_string(&policy).unwrap()).is_err(), "{host:?}");
    }
}

#[test]
fn json_says_its_line_too() {
    let said = Policy::from_json("{\n \"version\": 1,\n \"limits\": {\"cpu\": 1}\n}").unwrap_err().to_string();
    assert!(
        said.contains("line 3") && said.contains("unknown key \"cpu\"") && said.contains("did you mean cpus?"),
        "{said}"
    );
}

#[test]
fn what_a_stranger_wrote_into_a_key_does_not_reach_the_terminal() {
    let keys =
        [r#"{"si\n\u001b[2J": 1}"#, r#"{"version": 1, "limits": {"\u0007": 1}}"#, r#"{"a\n": {"b": 1}, "version": 1}"#];
    let read = keys.map(Policy::from_json).into_iter().chain([Policy::from_toml("version = 1\n\"a\\u001B\\n\" = 1")]);
    for said in read.map(|read| read.unwrap_err().to_string()) {
        assert!(!said.contains(char::is_control) && said.contains("unknown key"), "{said:?}");
    }
}

#[test]
fn a_document_is_the_same_after_a_round() {
    for policy in samples() {
        assert_eq!(Policy::from_toml(&policy.to_toml()).as_ref(), Ok(&policy), "{}", policy.to_toml());
        assert_eq!(Policy::from_json(&serde_json::to_string(&policy).unwrap()), Ok(policy));
    }
}

/// Valid policies of all kinds, from a fixed seed.
fn samples() -> Vec<Policy> {
    let mut state = 42u64;
    let mut roll = move |sides: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % sides
    };
    let mut out = Vec::new();
    while out.len() < 60 {
        let mut some = |chance: u64| roll(chance) == 0;
        let level =
            [None, Some(Level::L1), Some(Level::L2), Some(Level::L3)][usize::from(some(2)) + 2 * usize::from(some(2))];
        let paths: BTreeSet<_> =
            ["/usr/share", "/usr", "/srv/a", "/srv/a/b"].iter().filter(|_| some(2)).map(Into::into).collect();
        let more: BTreeSet<_> = ["/srv/a/b/c", "/opt"].iter().filter(|_| some(2)).map(Into::into).collect();
        let mode = match level {
            Some(Level::L1 | Level::L2) if some(2) => Some(NetworkMode::Host),
            _ if some(2) => Some(NetworkMode::None),
            _ => None,
        };
        let ports = |yes: bool| (yes && mode == Some(NetworkMode::Host)).then(|| BTreeSet::from([80, 443]));
        let calls = |yes: bool, names: &[&str]| yes.then(|| names.iter().map(|n| (*n).to_owned()).collect());
        let policy = Policy {
            version: 1,
            level,
            optional: some(2).then(|| BTreeSet::from([Layer::CgroupIo, Layer::Denials])),
            checkpoints: some(3).then(|| some(2)),
            files: some(2).then(|| Files {
                read: Some(paths.clone()),
                execute: some(2).then_some(more),
                write: some(3).then_some(paths),
            }),
            workspace: (level != Some(Level::L1) && some(2)).then(|| WorkspacePolicy {
                size: some(2).then_some(Bytes(1 << 20)),
                execute: Some(some(2)),
                ..WorkspacePolicy::default()
            }),
            network: some(1).then(|| Network {
                mode,
                connect: ports(some(2)),
                bind: ports(some(2)),
                egress: some(2).then(|| BTreeSet::from(["a.org:443".to_owned(), "*.b.org:80".to_owned()])),
                egress_connections: some(2).then(|| 1 + u64::from(some(2))),
                egress_bytes_per_second: some(2).then(|| Bytes(if some(2) { 1024 } else { 4096 })),
                secrets: some(3).then(|| {
                    let origins = |list: &[&str]| list.iter().map(|o| (*o).to_owned()).collect();
                    let two = origins(&["https://a.org:443", "http://x.b.org:80"]);
                    let key = if some(2) { two } else { origins(&["https://a.org:443"]) };
                    [("KEY".to_owned(), key)].into()
                }),
            }),
            system_calls: some(2).then(|| SystemCalls {
                allow: calls(some(2), &["ptrace", "userfaultfd"]),
                deny: calls(some(2), &["socket", "fork"]),
                record_denials: None,
            }),
            capabilities: (level != Some(Level::L1) && some(3))
                .then(|| Capabilities { keep: calls(true, &["chown", "kill"]) }),
            limits: some(2).then(|| Limits {
                memory: Some(Bytes(64 << 20)),
                processes: some(2).then_some(1000),
                cpus: some(2).then_some(0.5),
                ..Limits::default()
            }),
            ..Policy::default()
        };
        if policy.check().is_ok() {
            out.push(policy);
        }
    }
    out
}

/// Things to ask of a policy.
fn questions() -> Vec<Access> {
    let mut out = Vec::new();
    for path in ["/usr/bin/x", "/srv/a/b/c/f", "/srv/a/f", "/opt/x", "/etc/passwd", "/workspace/x", "/tmp/x", "/root/x"]
    {
        for verb in ["read", "write", "execute"] {
            out.push(Access::parse(verb, path).unwrap());
        }
    }
    for (verb, object) in [
        ("connect", "a.org:443"),
        ("connect", "x.b.org:80"),
        ("connect", "1.2.3.4:80"),
        ("bind", "443"),
        ("call", "ptrace"),
        ("call", "socket"),
        ("capability", "chown"),
    ] {
        out.push(Access::parse(verb, object).unwrap());
    }
    out
}

#[test]
fn merging_only_narrows() {
    let samples = samples();
    let mut merged_at_all = 0;
    for one in &samples {
        for other in &samples {
            let Ok(merged) = one.narrowed_by(other) else { continue };
            merged_at_all += 1;
            assert!(merged.level() >= one.level());
            let checker = crate::explain::Checker::new(&merged);
            for access in questions() {
                assert_eq!(checker.allows(&access), explain(&merged, &access).allowed, "{access:?}");
                let (before, after) = (explain(one, &access), explain(&merged, &access));
                // At a higher level the root is another one: /workspace and /tmp are there, and are the agent's own.
                let own = matches!(&access, Access::Read(p) | Access::Write(p) | Access::Execute(p) if Path::new(p).starts_with("/workspace") || Path::new(p).starts_with("/tmp"));
                let own =
                    own || (merged.level() != one.level() && matches!(&access, Access::Read(_) | Access::Bind(_)));
                assert!(
                    own || before.allowed || !after.allowed,
                    "{access:?}\n{}\n--\n{}\n--\n{}",
                    one.to_toml(),
                    other.to_toml(),
                    merged.to_toml()
                );
            }
            let memory = |policy: &Policy| {
                policy.limits.clone().unwrap_or_default().memory.unwrap_or(crate::plan::defaults::MEMORY)
            };
            assert!(memory(&merged) <= memory(one));
            let processes = |policy: &Policy| policy.limits.clone().unwrap_or_default().processes.unwrap_or(256);
            assert!(processes(&merged) <= processes(one));
            let network = |policy: &Policy| policy.network.clone().unwrap_or_default();
            let (before, second, after) = (network(one), network(other), network(&merged));
            for limits in [&before, &second] {
                let none = u64::MAX;
                assert!(after.egress_connections.unwrap_or(none) <= limits.egress_connections.unwrap_or(none));
                let rate = |network: &Network| network.egress_bytes_per_second.map_or(none, |rate| rate.0);
                assert!(rate(&after) <= rate(limits));
            }
            for (name, origins) in after.secrets.iter().flatten() {
                let of = |network: &Network| network.secrets.clone().unwrap_or_default().remove(name);
                assert!(origins.is_subset(&of(&before).unwrap_or_default()));
                assert!(second.secrets.is_none() || origins.is_subset(&of(&second).unwrap_or_default()));
            }
            assert!(one.checkpoints() && other.checkpoints != Some(false) || !merged.checkpoints());
            assert!(merged.optional.clone().unwrap_or_default().is_subset(&one.optional.clone().unwrap_or_default()));
        }
    }
    assert!(merged_at_all > 500, "{merged_at_all} pairs are too few to mean anything");
}

#[test]
fn what_the_host_lacks_fails_unless_it_is_optional() {
    let mut host = Host {
        landlock: 7,
        user_namespaces: true,
        notify: true,
        last_capability: 40,
        cgroups: Default::default(),
        root: true,
        hard_limits: vec![u64::MAX; 16],
    };
    let said = compile(&Policy::new(), &host).unwrap_err().to_string();
    assert!(
        said.contains("limits.memory")
            && said.contains("not mounted")
            && said.contains("optional = [\"cgroup-memory\"]"),
        "{said}"
    );
    let text = "version = 1\noptional = [\"cgroup-memory\", \"cgroup-cpu\", \"cgroup-pids\", \"cgroup-freezer\"]";
    let plan = compile(&Policy::from_toml(text).unwrap(), &host).unwrap();
    assert_eq!(plan.missing.len(), 4);
    let without = text.replace(", \"cgroup-freezer\"", "");
    let said = compile(&Policy::from_toml(&without).unwrap(), &host).unwrap_err().to_string();
    assert!(said.contains("could not be paused") && said.contains("cgroup-freezer"), "{said}");
    assert!(plan.cgroup.controllers().is_empty());
    host.landlock = 2;
    let said = compile(&Policy::from_toml(text).unwrap(), &host).unwrap_err().to_string();
    assert!(said.contains("Landlock ABI 3"), "{said}");
    host.landlock = 7;
    host.user_namespaces = false;
    let said = compile(&Policy::from_toml(text).unwrap(), &host).unwrap_err().to_string();
    assert!(said.contains("user namespaces"), "{said}");
    host.user_namespaces = true;
    let said =
        compile(&Policy::from_toml("version = 1\nlevel = \"L2\"\n[files]\nread = [\"/no/such\"]").unwrap(), &host)
            .unwrap_err()
            .to_string();
    assert!(said.contains("files.read") && said.contains("/no/such does not exist"), "{said}");
}

#[test]
fn the_schema_in_the_documentation_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/policy.schema.json");
    let current = serde_json::to_string_pretty(&Policy::json_schema()).unwrap() + "\n";
    if std::env::var_os("GPVE_WRITE").is_some() {
        std::fs::write(&path, &current).unwrap();
    }
    assert!(std::fs::read_to_string(&path).unwrap_or_default() == current, "run GPVE_WRITE=1 cargo test the_schema");
}
