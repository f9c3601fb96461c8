//! Attacks on files: reading, changing and running what no policy names.

use crate::{Outcome, Targets, c, errno, open, outcome, raw};

fn canary(t: &Targets) -> String {
    format!("{}/canary", t.outside)
}

pub fn read_canary(t: &Targets) -> Outcome {
    open(&canary(t), libc::O_RDONLY).map(drop)
}
pub fn write_canary(t: &Targets) -> Outcome {
    open(&canary(t), libc::O_WRONLY).map(drop)
}
pub fn append_canary(t: &Targets) -> Outcome {
    open(&canary(t), libc::O_WRONLY | libc::O_APPEND).map(drop)
}
pub fn truncate_canary(t: &Targets) -> Outcome {
    // To the length that it has.
    outcome(raw!(libc::SYS_truncate, c(&canary(t)).as_ptr(), 6))
}
pub fn list_outside(t: &Targets) -> Outcome {
    open(&t.outside, libc::O_RDONLY | libc::O_DIRECTORY).map(drop)
}
pub fn create_outside(t: &Targets) -> Outcome {
    open(&format!("{}/made-{}", t.outside, std::process::id()), libc::O_WRONLY | libc::O_CREAT).map(drop)
}
pub fn unnamed_outside(t: &Targets) -> Outcome {
    open(&t.outside, libc::O_WRONLY | libc::O_TMPFILE).map(drop)
}
pub fn unlink_outside(t: &Targets) -> Outcome {
    outcome(raw!(libc::SYS_unlinkat, libc::AT_FDCWD, c(&format!("{}/spare", t.outside)).as_ptr(), 0))
}
pub fn rename_outside(t: &Targets) -> Outcome {
    let (from, to) = (c(&canary(t)), c(&canary(t)));
    outcome(raw!(libc::SYS_renameat2, libc::AT_FDCWD, from.as_ptr(), libc::AT_FDCWD, to.as_ptr(), 0))
        .and_then(|()| move_in(t))
}
fn move_in(t: &Targets) -> Outcome {
    let (from, to) = (c(&format!("{}/spare", t.outside)), c(&format!("{}/moved", t.outside)));
    outcome(raw!(libc::SYS_renameat2, libc::AT_FDCWD, from.as_ptr(), libc::AT_FDCWD, to.as_ptr(), 0))
}
pub fn link_outside(t: &Targets) -> Outcome {
    let to = c(&format!("{}/linked-{}", t.outside, std::process::id()));
    outcome(raw!(libc::SYS_linkat, libc::AT_FDCWD, c(&canary(t)).as_ptr(), libc::AT_FDCWD, to.as_ptr(), 0))
}
pub fn symlink_outside(t: &Targets) -> Outcome {
    let to = c(&format!("{}/symlink-{}", t.outside, std::process::id()));
    outcome(raw!(libc::SYS_symlinkat, c"/etc/passwd".as_ptr(), libc::AT_FDCWD, to.as_ptr()))
}
pub fn directory_outside(t: &Targets) -> Outcome {
    let path = c(&format!("{}/directory-{}", t.outside, std::process::id()));
    outcome(raw!(libc::SYS_mkdirat, libc::AT_FDCWD, path.as_ptr(), 0o700))
}
pub fn fifo_outside(t: &Targets) -> Outcome {
    let path = c(&format!("{}/fifo-{}", t.outside, std::process::id()));
    outcome(raw!(libc::SYS_mknodat, libc::AT_FDCWD, path.as_ptr(), libc::S_IFIFO | 0o600, 0))
}
pub fn chmod_outside(t: &Targets) -> Outcome {
    outcome(raw!(libc::SYS_fchmodat, libc::AT_FDCWD, c(&canary(t)).as_ptr(), 0o600))
}
pub fn touch_outside(t: &Targets) -> Outcome {
    outcome(raw!(libc::SYS_utimensat, libc::AT_FDCWD, c(&canary(t)).as_ptr(), std::ptr::null::<u8>(), 0))
}
pub fn xattr_outside(t: &Targets) -> Outcome {
    let (path, name) = (c(&canary(t)), c"user.attack");
    outcome(raw!(libc::SYS_setxattr, path.as_ptr(), name.as_ptr(), c"x".as_ptr(), 1, 0))
}
pub fn stat_canary(t: &Targets) -> Outcome {
    let mut buffer = [0u8; 256];
    outcome(raw!(libc::SYS_newfstatat, libc::AT_FDCWD, c(&canary(t)).as_ptr(), buffer.as_mut_ptr(), 0))
}
pub fn enter_outside(t: &Targets) -> Outcome {
    outcome(raw!(libc::SYS_chdir, c(&t.outside).as_ptr()))
}
pub fn execute_outside(t: &Targets) -> Outcome {
    run(&format!("{}/tool", t.outside))
}
pub fn symlink_from_scratch(t: &Targets) -> Outcome {
    let link = format!("{}/link-{}", t.scratch, std::process::id());
    outcome(raw!(libc::SYS_symlinkat, c(&canary(t)).as_ptr(), libc::AT_FDCWD, c(&link).as_ptr()))?;
    open(&link, libc::O_RDONLY).map(drop)
}
pub fn hard_link_to_scratch(t: &Targets) -> Outcome {
    let link = c(&format!("{}/hard-{}", t.scratch, std::process::id()));
    outcome(raw!(libc::SYS_linkat, libc::AT_FDCWD, c(&canary(t)).as_ptr(), libc::AT_FDCWD, link.as_ptr(), 0))
}
pub fn climb(t: &Targets) -> Outcome {
    open(&format!("{}/../../../../../../../..{}", t.scratch, canary(t)), libc::O_RDONLY).map(drop)
}
pub fn through_own_root(t: &Targets) -> Outcome {
    open(&format!("/proc/self/root{}", canary(t)), libc::O_RDONLY).map(drop)
}
pub fn through_own_cwd(t: &Targets) -> Outcome {
    open(&format!("/proc/self/cwd/../../../../../..{}", canary(t)), libc::O_RDONLY).map(drop)
}
pub fn through_init_root(t: &Targets) -> Outcome {
    open(&format!("/proc/1/root{}", canary(t)), libc::O_RDONLY).map(drop)
}
pub fn through_parent_root(t: &Targets) -> Outcome {
    // SAFETY: no arguments.
    let parent = unsafe { libc::getppid() };
    open(&format!("/proc/{parent}/root{}", canary(t)), libc::O_RDONLY).map(drop)
}
pub fn leaked_directory(t: &Targets) -> Outcome {
    // A descriptor of the outside that the launcher forgot (runc's CVE-2024-21626).
    let _ = t;
    let mut last = libc::EBADF;
    for fd in 3..256 {
        match raw!(libc::SYS_openat, fd, c"canary".as_ptr(), libc::O_RDONLY, 0) {
            -1 => last = if errno() == libc::EBADF { last } else { errno() },
            _ => return Ok(()),
        }
    }
    Err(last)
}
pub fn leaked_by_proc(t: &Targets) -> Outcome {
    let _ = t;
    let mut last = libc::EBADF;
    for fd in 3..64 {
        match open(&format!("/proc/self/fd/{fd}/canary"), libc::O_RDONLY) {
            Ok(_) => return Ok(()),
            Err(libc::ENOENT | libc::EACCES) => {}
            Err(error) => last = error,
        }
    }
    Err(last)
}
pub fn reopen_for_writing(t: &Targets) -> Outcome {
    // Standard input is the canary, opened for reading alone.
    let _ = t;
    open("/proc/self/fd/0", libc::O_RDWR).map(drop)
}
pub fn by_handle(t: &Targets) -> Outcome {
    #[repr(C)]
    struct Handle {
        length: u32,
        kind: i32,
        bytes: [u8; 128],
    }
    let mut handle = Handle { length: t.handle.1.len() as u32, kind: t.handle.0, bytes: [0; 128] };
    handle.bytes[..t.handle.1.len()].copy_from_slice(&t.handle.1);
    let anchor = open("/usr", libc::O_RDONLY).or_else(|_| open(&t.scratch, libc::O_RDONLY))?;
    outcome(raw!(libc::SYS_open_by_handle_at, anchor, &raw const handle, libc::O_RDONLY))
}
pub fn make_handle(t: &Targets) -> Outcome {
    let mut handle = [0u8; 136];
    handle[..4].copy_from_slice(&128u32.to_ne_bytes());
    let mut id = 0i32;
    let path = c(&t.scratch);
    outcome(raw!(libc::SYS_name_to_handle_at, libc::AT_FDCWD, path.as_ptr(), handle.as_mut_ptr(), &raw mut id, 0))
}
pub fn own_program_in_usr(_: &Targets) -> Outcome {
    open("/usr/lib/os-release", libc::O_WRONLY).map(drop)
}
pub fn create_in_usr(_: &Targets) -> Outcome {
    open(&format!("/usr/made-by-attack-{}", std::process::id()), libc::O_WRONLY | libc::O_CREAT).map(drop)?;
    let path = c(&format!("/usr/made-by-attack-{}", std::process::id()));
    outcome(raw!(libc::SYS_unlinkat, libc::AT_FDCWD, path.as_ptr(), 0))
}
pub fn create_in_root(_: &Targets) -> Outcome {
    let path = format!("/made-by-attack-{}", std::process::id());
    open(&path, libc::O_WRONLY | libc::O_CREAT).map(drop)?;
    outcome(raw!(libc::SYS_unlinkat, libc::AT_FDCWD, c(&path).as_ptr(), 0))
}
pub fn change_etc(_: &Targets) -> Outcome {
    open("/etc/passwd", libc::O_WRONLY).map(drop)
}
pub fn read_shadow(_: &Targets) -> Outcome {
    open("/etc/shadow", libc::O_RDONLY).map(drop)
}
pub fn run_from_scratch(t: &Targets) -> Outcome {
    let path = format!("{}/program-{}", t.scratch, std::process::id());
    std::fs::copy("/proc/self/exe", &path)
        .or_else(|_| std::fs::copy(std::env::args().next().unwrap_or_default(), &path))
        .map_err(|e| e.raw_os_error().unwrap_or(0))?;
    run(&path)
}
pub fn run_from_memory(_: &Targets) -> Outcome {
    let fd = raw!(libc::SYS_memfd_create, c"program".as_ptr(), 0);
    if fd < 0 {
        return Err(errno());
    }
    let own = std::fs::read(std::env::args().next().unwrap_or_default()).map_err(|e| e.raw_os_error().unwrap_or(0))?;
    use std::io::Write;
    use std::os::fd::FromRawFd;
    // SAFETY: the descriptor is ours.
    let mut file = unsafe { std::fs::File::from_raw_fd(fd as i32) };
    file.write_all(&own).map_err(|e| e.raw_os_error().unwrap_or(0))?;
    let argv = [c"gpve-attack".as_ptr(), c"succeed".as_ptr(), std::ptr::null()];
    outcome(raw!(libc::SYS_execveat, fd, c"".as_ptr(), argv.as_ptr(), std::ptr::null::<u8>(), libc::AT_EMPTY_PATH))
}
pub fn setuid_program(t: &Targets) -> Outcome {
    let path = c(&t.setuid);
    let argv = [path.as_ptr(), c"am-i-root".as_ptr(), std::ptr::null()];
    outcome(raw!(libc::SYS_execve, path.as_ptr(), argv.as_ptr(), std::ptr::null::<u8>()))
}
fn run(path: &str) -> Outcome {
    let path = c(path);
    let argv = [path.as_ptr(), c"succeed".as_ptr(), std::ptr::null()];
    outcome(raw!(libc::SYS_execve, path.as_ptr(), argv.as_ptr(), std::ptr::null::<u8>()))
}

