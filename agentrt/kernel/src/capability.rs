//! Capabilities by name.

/// Names in the order of their numbers, without `CAP_`, in small letters.
const NAMES: [&str; 41] = [
    "chown",
    "dac_override",
    "dac_read_search",
    "fowner",
    "fsetid",
    "kill",
    "setgid",
    "setuid",
    "setpcap",
    "linux_immutable",
    "net_bind_service",
    "net_broadcast",
    "net_admin",
    "net_raw",
    "ipc_lock",
    "ipc_owner",
    "sys_module",
    "sys_rawio",
    "sys_chroot",
    "sys_ptrace",
    "sys_pacct",
    "sys_admin",
    "sys_boot",
    "sys_nice",
    "sys_resource",
    "sys_time",
    "sys_tty_config",
    "mknod",
    "lease",
    "audit_write",
    "audit_control",
    "setfcap",
    "mac_override",
    "mac_admin",
    "syslog",
    "wake_alarm",
    "block_suspend",
    "audit_read",
    "perfmon",
    "bpf",
    "checkpoint_restore",
];

/// Those that an agent may keep: within its own user namespace they give no hold on the host.
const KEEPABLE: [&str; 10] = [
    "chown",
    "dac_override",
    "fowner",
    "fsetid",
    "kill",
    "setgid",
    "setuid",
    "net_bind_service",
    "sys_nice",
    "ipc_lock",
];

/// The number of a capability that a policy may keep; `chown`, `CAP_CHOWN` and `cap_chown` are the same.
pub fn number(name: &str) -> Result<u32, String> {
    let small = name.to_ascii_lowercase();
    let small = small.strip_prefix("cap_").unwrap_or(&small);
    let Some(at) = NAMES.iter().position(|known| *known == small) else {
        let nearest = crate::policy::parse_nearest(small, &NAMES);
        let nearest = nearest.map(|name| format!("; did you mean {name}?")).unwrap_or_default();
        return Err(format!("{name:?} is no capability{nearest}"));
    };
    if !KEEPABLE.contains(&small) {
        return Err(format!("{name} cannot be kept: only {} can", KEEPABLE.join(", ")));
    }
    Ok(at as u32)
}

/// The name of a capability.
pub fn name(number: u32) -> &'static str {
    NAMES.get(number as usize).copied().unwrap_or("?")
}
