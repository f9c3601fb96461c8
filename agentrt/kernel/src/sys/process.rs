//! Processes, credentials, filters, limits, signals.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use super::{Errno, Result, check, descriptor};

/// One instruction of classic BPF, as the kernel reads it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Instruction {
    /// The operation.
    pub code: u16,
    /// Instructions to skip when the test holds.
    pub jt: u8,
    /// Instructions to skip when it does not.
    pub jf: u8,
    /// The operand.
    pub k: u32,
}

/// Which side of a fork we are on.
pub enum Side {
    /// The parent: the child's process id and a descriptor of it.
    Parent(i32, OwnedFd),
    /// The child.
    Child,
}

/// `clone3` as a fork into new namespaces, and into the cgroup (v2) of `cgroup` where given.
///
/// # Safety
/// The calling process must have one thread: the child is a copy in which no other thread holds a lock.
pub unsafe fn fork_into(namespaces: u64, cgroup: Option<RawFd>) -> Result<Side> {
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    let mut pidfd: RawFd = -1;
    const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
    let mut arguments = [0u64; 11];
    arguments[0] = namespaces | libc::CLONE_PIDFD as u64 | CLONE_CLEAR_SIGHAND;
    arguments[1] = (&raw mut pidfd) as u64;
    // A child of our parent has our own signal at its end, and may not be given one.
    arguments[4] = if namespaces & libc::CLONE_PARENT as u64 == 0 { libc::SIGCHLD as u64 } else { 0 };
    if let Some(cgroup) = cgroup {
        arguments[0] |= CLONE_INTO_CGROUP;
        arguments[10] = cgroup as u64;
    }
    // SAFETY: `arguments` is a clone_args of 88 bytes without a new stack: the call returns twice, as fork does.
    match check(unsafe { libc::syscall(libc::SYS_clone3, arguments.as_ptr(), 88usize) }) {
        // Within a sandbox, whose filter cannot see what clone3 is asked for: what clone can do is enough there.
        Err(Errno(libc::ENOSYS)) if namespaces == 0 && cgroup.is_none() => {
            // SAFETY: promised by our caller.
            match unsafe { fork() }? {
                0 => Ok(Side::Child),
                pid => Ok(Side::Parent(pid, pidfd_open(pid)?)),
            }
        }
        Err(errno) => Err(errno),
        Ok(0) => Ok(Side::Child),
        // SAFETY: CLONE_PIDFD has given us this descriptor.
        Ok(pid) => Ok(Side::Parent(pid as i32, unsafe { OwnedFd::from_raw_fd(pidfd) })),
    }
}

/// The same without new namespaces and without a descriptor (a plain fork).
///
/// # Safety
/// As for [`fork_into`].
pub unsafe fn fork() -> Result<i32> {
    // SAFETY: the caller promises a single thread; no new stack, so the call returns twice.
    check(unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) }).map(|pid| pid as i32)
}

/// A stack for [`vfork_on`].
pub struct Stack {
    base: *mut libc::c_void,
    size: usize,
}

impl Stack {
    /// Map a stack of `size` bytes.
    pub fn new(size: usize) -> Result<Self> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK;
        // SAFETY: a fresh anonymous mapping.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), size, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
        if base == libc::MAP_FAILED { Err(Errno::last()) } else { Ok(Self { base, size }) }
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: this mapping is ours, and nobody runs on it any more.
        unsafe { libc::munmap(self.base, self.size) };
    }
}

/// Run `body` in a child that shares our memory, on `stack`; we sleep until it has exec'd or exited.
///
/// No page tables are copied, which is most of what a fork costs.
///
/// # Safety
/// `body` must not return but by exec or exit, must not allocate or unwind, and must leave the memory that it shares
/// with us in a state that we can live with.
pub unsafe fn vfork_on<F: FnMut() -> i32>(stack: &Stack, body: &mut F) -> Result<i32> {
    extern "C" fn enter<F: FnMut() -> i32>(argument: *mut libc::c_void) -> libc::c_int {
        // SAFETY: the argument is the `&mut F` of the caller, who sleeps while we run.
        let body = unsafe { &mut *argument.cast::<F>() };
        body()
    }
    // SAFETY: the top of the mapping, 16-aligned since mappings are page-aligned.
    let top = unsafe { stack.base.byte_add(stack.size) };
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: `enter` is given a live closure; the parent is suspended until the child is done with our memory.
    check(libc::c_long::from(unsafe { libc::clone(enter::<F>, top, flags, std::ptr::from_mut(body).cast()) }))
        .map(|pid| pid as i32)
}