macro_rules! opens {
    ($($name:ident $path:literal $flags:expr;)*) => {
        $(pub fn $name(_: &Targets) -> Outcome { open($path, $flags).map(drop) })*
    };
}
opens! {
    core_pattern "/proc/sys/kernel/core_pattern" libc::O_WRONLY;
    modprobe_path "/proc/sys/kernel/modprobe" libc::O_WRONLY;
    panic_switch "/proc/sys/kernel/panic" libc::O_WRONLY;
    overcommit "/proc/sys/vm/overcommit_memory" libc::O_WRONLY;
    sysrq "/proc/sysrq-trigger" libc::O_WRONLY;
    kcore "/proc/kcore" libc::O_RDONLY;
    kallsyms "/proc/kallsyms" libc::O_RDONLY;
    interrupts "/proc/interrupts" libc::O_RDONLY;
    keys "/proc/keys" libc::O_RDONLY;
    timers "/proc/timer_list" libc::O_RDONLY;
    host_meminfo "/proc/meminfo" libc::O_RDONLY;
    host_mounts "/proc/1/mounts" libc::O_RDONLY;
    init_environment "/proc/1/environ" libc::O_RDONLY;
    init_memory "/proc/1/mem" libc::O_RDONLY;
    init_program "/proc/1/exe" libc::O_RDONLY;
    sys_switch "/sys/kernel/mm/transparent_hugepage/enabled" libc::O_WRONLY;
    sys_block "/sys/block" libc::O_RDONLY;
    kernel_log "/dev/kmsg" libc::O_WRONLY;
    disk "/dev/vda" libc::O_RDONLY;
    virtual_machines "/dev/kvm" libc::O_RDWR;
    tunnels "/dev/net/tun" libc::O_RDWR;
    fuse "/dev/fuse" libc::O_RDWR;
    loop_control "/dev/loop-control" libc::O_RDWR;
    console "/dev/console" libc::O_WRONLY;
}

