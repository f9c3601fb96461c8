//! All attacks: what each tries, from which level on it is stopped, and how a refusal looks.

use agent_kernel::Level::{self, L1, L2, L3};
use libc::{
    EACCES, EADDRNOTAVAIL, EAGAIN, EBADF, ECONNREFUSED, EMFILE, ENOENT, ENOMEM, ENOSPC, ENOSYS, EPERM, EROFS, ESRCH,
    EXDEV,
};

use crate::{Outcome, Targets, files as f, kernel as k, namespaces as n, network as w, processes as p, quotas as q};

/// One attack.
pub struct Attack {
    /// Its name.
    pub name: &'static str,
    /// Its kind.
    pub group: &'static str,
    /// The lowest level that promises to stop it.
    pub from: Level,
    /// How a refusal looks: EINVAL and EFAULT are never among them.
    pub refusals: &'static [i32],
    /// Signals by which the kernel may end the attack instead.
    pub signals: &'static [i32],
    /// It is stopped by a cgroup, so only a launcher that has one promises it.
    pub needs_cgroup: bool,
    /// Success is seen at the victim, not from the errno.
    pub judged_at_victim: bool,
    /// Lines of policy beside the usual ones.
    pub policy: &'static str,
    /// What it does.
    pub run: fn(&Targets) -> Outcome,
}

const fn attack(
    group: &'static str,
    name: &'static str,
    from: Level,
    refusals: &'static [i32],
    run: fn(&Targets) -> Outcome,
) -> Attack {
    Attack { name, group, from, refusals, signals: &[], needs_cgroup: false, judged_at_victim: false, policy: "", run }
}
const fn quota(
    name: &'static str,
    from: Level,
    refusals: &'static [i32],
    signals: &'static [i32],
    run: fn(&Targets) -> Outcome,
) -> Attack {
    let needs_cgroup = matches!(from, L3);
    Attack { signals, needs_cgroup, ..attack("quotas", name, from, refusals, run) }
}

const HIDDEN: &[i32] = &[EACCES, ENOENT];
const DENIED: &[i32] = &[EPERM];
const CLOSED: &[i32] = &[EACCES, ENOENT, EROFS, EPERM];
const GONE: &[i32] = &[EPERM, ESRCH];
const KILL: &[i32] = &[libc::SIGKILL];
const BAD_CALL: &[i32] = &[libc::SIGSYS];
const NO_PROGRAMS: &str = "[workspace]\nsize = \"64MiB\"\ninodes = 2000\nexecute = false\n";

macro_rules! table {
    ($group:literal $($module:ident::$name:ident $from:ident $refusals:expr;)*) => {
        &[$(attack($group, stringify!($name), $from, $refusals, $module::$name)),*]
    };
}