/// End this process at once: no destructors, no flushes.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: the call does not return.
    unsafe { libc::_exit(code) }
}

/// `unshare`.
pub fn unshare(flags: u64) -> Result<()> {
    // SAFETY: plain integers.
    check(unsafe { libc::syscall(libc::SYS_unshare, flags) }).map(drop)
}

/// `setns`.
pub fn setns(fd: RawFd, kinds: u64) -> Result<()> {
    // SAFETY: plain integers.
    check(unsafe { libc::syscall(libc::SYS_setns, fd, kinds) }).map(drop)
}

/// `prctl` with integers only.
pub fn prctl(option: i32, a: u64, b: u64) -> Result<usize> {
    // SAFETY: only options that take integers are used in this crate.
    check(unsafe { libc::syscall(libc::SYS_prctl, option, a, b, 0, 0) })
}

/// Never gain privileges by executing a file.
pub fn no_new_privileges() -> Result<()> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0).map(drop)
}

/// Set real, effective and saved user id.
pub fn set_uid(uid: u32) -> Result<()> {
    // SAFETY: plain integers.
    check(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) }).map(drop)
}

/// Set real, effective and saved group id.
pub fn set_gid(gid: u32) -> Result<()> {
    // SAFETY: plain integers.
    check(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) }).map(drop)
}

/// Leave all supplementary groups.
pub fn clear_groups() -> Result<()> {
    // SAFETY: zero groups need no list.
    check(unsafe { libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<u32>()) }).map(drop)
}

/// Set the three capability sets of the calling thread to `keep`, and the inheritable one too.
pub fn set_capabilities(keep: u64) -> Result<()> {
    let header = [0x2008_0522u32, 0];
    let (low, high) = (keep as u32, (keep >> 32) as u32);
    let data = [low, low, low, high, high, high];
    // SAFETY: header and data are laid out as version 3 wants them and live during the call.
    check(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) }).map(drop)
}

/// The effective capabilities of the calling thread.
pub fn capabilities() -> Result<u64> {
    let header = [0x2008_0522u32, 0];
    let mut data = [0u32; 6];
    // SAFETY: header and data are laid out as version 3 wants them and live during the call.
    check(unsafe { libc::syscall(libc::SYS_capget, header.as_ptr(), data.as_mut_ptr()) })?;
    Ok(u64::from(data[0]) | u64::from(data[3]) << 32)
}

/// Drop every capability from the bounding set but those of `keep`; `last` is the highest that the kernel knows.
pub fn bound_capabilities(keep: u64, last: u32) -> Result<()> {
    for capability in (0..=last).filter(|c| keep & (1 << c) == 0) {
        prctl(libc::PR_CAPBSET_DROP, u64::from(capability), 0)?;
    }
    Ok(())
}

/// Install a seccomp filter on the calling thread; with `listen`, denials marked so are told on the descriptor.
pub fn install_filter(program: &[Instruction], listen: bool) -> Result<Option<OwnedFd>> {
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut().cast() };
    let flags = if listen { libc::SECCOMP_FILTER_FLAG_NEW_LISTENER } else { 0 };
    // SAFETY: Instruction is laid out as sock_filter; the program lives during the call, which only reads it.
    let got = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const filter) };
    if listen { descriptor(got).map(Some) } else { check(got).map(|_| None) }
}

/// Whether the kernel has `action` of seccomp.
pub fn filter_action_available(action: u32) -> bool {
    // SAFETY: the pointer is to a live integer.
    check(unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, &raw const action) }).is_ok()
}

