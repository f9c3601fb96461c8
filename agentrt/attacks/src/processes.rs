//! Attacks on processes outside, and on one's own credentials.

use crate::{Outcome, Targets, c, errno, open, outcome, raw};

pub fn signal_victim(t: &Targets) -> Outcome {
    outcome(raw!(libc::SYS_kill, t.victim, libc::SIGUSR1))
}
pub fn signal_victims_thread(t: &Targets) -> Outcome {
    outcome(raw!(libc::SYS_tgkill, t.victim, t.victim, libc::SIGUSR1))
}
pub fn queue_signal(t: &Targets) -> Outcome {
    let mut info = [0u32; 32];
    info[2] = (-1i32) as u32; // SI_QUEUE
    outcome(raw!(libc::SYS_rt_sigqueueinfo, t.victim, libc::SIGUSR1, info.as_mut_ptr()))
}
pub fn signal_by_descriptor(t: &Targets) -> Outcome {
    let fd = raw!(libc::SYS_pidfd_open, t.victim, 0);
    if fd < 0 {
        return Err(errno());
    }
    outcome(raw!(libc::SYS_pidfd_send_signal, fd, libc::SIGUSR1, std::ptr::null::<u8>(), 0))
}
pub fn signal_by_file(t: &Targets) -> Outcome {
    // The kernel sends SIGIO for us to whom we name as the owner of a pipe. Judged from outside.
    let mut ends = [0i32; 2];
    outcome(raw!(libc::SYS_pipe2, ends.as_mut_ptr(), 0))?;
    outcome(raw!(libc::SYS_fcntl, ends[0], libc::F_SETOWN, t.victim))?;
    outcome(raw!(libc::SYS_fcntl, ends[0], 10, libc::SIGUSR1))?; // F_SETSIG
    outcome(raw!(libc::SYS_fcntl, ends[0], libc::F_SETFL, libc::O_ASYNC))?;
    outcome(raw!(libc::SYS_write, ends[1], c"x".as_ptr(), 1))
}
pub fn trace_victim(t: &Targets) -> Outcome {
    outcome(raw!(libc::SYS_ptrace, libc::PTRACE_SEIZE, t.victim, 0, 0))
}
pub fn trace_parent(_: &Targets) -> Outcome {
    // SAFETY: no arguments.
    let parent = unsafe { libc::getppid() };
    outcome(raw!(libc::SYS_ptrace, libc::PTRACE_SEIZE, parent, 0, 0))
}
pub fn read_victims_memory(t: &Targets) -> Outcome {
    memory(t.victim, libc::SYS_process_vm_readv)
}
pub fn write_victims_memory(t: &Targets) -> Outcome {
    memory(t.victim, libc::SYS_process_vm_writev)
}
fn memory(victim: i32, call: i64) -> Outcome {
    // The victim is a copy of this program's launcher: nothing is read or written, the length is zero.
    let mut byte = 0u8;
    let own = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 0 };
    outcome(raw!(call, victim, &raw const own, 1, &raw const own, 1, 0))?;
    open(&format!("/proc/{victim}/mem"), libc::O_RDONLY).map(drop)
}
pub fn open_victims_memory(t: &Targets) -> Outcome {
    open(&format!("/proc/{}/mem", t.victim), libc::O_RDONLY).map(drop)
}
pub fn read_victims_environment(t: &Targets) -> Outcome {
    open(&format!("/proc/{}/environ", t.victim), libc::O_RDONLY).map(drop)
}
pub fn read_victims_command(t: &Targets) -> Outcome {
    open(&format!("/proc/{}/cmdline", t.victim), libc::O_RDONLY).map(drop)
}
pub fn victims_descriptors(t: &Targets) -> Outcome {
    open(&format!("/proc/{}/fd", t.victim), libc::O_RDONLY | libc::O_DIRECTORY).map(drop)
}
pub fn steal_descriptor(t: &Targets) -> Outcome {
    let fd = raw!(libc::SYS_pidfd_open, t.victim, 0);
    // Inside there is no such process; the call is tried all the same.
    outcome(raw!(libc::SYS_pidfd_getfd, fd.max(0), 0, 0))
}
pub fn compare_victim(t: &Targets) -> Outcome {
    outcome(raw!(libc::SYS_kcmp, t.victim, std::process::id(), 0, 0, 0))
}
pub fn slow_victim(t: &Targets) -> Outcome {
    outcome(raw!(libc::SYS_setpriority, libc::PRIO_PROCESS, t.victim, 1))
}
pub fn pin_victim(t: &Targets) -> Outcome {
    let mask = [u64::MAX; 16];
    outcome(raw!(libc::SYS_sched_setaffinity, t.victim, 128, mask.as_ptr()))
}
pub fn limit_victim(t: &Targets) -> Outcome {
    let mut now = [0u64; 2];
    outcome(raw!(libc::SYS_prlimit64, t.victim, libc::RLIMIT_CORE, std::ptr::null::<u8>(), now.as_mut_ptr()))
}
pub fn see_victim(t: &Targets) -> Outcome {
    outcome(raw!(libc::SYS_kill, t.victim, 0))
}
pub fn victims_group(t: &Targets) -> Outcome {
    outcome(raw!(libc::SYS_getpgid, t.victim))
}
pub fn become_root(_: &Targets) -> Outcome {
    outcome(raw!(libc::SYS_setresuid, 0, 0, 0))
}
pub fn become_roots_group(_: &Targets) -> Outcome {
    outcome(raw!(libc::SYS_setresgid, 0, 0, 0))
}
pub fn join_groups(_: &Targets) -> Outcome {
    let groups = [0u32, 6];
    outcome(raw!(libc::SYS_setgroups, 2, groups.as_ptr()))
}
pub fn take_capabilities(_: &Targets) -> Outcome {
    let header = [0x2008_0522u32, 0];
    let data = [1u32 << 21, 1 << 21, 0, 0, 0, 0]; // CAP_SYS_ADMIN
    outcome(raw!(libc::SYS_capset, header.as_ptr(), data.as_ptr()))
}
pub fn bind_low_port_right(_: &Targets) -> Outcome {
    // CAP_NET_ADMIN over the namespace: take an interface down that is down already.
    let socket = raw!(libc::SYS_socket, libc::AF_UNIX, libc::SOCK_DGRAM, 0);
    let mut request = [0u8; 40];
    request[..2].copy_from_slice(b"lo");
    outcome(raw!(libc::SYS_ioctl, socket, libc::SIOCGIFFLAGS, request.as_mut_ptr()))?;
    outcome(raw!(libc::SYS_ioctl, socket, libc::SIOCSIFFLAGS, request.as_mut_ptr()))
}
pub fn shared_memory(t: &Targets) -> Outcome {
    outcome(raw!(libc::SYS_shmget, t.key, 1, 0))
}
pub fn message_queue(t: &Targets) -> Outcome {
    outcome(raw!(libc::SYS_msgget, t.key, 0))
}
pub fn semaphores(t: &Targets) -> Outcome {
    outcome(raw!(libc::SYS_semget, t.key, 1, 0))
}
pub fn posix_queue(t: &Targets) -> Outcome {
    let name = c(&t.queue);
    outcome(raw!(libc::SYS_mq_open, name.as_ptr(), libc::O_RDONLY | libc::O_NONBLOCK, 0, std::ptr::null::<u8>()))
}
pub fn type_into_terminal(_: &Targets) -> Outcome {
    let master = open("/dev/ptmx", libc::O_RDWR | libc::O_NOCTTY)?;
    let mut unlock = 0i32;
    outcome(raw!(libc::SYS_ioctl, master, libc::TIOCSPTLCK, &raw mut unlock))?;
    let slave = raw!(libc::SYS_ioctl, master, 0x5441, libc::O_RDWR | libc::O_NOCTTY); // TIOCGPTPEER
    if slave < 0 {
        return Err(errno());
    }
    outcome(raw!(libc::SYS_ioctl, slave, 0x5412, c"x".as_ptr())) // TIOCSTI
}
pub fn terminal_discipline(_: &Targets) -> Outcome {
    let master = open("/dev/ptmx", libc::O_RDWR | libc::O_NOCTTY)?;
    let discipline = 0i32;
    outcome(raw!(libc::SYS_ioctl, master, 0x5423, &raw const discipline)) // TIOCSETD
}