pub fn parent_program(_: &Targets) -> Outcome {
    // SAFETY: no arguments.
    let parent = unsafe { libc::getppid() };
    // Opened for reading, it could be opened again for writing once the launcher has ended (CVE-2019-5736).
    open(&format!("/proc/{parent}/exe"), libc::O_RDONLY).map(drop)
}
pub fn release_agent(t: &Targets) -> Outcome {
    open("/sys/fs/cgroup/memory/release_agent", libc::O_WRONLY)
        .or_else(|_| open(&format!("{}/notify_on_release", t.cgroup), libc::O_WRONLY))
        .map(drop)
}
pub fn leave_cgroup(t: &Targets) -> Outcome {
    open(&format!("{}/cgroup.procs", t.cgroup), libc::O_WRONLY).map(drop)
}
pub fn raise_limit(t: &Targets) -> Outcome {
    open(&format!("{}/memory.limit_in_bytes", t.cgroup), libc::O_WRONLY)
        .or_else(|_| open(&format!("{}/memory.max", t.cgroup), libc::O_WRONLY))
        .map(drop)
}
pub fn trusted_attribute(t: &Targets) -> Outcome {
    let path = format!("{}/trusted-{}", t.scratch, std::process::id());
    open(&path, libc::O_CREAT | libc::O_WRONLY)?;
    outcome(raw!(libc::SYS_setxattr, c(&path).as_ptr(), c"trusted.x".as_ptr(), c"x".as_ptr(), 1, 0))
}
pub fn give_away(t: &Targets) -> Outcome {
    let path = format!("{}/given-{}", t.scratch, std::process::id());
    open(&path, libc::O_CREAT | libc::O_WRONLY)?;
    outcome(raw!(libc::SYS_fchownat, libc::AT_FDCWD, c(&path).as_ptr(), 0, 0, 0))
}
fn device(t: &Targets, kind: u32, major: u32, minor: u32) -> Outcome {
    let path = format!("{}/device-{}", t.scratch, std::process::id());
    let number = libc::makedev(major, minor);
    outcome(raw!(libc::SYS_mknodat, libc::AT_FDCWD, c(&path).as_ptr(), kind | 0o600, number))
}
pub fn make_disk(t: &Targets) -> Outcome {
    device(t, libc::S_IFBLK, 254, 0)
}
pub fn make_kernel_log(t: &Targets) -> Outcome {
    device(t, libc::S_IFCHR, 1, 11)
}