/// Soft and hard limit of `resource`.
pub fn limit(resource: u32) -> Result<(u64, u64)> {
    let mut now = [0u64; 2];
    // SAFETY: `now` is an rlimit64.
    check(unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource, std::ptr::null::<u64>(), now.as_mut_ptr()) })?;
    Ok((now[0], now[1]))
}

/// Set soft and hard limit of `resource` for `pid` (0: ourselves).
pub fn set_limit(pid: i32, resource: u32, value: u64) -> Result<()> {
    let wanted = [value, value];
    // SAFETY: `wanted` is an rlimit64.
    check(unsafe { libc::syscall(libc::SYS_prlimit64, pid, resource, wanted.as_ptr(), std::ptr::null::<u64>()) })
        .map(drop)
}

/// `sethostname`.
pub fn set_hostname(name: &[u8]) -> Result<()> {
    // SAFETY: pointer and length are those of a live slice.
    check(unsafe { libc::syscall(libc::SYS_sethostname, name.as_ptr(), name.len()) }).map(drop)
}

/// `setsid`.
pub fn new_session() -> Result<()> {
    // SAFETY: no arguments.
    check(unsafe { libc::syscall(libc::SYS_setsid) }).map(drop)
}

/// Make the terminal `fd` that of the session we lead.
pub fn take_terminal(fd: RawFd) -> Result<()> {
    // SAFETY: plain integers.
    check(unsafe { libc::syscall(libc::SYS_ioctl, fd, libc::TIOCSCTTY, 0) }).map(drop)
}

/// `kill`.
pub fn kill(pid: i32, signal: i32) -> Result<()> {
    // SAFETY: plain integers.
    check(unsafe { libc::syscall(libc::SYS_kill, pid, signal) }).map(drop)
}

/// A descriptor of the process `pid`.
pub fn pidfd_open(pid: i32) -> Result<OwnedFd> {
    // SAFETY: plain integers.
    descriptor(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })
}

/// Signal the process behind `pidfd`.
pub fn pidfd_kill(pidfd: RawFd, signal: i32) -> Result<()> {
    // SAFETY: a null siginfo means the same as kill.
    check(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd, signal, std::ptr::null::<u8>(), 0) }).map(drop)
}

/// How the process behind a pidfd ended, as a wait status: for one that is no child of ours. `None` until it has been
/// reaped by its parent (and on kernels before 6.15, which do not tell).
pub fn pidfd_exit_status(pidfd: RawFd) -> Option<i32> {
    const GET_INFO: u64 = 0xC040_FF0B;
    const EXIT: u64 = 1 << 3;
    // pidfd_info: mask, cgroup, then ids; the exit code is the last of its 64 bytes.
    let mut info = [0u64; 8];
    info[0] = EXIT;
    // SAFETY: `info` has the size that the request names.
    let got = unsafe { libc::ioctl(pidfd, GET_INFO as _, info.as_mut_ptr()) };
    (got == 0 && info[0] & EXIT != 0).then_some((info[7] >> 32) as i32)
}

