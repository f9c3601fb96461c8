//! One attack: `gpve-attack NAME TARGETS`, where TARGETS is JSON. Prints `ok` or `errno N`.

use attacks::{Targets, table};

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.get(1).map(String::as_str) {
        Some("succeed") => return println!("ok"),
        Some("am-i-root") => {
            // SAFETY: no arguments.
            let root = unsafe { libc::geteuid() } == 0;
            // Root of a namespace is no prize: what counts are capabilities.
            let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
            let capable = status.lines().any(|l| l.starts_with("CapEff:") && l.contains("fffff"));
            return println!("{}", if root && capable { "ok".to_owned() } else { format!("errno {}", libc::EPERM) });
        }
        _ => {}
    }
    let (Some(name), Some(targets)) = (arguments.get(1), arguments.get(2)) else {
        eprintln!("usage: gpve-attack NAME TARGETS");
        std::process::exit(2);
    };
    let targets: Targets = serde_json::from_str(targets).expect("targets are JSON");
    // The latch: never in the mount namespace of the host.
    if let Ok(own) = std::fs::metadata("/proc/self/ns/mnt")
        && std::os::unix::fs::MetadataExt::ino(&own) == targets.host_mount_namespace
    {
        eprintln!("this is the host's mount namespace: no attack is run here");
        std::process::exit(3);
    }
    let all = table::all();
    let Some(attack) = all.iter().find(|attack| attack.name == name) else {
        eprintln!("no such attack");
        std::process::exit(2);
    };
    match (attack.run)(&targets) {
        Ok(()) => println!("ok"),
        Err(errno) => println!("errno {errno}"),
    }
}