const OUTSIDE: &[Attack] = table! { "files outside"
    f::read_canary L1 HIDDEN;
    f::write_canary L1 HIDDEN;
    f::append_canary L1 HIDDEN;
    f::truncate_canary L1 HIDDEN;
    f::list_outside L1 HIDDEN;
    f::create_outside L1 CLOSED;
    f::unnamed_outside L1 CLOSED;
    f::unlink_outside L1 CLOSED;
    f::rename_outside L1 CLOSED;
    f::link_outside L1 CLOSED;
    f::symlink_outside L1 CLOSED;
    f::directory_outside L1 CLOSED;
    f::fifo_outside L1 CLOSED;
    f::chmod_outside L2 CLOSED;
    f::touch_outside L2 CLOSED;
    f::xattr_outside L2 CLOSED;
    f::stat_canary L2 HIDDEN;
    f::enter_outside L2 HIDDEN;
    f::execute_outside L1 HIDDEN;
    f::symlink_from_scratch L1 HIDDEN;
    f::hard_link_to_scratch L1 &[EACCES, ENOENT, EXDEV, EPERM];
    f::climb L1 HIDDEN;
    f::through_own_root L1 HIDDEN;
    f::through_own_cwd L1 HIDDEN;
    f::through_init_root L1 CLOSED;
    f::through_parent_root L1 CLOSED;
    f::leaked_directory L1 &[EBADF];
    f::leaked_by_proc L1 &[EBADF];
    f::reopen_for_writing L1 HIDDEN;
    f::by_handle L1 DENIED;
    f::make_handle L1 DENIED;
    f::own_program_in_usr L1 CLOSED;
    f::create_in_usr L1 CLOSED;
    f::create_in_root L1 CLOSED;
    f::change_etc L1 CLOSED;
    f::read_shadow L1 HIDDEN;
};
const HOST: &[Attack] = table! { "the host's files"
    f::core_pattern L1 HIDDEN;
    f::modprobe_path L1 HIDDEN;
    f::panic_switch L1 HIDDEN;
    f::overcommit L1 HIDDEN;
    f::sysrq L1 HIDDEN;
    f::kcore L1 HIDDEN;
    f::kallsyms L1 HIDDEN;
    f::interrupts L1 HIDDEN;
    f::keys L1 HIDDEN;
    f::timers L1 HIDDEN;
    f::host_meminfo L1 HIDDEN;
    f::host_mounts L1 CLOSED;
    f::init_environment L1 CLOSED;
    f::init_memory L1 CLOSED;
    f::init_program L1 CLOSED;
    f::parent_program L1 CLOSED;
    f::sys_switch L1 HIDDEN;
    f::sys_block L1 HIDDEN;
    f::kernel_log L1 HIDDEN;
    f::disk L1 HIDDEN;
    f::virtual_machines L1 HIDDEN;
    f::tunnels L1 HIDDEN;
    f::fuse L1 HIDDEN;
    f::loop_control L1 HIDDEN;
    f::console L1 HIDDEN;
    f::release_agent L1 HIDDEN;
    f::leave_cgroup L1 HIDDEN;
    f::raise_limit L1 HIDDEN;
    f::trusted_attribute L1 CLOSED;
    f::give_away L1 DENIED;
    f::make_disk L1 CLOSED;
    f::make_kernel_log L1 CLOSED;
};
const NAMESPACES: &[Attack] = table! { "namespaces and mounts"
    n::unshare_user L1 DENIED;
    n::unshare_mounts L1 DENIED;
    n::unshare_network L1 DENIED;
    n::unshare_pids L1 DENIED;
    n::unshare_ipc L1 DENIED;
    n::unshare_names L1 DENIED;
    n::unshare_cgroups L1 DENIED;
    n::unshare_time L1 DENIED;
    n::unshare_user_and_mounts L1 DENIED;
    n::clone_user L1 DENIED;
    n::clone_user_high_bits L1 DENIED;
    n::clone3_user L1 &[ENOSYS];
    n::enter_own_names L1 &[EPERM, EACCES, ENOENT];
    n::enter_victims_names L1 GONE;
    n::mount_tmpfs L1 DENIED;
    n::mount_proc L1 DENIED;
    n::mount_cgroup L1 DENIED;
    n::mount_sysfs L1 DENIED;
    n::mount_bind L1 DENIED;
    n::mount_disk L1 &[EPERM, EACCES];
    n::remount_root L1 DENIED;
    n::share_mounts L1 DENIED;
    n::unmount_proc L1 DENIED;
    n::change_root L1 DENIED;
    n::open_filesystem L1 DENIED;
    n::pick_filesystem L1 DENIED;
    n::copy_tree L1 DENIED;
    n::move_tree L1 DENIED;
    n::set_mount_attributes L1 DENIED;
    n::list_mounts L1 DENIED;
    n::rename_host L1 DENIED;
    n::rename_domain L1 DENIED;
};
const PROCESSES: &[Attack] = table! { "processes outside"
    p::signal_victim L1 GONE;
    p::signal_victims_thread L1 GONE;
    p::queue_signal L1 GONE;
    p::signal_by_descriptor L1 GONE;
    p::trace_victim L1 GONE;
    p::trace_parent L1 GONE;
    p::read_victims_memory L1 GONE;
    p::write_victims_memory L1 GONE;
    p::open_victims_memory L1 CLOSED;
    p::read_victims_environment L1 CLOSED;
    p::read_victims_command L1 CLOSED;
    p::victims_descriptors L1 CLOSED;
    p::steal_descriptor L1 DENIED;
    p::compare_victim L1 DENIED;
    p::slow_victim L2 GONE;
    p::pin_victim L2 GONE;
    p::limit_victim L2 GONE;
    p::see_victim L1 GONE;
    p::victims_group L2 GONE;
    p::become_root L1 &[EPERM, libc::EINVAL];
    p::become_roots_group L1 &[EPERM, libc::EINVAL];
    p::join_groups L1 DENIED;
    p::take_capabilities L1 DENIED;
    p::bind_low_port_right L1 DENIED;
    p::shared_memory L2 &[ENOENT];
    p::message_queue L2 &[ENOENT];
    p::semaphores L2 &[ENOENT];
    p::posix_queue L2 &[ENOENT];
    p::type_into_terminal L1 &[EPERM, EACCES, ENOENT];
    p::terminal_discipline L1 &[EPERM, EACCES, ENOENT];
    f::setuid_program L1 DENIED;
};
const NETWORK: &[Attack] = table! { "network"
    w::connect_tcp L1 &[EPERM, ECONNREFUSED];
    w::connect_tcp6 L1 &[EPERM, ECONNREFUSED, EADDRNOTAVAIL];
    w::connect_multipath L1 DENIED;
    w::connect_by_sending L1 DENIED;
    w::ask_udp L1 &[EPERM, ECONNREFUSED];
    w::raw_socket L1 DENIED;
    w::raw_socket_high_bits L1 DENIED;
    w::packet_socket L1 DENIED;
    w::packet_datagrams L1 DENIED;
    w::kernel_events L1 DENIED;
    w::audit_socket L1 DENIED;
    w::generic_netlink L1 DENIED;
    w::socket_diagnosis L1 DENIED;
    w::vsock L1 DENIED;
    w::fast_path_socket L1 DENIED;
    w::crypto_socket L1 DENIED;
    w::abstract_socket L1 &[EPERM, ECONNREFUSED];
    w::abstract_datagram L1 &[EPERM, ECONNREFUSED];
    w::socket_in_directory L2 HIDDEN;
};
const KERNEL: &[Attack] = table! { "the kernel's surface"
    k::bpf L1 DENIED;
    k::performance_counters L1 DENIED;
    k::page_faults L1 DENIED;
    k::io_uring L1 DENIED;
    k::add_key L1 DENIED;
    k::join_keyring L1 DENIED;
    k::read_kernel_log L1 DENIED;
    k::accounting L1 DENIED;
    k::hang_up L1 DENIED;
    k::adjust_clock L1 DENIED;
    k::set_clock L1 DENIED;
    k::segment_table L1 DENIED;
    k::personality L1 DENIED;
    k::file_watch L1 DENIED;
    k::secret_memory L1 DENIED;
    k::remap L1 DENIED;
    k::move_pages L1 DENIED;
    k::filesystem_names L1 DENIED;
    k::advise_victim L1 DENIED;
};