/// Fork the calling process through namespaces: a child that shares our memory (as after vfork; we sleep meanwhile) makes
/// the given calls of `setns`, descriptor and kind, then forks and ends. Its child, which is ours by descent, is a copy of
/// us in those namespaces. Gives 0 in the copy; in us something above, also where a call failed and there is no copy.
///
/// The copy is our child, and so is the process that made it. With `orphan` the copy is nobody's, and comes to process 1.
///
/// # Safety
/// The calling process must have one thread.
#[cfg(target_arch = "x86_64")]
pub unsafe fn fork_through(calls: &[[i64; 2]], orphan: bool) -> Result<i32> {
    let first = (libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD) as i64;
    let mut second = (if orphan { 0 } else { libc::CLONE_PARENT } | libc::SIGCHLD) as i64;
    // Where the C library keeps the id of this thread, it is to find that of the copy.
    let mut id_at = 0u64;
    // SAFETY: PR_GET_TID_ADDRESS writes one pointer.
    if unsafe { libc::prctl(libc::PR_GET_TID_ADDRESS, &raw mut id_at) } == 0 && id_at != 0 {
        second |= i64::from(libc::CLONE_CHILD_SETTID | libc::CLONE_CHILD_CLEARTID);
    }
    let end = calls.as_ptr_range().end;
    let got: i64;
    // SAFETY: the child that shares our memory, and our stack, makes system calls alone: it reads `calls`, writes nothing,
    // and never leaves this block. Its own child leaves it as fork does.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 5f",
            "2: cmp r12, r13",
            "je 3f",
            "mov rdi, [r12]",
            "mov rsi, [r12 + 8]",
            "mov eax, 308",
            "syscall",
            "test rax, rax",
            "jnz 4f",
            "add r12, 16",
            "jmp 2b",
            "3: mov rdi, r14",
            "xor esi, esi",
            "xor edx, edx",
            "mov r10, r15",
            "xor r8d, r8d",
            "mov eax, 56",
            "syscall",
            "test rax, rax",
            "jz 5f",
            "4: xor edi, edi",
            "mov eax, 231",
            "syscall",
            "jmp 4b",
            "5:",
            inlateout("rax") 56i64 => got,
            inlateout("rdi") first => _,
            inlateout("rsi") 0i64 => _,
            inlateout("rdx") 0i64 => _,
            inlateout("r10") 0i64 => _,
            inlateout("r8") 0i64 => _,
            inlateout("r12") calls.as_ptr() => _,
            in("r13") end,
            in("r14") second,
            in("r15") id_at,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    if got < 0 { Err(Errno(-got as i32)) } else { Ok(got as i32) }
}

/// Our own process id, as a procfs has it.
pub fn own_pid_in(proc: RawFd) -> Result<i32> {
    let mut name = [0u8; 16];
    // SAFETY: the buffer is live, and its length is given.
    let got = check(unsafe { libc::readlinkat(proc, c"self".as_ptr(), name.as_mut_ptr().cast(), name.len()) as _ })?;
    number(&name[..got as usize])
}

/// The process id behind a pidfd, as a procfs has it.
pub fn pid_in(proc: RawFd, pidfd: RawFd) -> Result<i32> {
    let path = crate::root::c(format!("self/fdinfo/{pidfd}").as_bytes());
    let file = super::openat(proc, &path, libc::O_RDONLY, 0)?;
    let mut text = [0u8; 512];
    let got = super::read(file.as_raw_fd(), &mut text)?;
    let line = text[..got].split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"Pid:"));
    number(line.unwrap_or_default().trim_ascii())
}

fn number(text: &[u8]) -> Result<i32> {
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).filter(|pid| *pid > 0).ok_or(Errno(libc::ESRCH))
}

/// Wait for the child behind a pidfd, if it is one that nobody has reaped.
pub fn pidfd_reap(pidfd: RawFd) {
    // SAFETY: an all-zero siginfo is valid, and lives as long as the call.
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        libc::waitid(libc::P_PIDFD, pidfd as libc::id_t, &raw mut info, libc::WEXITED);
    }
}

/// Wait for a child: its id and wait status; `None` where there is none to reap (with `WNOHANG`).
pub fn wait(pid: i32, flags: i32) -> Result<Option<(i32, i32)>> {
    let mut status = 0i32;
    loop {
        // SAFETY: the pointers are to live values or null.
        let got = check(unsafe {
            libc::syscall(libc::SYS_wait4, pid, &raw mut status, flags, std::ptr::null::<libc::rusage>())
        });
        match got {
            Err(Errno(libc::EINTR)) => {}
            Err(error) => return Err(error),
            Ok(0) => return Ok(None),
            Ok(pid) => return Ok(Some((pid as i32, status))),
        }
    }
}

/// Block every signal in the calling thread.
pub fn block_signals() -> Result<()> {
    signal_mask(libc::SIG_SETMASK, !0)
}

