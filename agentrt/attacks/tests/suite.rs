//! The whole suite, and the proof that it can fail: with a layer left out, attacks get through and it says so.

use std::fmt::Write;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// Run the suite; `None` (with the reason printed) where this host cannot.
fn suite(arguments: &[&str]) -> Option<(Vec<Value>, Value)> {
    let ran = Command::new(env!("CARGO_BIN_EXE_gpve-attack-suite")).args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&ran.stdout);
    let mut lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let Some(summary) = lines.pop() else { panic!("{}", String::from_utf8_lossy(&ran.stderr)) };
    if let Some(reason) = summary.get("skipped") {
        println!("skipped: {reason}");
        return None;
    }
    assert!(summary.get("failures").is_some(), "{}", String::from_utf8_lossy(&ran.stderr));
    assert_eq!(ran.status.success(), summary["failures"] == 0);
    Some((lines, summary))
}

/// The kernel that the suite needs.
fn able() -> bool {
    let host = agent_kernel::Host::probe();
    let able = host.root && host.landlock >= 6 && host.user_namespaces && host.cgroups.kind() != "none";
    if !able {
        println!("skipped: the attack suite needs root, Landlock ABI 6, user namespaces and cgroups");
    }
    able
}

#[test]
fn no_attack_succeeds_that_its_level_promises_to_stop() {
    if !able() {
        return;
    }
    let Some((rows, summary)) = suite(&[]) else { return };
    let failed: Vec<&Value> = rows.iter().filter(|row| row.to_string().contains("FAILED")).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    assert!(summary["counted"].as_u64() >= Some(80), "{summary}");
    documented(&rows);
    let (rows, lent) = suite(&["--lent"]).unwrap();
    assert!(lent["failures"] == 0 && lent["runs"].as_u64() >= Some(80), "in networks that are lent: {rows:#?}");
    // A layer left out is seen at once, so the suite can fail.
    for layer in ["seccomp", "landlock"] {
        let (_, summary) = suite(&["--without", layer, "--launcher", "root"]).unwrap();
        assert!(summary["failures"].as_u64() >= Some(20), "without {layer}: {summary}");
    }
}

/// Every attack stands in the table of the documentation. `GPVE_WRITE=1` writes it, with what was seen.
fn documented(rows: &[Value]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/explanation/attacks.md");
    if std::env::var_os("GPVE_WRITE").is_some() {
        std::fs::write(&path, table(rows)).unwrap();
    }
    let text = std::fs::read_to_string(&path).unwrap_or_default();
    for attack in attacks::table::all() {
        assert!(
            text.contains(&format!("| {} |", attack.name)),
            "{} is not in docs/explanation/attacks.md",
            attack.name
        );
    }
}

fn table(rows: &[Value]) -> String {
    let mut out = String::from(
        "# Table of attacks\n\nWritten by the suite (`GPVE_WRITE=1 cargo test -p gpve-agent-attacks`). *Control* is the attack unsandboxed: where it fails, the\nattack proves nothing on that host and is not counted. The other columns say how the attack ended at each level, first by\na launcher that is root, then by one that is not. *Not promised*: the level does not claim to stop it\n([threat model](threat-model.md)).\n",
    );
    let text = |row: &Value, key: &str| row[key].as_str().unwrap_or("").to_owned();
    let mut groups: Vec<String> = Vec::new();
    for row in rows {
        if !groups.contains(&text(row, "group")) {
            groups.push(text(row, "group"));
        }
    }
    for group in groups {
        let _ = write!(out, "\n## {}{}\n\n", group[..1].to_uppercase(), &group[1..]);
        out.push_str("| attack | control (root, user) | L1 | L2 | L3 |\n|---|---|---|---|---|\n");
        let mine = |row: &&Value| text(row, "group") == group;
        for row in rows.iter().filter(mine).filter(|row| text(row, "launcher") == "root") {
            let name = text(row, "attack");
            let user =
                rows.iter().find(|other| text(other, "attack") == name && text(other, "launcher") == "user").unwrap();
            let both = |key: &str| {
                let (root, user) = (text(row, key), text(user, key));
                if root == user { root } else { format!("{root}, {user}") }
            };
            let _ =
                writeln!(out, "| {name} | {} | {} | {} | {} |", both("control"), both("L1"), both("L2"), both("L3"));
        }
    }
    out
}
