//! Attacks by namespaces and mounts.

use crate::{Outcome, Targets, c, errno, open, outcome, raw};

macro_rules! unshares {
    ($($name:ident $flag:expr;)*) => { $(pub fn $name(_: &Targets) -> Outcome { outcome(raw!(libc::SYS_unshare, $flag)) })* };
}
unshares! {
    unshare_user libc::CLONE_NEWUSER;
    unshare_mounts libc::CLONE_NEWNS;
    unshare_network libc::CLONE_NEWNET;
    unshare_pids libc::CLONE_NEWPID;
    unshare_ipc libc::CLONE_NEWIPC;
    unshare_names libc::CLONE_NEWUTS;
    unshare_cgroups libc::CLONE_NEWCGROUP;
    unshare_time 0x80;
    unshare_user_and_mounts libc::CLONE_NEWUSER | libc::CLONE_NEWNS;
}

fn child(returned: i64) -> Outcome {
    match returned {
        -1 => Err(errno()),
        0 => std::process::exit(0),
        _ => Ok(()),
    }
}
pub fn clone_user(_: &Targets) -> Outcome {
    child(raw!(libc::SYS_clone, libc::CLONE_NEWUSER | libc::SIGCHLD, 0, 0, 0, 0))
}
pub fn clone_user_high_bits(_: &Targets) -> Outcome {
    // A filter that compares the whole register, or its high half, is led astray.
    child(raw!(libc::SYS_clone, libc::CLONE_NEWUSER as i64 | libc::SIGCHLD as i64 | 1 << 40, 0, 0, 0, 0))
}
pub fn clone3_user(_: &Targets) -> Outcome {
    let mut arguments = [0u64; 11];
    arguments[0] = libc::CLONE_NEWUSER as u64;
    arguments[4] = libc::SIGCHLD as u64;
    child(raw!(libc::SYS_clone3, arguments.as_ptr(), 88))
}
pub fn enter_own_names(_: &Targets) -> Outcome {
    let fd = open("/proc/self/ns/uts", libc::O_RDONLY)?;
    outcome(raw!(libc::SYS_setns, fd, libc::CLONE_NEWUTS))
}
pub fn enter_victims_names(t: &Targets) -> Outcome {
    let fd = raw!(libc::SYS_pidfd_open, t.victim, 0);
    if fd < 0 {
        return Err(errno());
    }
    outcome(raw!(libc::SYS_setns, fd, libc::CLONE_NEWUTS))
}
pub fn mount_tmpfs(t: &Targets) -> Outcome {
    mount(c"tmpfs", c"tmpfs", &t.scratch, 0)
}
pub fn mount_proc(t: &Targets) -> Outcome {
    mount(c"proc", c"proc", &t.scratch, 0)
}
pub fn mount_cgroup(t: &Targets) -> Outcome {
    mount(c"cgroup2", c"cgroup2", &t.scratch, 0)
}
pub fn mount_sysfs(t: &Targets) -> Outcome {
    mount(c"sysfs", c"sysfs", &t.scratch, 0)
}
pub fn mount_bind(t: &Targets) -> Outcome {
    mount(c"/usr", c"", &t.scratch, libc::MS_BIND)
}
pub fn mount_disk(t: &Targets) -> Outcome {
    let device = format!("{}/disk-{}", t.scratch, std::process::id());
    let number = libc::makedev(254, 0);
    outcome(raw!(libc::SYS_mknodat, libc::AT_FDCWD, c(&device).as_ptr(), libc::S_IFBLK | 0o600, number))?;
    mount(&c(&device), c"ext4", &t.scratch, libc::MS_RDONLY)
}
pub fn remount_root(_: &Targets) -> Outcome {
    mount(c"", c"", "/", libc::MS_BIND | libc::MS_REMOUNT)
}
pub fn share_mounts(_: &Targets) -> Outcome {
    mount(c"", c"", "/", libc::MS_SHARED | libc::MS_REC)
}
fn mount(source: &std::ffi::CStr, kind: &std::ffi::CStr, at: &str, flags: u64) -> Outcome {
    let at = c(at);
    outcome(raw!(libc::SYS_mount, source.as_ptr(), at.as_ptr(), kind.as_ptr(), flags, std::ptr::null::<u8>()))
}
pub fn unmount_proc(_: &Targets) -> Outcome {
    outcome(raw!(libc::SYS_umount2, c"/proc".as_ptr(), libc::MNT_DETACH))
}
pub fn change_root(t: &Targets) -> Outcome {
    outcome(raw!(libc::SYS_chroot, c(&t.scratch).as_ptr()))
}
pub fn open_filesystem(_: &Targets) -> Outcome {
    outcome(raw!(libc::SYS_fsopen, c"tmpfs".as_ptr(), 0))
}
pub fn pick_filesystem(_: &Targets) -> Outcome {
    outcome(raw!(libc::SYS_fspick, libc::AT_FDCWD, c"/".as_ptr(), 0))
}
pub fn copy_tree(_: &Targets) -> Outcome {
    outcome(raw!(libc::SYS_open_tree, libc::AT_FDCWD, c"/".as_ptr(), 1))
}
pub fn move_tree(t: &Targets) -> Outcome {
    let tree = raw!(libc::SYS_open_tree, libc::AT_FDCWD, c"/usr".as_ptr(), 1);
    if tree < 0 {
        return Err(errno());
    }
    outcome(raw!(libc::SYS_move_mount, tree, c"".as_ptr(), libc::AT_FDCWD, c(&t.scratch).as_ptr(), 4))
}
pub fn set_mount_attributes(_: &Targets) -> Outcome {
    let attributes = [0u64, 1, 0, 0];
    outcome(raw!(libc::SYS_mount_setattr, libc::AT_FDCWD, c"/".as_ptr(), 0, attributes.as_ptr(), 32))
}
pub fn list_mounts(_: &Targets) -> Outcome {
    let request = [32u64, u64::MAX, 0, 0];
    let mut out = [0u64; 64];
    outcome(raw!(458, request.as_ptr(), out.as_mut_ptr(), 64, 0))
}
pub fn rename_host(_: &Targets) -> Outcome {
    outcome(raw!(libc::SYS_sethostname, c"attacked".as_ptr(), 8))
}
pub fn rename_domain(_: &Targets) -> Outcome {
    outcome(raw!(libc::SYS_setdomainname, c"attacked".as_ptr(), 8))
}