/// Unblock every signal in the calling thread.
pub fn unblock_signals() -> Result<()> {
    signal_mask(libc::SIG_SETMASK, 0)
}

fn signal_mask(how: i32, mask: u64) -> Result<()> {
    // SAFETY: the kernel's set has 64 bits here; no old set is asked for.
    check(unsafe { libc::syscall(libc::SYS_rt_sigprocmask, how, &raw const mask, std::ptr::null::<u64>(), 8usize) })
        .map(drop)
}

/// The signals that this process ignores, as bits: execve leaves those ignored, and gives all others their default back.
pub fn ignored_signals() -> u64 {
    let ignored = |signal: &i32| {
        let mut action = [0u64; 4];
        // SAFETY: `action` is a kernel sigaction of 32 bytes, which the call fills.
        let got = unsafe {
            libc::syscall(libc::SYS_rt_sigaction, *signal, std::ptr::null::<u64>(), action.as_mut_ptr(), 8usize)
        };
        got == 0 && action[0] == libc::SIG_IGN as u64
    };
    (1..=64).filter(ignored).fold(0, |bits, signal| bits | 1 << (signal - 1))
}

/// Give these signals their default action back (what the launcher ignores means nothing to what it starts).
pub fn default_signals(which: u64) {
    for signal in (1..=64).filter(|signal| which & (1 << (signal - 1)) != 0) {
        let action = [0u64; 4];
        // SAFETY: a zeroed kernel sigaction is SIG_DFL; for SIGKILL and SIGSTOP the call fails, which is right.
        unsafe {
            libc::syscall(libc::SYS_rt_sigaction, signal, action.as_ptr(), std::ptr::null::<u64>(), 8usize);
        }
    }
}

/// A descriptor on which the blocked signals of the calling thread can be read.
pub fn signalfd() -> Result<OwnedFd> {
    let mask = !0u64;
    let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
    // SAFETY: `mask` is a signal set of 8 bytes that lives during the call.
    descriptor(unsafe { libc::syscall(libc::SYS_signalfd4, -1, &raw const mask, 8usize, flags) })
}

/// `poll` without a time limit; restarted when interrupted.
pub fn poll(polls: &mut [libc::pollfd], timeout_ms: i32) -> Result<usize> {
    loop {
        // SAFETY: pointer and length are those of a live slice.
        let got = unsafe { libc::poll(polls.as_mut_ptr(), polls.len() as libc::nfds_t, timeout_ms) };
        match check(libc::c_long::from(got)) {
            Err(Errno(libc::EINTR)) => {}
            other => return other,
        }
    }
}

/// Execute `path`; returns only when that fails.
///
/// # Safety
/// `argv` and `env` must be arrays of pointers to C strings, each ended by a null pointer.
pub unsafe fn execve(path: &CStr, argv: *const *const libc::c_char, env: *const *const libc::c_char) -> Errno {
    // SAFETY: promised by the caller.
    unsafe { libc::syscall(libc::SYS_execve, path.as_ptr(), argv, env) };
    Errno::last()
}

/// Real user and group id of the calling process.
pub fn ids() -> (u32, u32) {
    // SAFETY: these calls cannot fail.
    unsafe { (libc::geteuid(), libc::getegid()) }
}

/// Bring the loopback interface of the current network namespace up.
pub fn loopback_up() -> Result<()> {
    // SAFETY: plain integers.
    let socket = descriptor(unsafe {
        libc::syscall(libc::SYS_socket, libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0)
    })?;
    // An ifreq: 16 bytes of name, then the flags, then padding up to 40 bytes.
    let mut request = [0u8; 40];
    request[..2].copy_from_slice(b"lo");
    request[16..18].copy_from_slice(&(libc::IFF_UP as u16).to_ne_bytes());
    use std::os::fd::AsRawFd;
    // SAFETY: `request` is an ifreq that lives during the call.
    check(unsafe { libc::syscall(libc::SYS_ioctl, socket.as_raw_fd(), libc::SIOCSIFFLAGS, request.as_ptr()) }).map(drop)
}
