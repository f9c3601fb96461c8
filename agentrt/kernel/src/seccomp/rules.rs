//! Which system calls an agent has, and why it does not have the others.

use super::{Action, Options, Rule, Rules, Test, calls};
use crate::policy::parse_nearest;

/// Where a system call stands by default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// In the default set, perhaps with conditions on its arguments.
    Allowed,
    /// Not in it; a policy may allow it.
    Denied(&'static str),
    /// Not in it, and no policy may allow it.
    Never(&'static str),
    /// No such call.
    Unknown {
        /// The call that has the most similar name.
        nearest: Option<&'static str>,
    },
}

const MOUNTS: &str = "it changes mounts, and the root file system is what the sandbox is made of";
const MODULES: &str = "it loads code into the host's kernel";
const MACHINE: &str = "it acts on the whole machine";
const CLOCK: &str = "it sets the machine's clock";
const BYPASS: &str = "work handed in this way is not seen by the filter of system calls";
const KEYS: &str = "the kernel's keyrings are not separated by namespaces";
const HANDLES: &str = "it opens files by number, past every path that was closed";
const NAMESPACES: &str =
    "new namespaces give back all capabilities within them, and with them most of the kernel's attack surface";
const OTHERS: &str = "it reads or steers another process";
const SURFACE: &str = "it has a history of holes in the kernel, and few programs need it";
const OLD: &str = "it is obsolete";

/// Calls that no policy may allow.
const NEVER: &[(&str, &[&str])] = &[
    (
        MOUNTS,
        &[
            "mount",
            "umount2",
            "pivot_root",
            "chroot",
            "move_mount",
            "open_tree",
            "open_tree_attr",
            "fsopen",
            "fsconfig",
            "fsmount",
            "fspick",
            "mount_setattr",
            "swapon",
            "swapoff",
            "quotactl",
            "quotactl_fd",
            "statmount",
            "listmount",
        ],
    ),
    (MODULES, &["init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load", "bpf"]),
    (
        MACHINE,
        &[
            "reboot",
            "acct",
            "syslog",
            "vhangup",
            "sethostname",
            "setdomainname",
            "iopl",
            "ioperm",
            "nfsservctl",
            "lookup_dcookie",
            "fanotify_init",
            "fanotify_mark",
            "lsm_set_self_attr",
        ],
    ),
    (CLOCK, &["settimeofday", "clock_settime", "adjtimex", "clock_adjtime"]),
    (BYPASS, &["io_uring_setup", "io_uring_enter", "io_uring_register"]),
    (KEYS, &["add_key", "request_key", "keyctl"]),
    (HANDLES, &["open_by_handle_at", "name_to_handle_at"]),
    (NAMESPACES, &["setns", "clone3"]),
];

/// Calls that a policy may allow.
const DENIED: &[(&str, &[&str])] = &[
    (
        OTHERS,
        &[
            "ptrace",
            "process_vm_readv",
            "process_vm_writev",
            "process_madvise",
            "process_mrelease",
            "pidfd_getfd",
            "kcmp",
            "move_pages",
            "migrate_pages",
        ],
    ),
    (SURFACE, &["perf_event_open", "userfaultfd", "memfd_secret", "modify_ldt", "map_shadow_stack"]),
    (
        OLD,
        &[
            "_sysctl",
            "sysfs",
            "uselib",
            "ustat",
            "remap_file_pages",
            "afs_syscall",
            "security",
            "tuxcall",
            "vserver",
            "getpmsg",
            "putpmsg",
            "epoll_ctl_old",
            "epoll_wait_old",
        ],
    ),
];

fn found(table: &'static [(&str, &[&str])], name: &str) -> Option<&'static str> {
    table.iter().find(|(_, names)| names.contains(&name)).map(|(why, _)| *why)
}

/// Where `name` stands by default.
pub fn standing(name: &str) -> Standing {
    if let Some(why) = found(NEVER, name) {
        Standing::Never(why)
    } else if let Some(why) = found(DENIED, name) {
        Standing::Denied(why)
    } else if calls::number(name).is_some() {
        Standing::Allowed
    } else {
        let known: Vec<&'static str> = calls::CALLS.iter().map(|(name, _)| *name).collect();
        Standing::Unknown { nearest: parse_nearest(name, &known) }
    }
}

/// Why a call that is in the default set may still be denied for some of its arguments.
pub fn denied_because(name: &str) -> Option<&'static str> {
    match name {
        "clone" | "unshare" => Some(NAMESPACES),
        "ioctl" => {
            Some("TIOCSTI, TIOCLINUX, TIOCCONS and TIOCSETD put input into terminals of others or change their kind")
        }
        "socket" | "socketpair" => {
            Some("only the socket families of the policy's network may be made, and none that is raw")
        }
        "sendto" | "sendmsg" | "sendmmsg" => Some("MSG_FASTOPEN connects without asking Landlock"),
        "personality" => Some("only Linux' own personality may be set: others switch protections off"),
        "mknod" | "mknodat" => Some("devices may not be made"),
        "memfd_create" => Some("the workspace is not executable, so memory files must be made with MFD_NOEXEC_SEAL"),
        _ => match standing(name) {
            Standing::Denied(why) | Standing::Never(why) => Some(why),
            _ => None,
        },
    }
}

/// `CLONE_NEW*` of clone and unshare: mount, cgroup, uts, ipc, user, pid, net, and time (0x80, unshare alone).
const NAMESPACE_BITS: u32 = 0x7E02_0000;

impl Rules {
    /// The rules that follow from `options`.
    pub fn new(options: &Options) -> Self {
        let denied = if options.note { Action::Note } else { Action::Fail(libc::EPERM as u16) };
        let mut rules = Self::default();
        for (name, number) in calls::CALLS {
            let allowed = match standing(name) {
                Standing::Allowed => true,
                Standing::Denied(_) => options.allow.contains(*name),
                _ => false,
            };
            let rule = if *name == "clone3" {
                // Its flags lie in memory, where a filter cannot see them. ENOSYS makes libraries fall back to clone.
                Rule::always(Action::Fail(libc::ENOSYS as u16))
            } else if *name == "setns" && options.enter {
                Rule::always(Action::Allow)
            } else if !allowed || options.deny.contains(*name) {
                Rule::always(denied)
            } else {
                conditional(name, options, denied).unwrap_or(Rule::always(Action::Allow))
            };
            rules.calls.insert(*number, rule);
        }
        rules
    }
}

impl Rules {
    /// For a seed, which agents are forked from: what no policy may allow is denied, but entering namespaces, for which its
    /// children have a use, and it no right. Not noted: a process has one note-taker, and its children have theirs.
    pub fn seed() -> Self {
        let denied = Action::Fail(libc::EPERM as u16);
        let options = Options { internet: true, ..Options::default() };
        let mut rules = Self::default();
        for (name, number) in calls::CALLS {
            let rule = match (*name, standing(name)) {
                ("setns", _) => Rule::always(Action::Allow),
                ("clone3", _) => Rule::always(Action::Fail(libc::ENOSYS as u16)),
                ("clone" | "unshare" | "ioctl" | "personality", _) => {
                    conditional(name, &options, denied).unwrap_or(Rule::always(denied))
                }
                ("ptrace" | "process_vm_readv" | "process_vm_writev" | "pidfd_getfd", _) => Rule::always(denied),
                (_, Standing::Never(_)) => Rule::always(denied),
                _ => Rule::always(Action::Allow),
            };
            rules.calls.insert(*number, rule);
        }
        rules
    }
}

fn unless(tests: Vec<Vec<Test>>, denied: Action) -> Rule {
    Rule { clauses: tests.into_iter().map(|tests| (tests, denied)).collect(), otherwise: Action::Allow }
}

fn only(tests: Vec<Vec<Test>>, denied: Action) -> Rule {
    Rule { clauses: tests.into_iter().map(|tests| (tests, Action::Allow)).collect(), otherwise: denied }
}

fn conditional(name: &str, options: &Options, denied: Action) -> Option<Rule> {
    const ALL: u32 = u32::MAX;
    const FAST_OPEN: u32 = 0x2000_0000;
    const TYPE: u32 = 0xF;
    const UDP_LITE: i32 = 136;
    let device = |argument| {
        let kind = |kind| vec![Test::Masked(argument, libc::S_IFMT, kind)];
        unless(vec![kind(libc::S_IFCHR), kind(libc::S_IFBLK)], denied)
    };
    Some(match name {
        "clone" => unless(vec![vec![Test::AnyBit(0, NAMESPACE_BITS)]], denied),
        "unshare" => unless(vec![vec![Test::AnyBit(0, NAMESPACE_BITS | 0x80)]], denied),
        "ioctl" => unless(
            // TIOCSTI, TIOCLINUX, TIOCCONS, TIOCSETD
            [0x5412, 0x541C, 0x541D, 0x5423].map(|request| vec![Test::Masked(1, ALL, request)]).to_vec(),
            denied,
        ),
        "socket" => {
            let family = |family: i32| Test::Masked(0, ALL, family as u32);
            let kind = |kind: i32| Test::Masked(1, TYPE, kind as u32);
            let mut allowed = vec![vec![family(libc::AF_UNIX)]];
            // Protocols are named: multipath TCP, for one, is a stream that Landlock's ports do not see.
            for ip in if options.internet { vec![libc::AF_INET, libc::AF_INET6] } else { vec![] } {
                for protocol in [0, libc::IPPROTO_TCP] {
                    allowed.push(vec![family(ip), kind(libc::SOCK_STREAM), Test::Masked(2, ALL, protocol as u32)]);
                }
                for protocol in if options.tcp_only { vec![] } else { vec![0, libc::IPPROTO_UDP, UDP_LITE] } {
                    allowed.push(vec![family(ip), kind(libc::SOCK_DGRAM), Test::Masked(2, ALL, protocol as u32)]);
                }
            }
            if options.internet {
                // Routes and addresses may be read, which getaddrinfo and friends do.
                allowed.push(vec![family(libc::AF_NETLINK), Test::Masked(2, ALL, libc::NETLINK_ROUTE as u32)]);
            }
            only(allowed, denied)
        }
        "socketpair" => only(vec![vec![Test::Masked(0, ALL, libc::AF_UNIX as u32)]], denied),
        "sendto" => unless(vec![vec![Test::AnyBit(3, FAST_OPEN)]], denied),
        "sendmsg" => unless(vec![vec![Test::AnyBit(2, FAST_OPEN)]], denied),
        "sendmmsg" => unless(vec![vec![Test::AnyBit(3, FAST_OPEN)]], denied),
        "personality" => only([0, ALL].map(|value| vec![Test::Masked(0, ALL, value)]).to_vec(), denied),
        "mknod" => device(1),
        "mknodat" => device(2),
        // MFD_NOEXEC_SEAL
        "memfd_create" if options.no_memory_programs => only(vec![vec![Test::AnyBit(1, 8)]], denied),
        _ => return None,
    })
}