/// Every attack.
pub fn all() -> Vec<Attack> {
    let mut out: Vec<Attack> = Vec::new();
    for table in [OUTSIDE, HOST, NAMESPACES, PROCESSES, NETWORK, KERNEL] {
        out.extend(table.iter().map(|a| Attack { ..*a }));
    }
    #[cfg(target_arch = "x86_64")]
    for (name, run) in [("old_entry", k::old_entry as fn(&Targets) -> Outcome), ("x32_entry", k::x32_entry)] {
        out.push(Attack { signals: BAD_CALL, ..attack("the kernel's surface", name, L1, &[ENOSYS], run) });
    }
    out.push(Attack {
        judged_at_victim: true,
        ..attack("processes outside", "signal_by_file", L1, GONE, p::signal_by_file)
    });
    out.extend([
        quota("heap", L3, &[ENOMEM], KILL, q::heap),
        quota("memory_file", L3, &[ENOMEM], KILL, q::memory_file),
        quota("system_v_memory", L3, &[ENOMEM], KILL, q::shared_memory),
        quota("pipes", L3, &[ENOMEM, EPERM, EMFILE], KILL, q::pipes),
        quota("sockets", L3, &[ENOMEM, EMFILE], KILL, q::sockets),
        quota("fill_workspace", L2, &[ENOSPC], &[], q::disk),
        quota("fill_shared_memory", L2, &[ENOSPC], &[], q::disk_in_tmp),
        quota("inodes", L2, &[ENOSPC], &[], q::inodes),
        quota("processes", L3, &[EAGAIN], &[], q::processes),
        quota("descriptors", L1, &[EMFILE], &[], q::descriptors),
        quota("big_message_queues", L1, &[EMFILE, ENOSPC], &[], q::big_message_queue),
    ]);
    out.push(Attack {
        policy: NO_PROGRAMS,
        ..attack("files outside", "run_from_scratch", L2, &[EACCES], f::run_from_scratch)
    });
    out.push(Attack {
        policy: NO_PROGRAMS,
        ..attack("files outside", "run_from_memory", L2, &[EPERM, EACCES], f::run_from_memory)
    });
    out
}
