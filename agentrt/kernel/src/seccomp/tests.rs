use super::bpf::{Call, run};
use super::*;

/// Architectures, ours first: i386, x32's own name is ours, ARM, AArch64, RISC-V, and nonsense.
const ARCHITECTURES: [u32; 6] = [ARCHITECTURE, 0x4000_0003, 0x4000_0028, 0xC000_00B7, 0xC000_00F3, 0];

fn options() -> Vec<Options> {
    let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    vec![
        Options::default(),
        Options { internet: true, note: true, ..Options::default() },
        Options { internet: true, tcp_only: true, ..Options::default() },
        Options { no_memory_programs: true, allow: set(&["ptrace", "userfaultfd"]), ..Options::default() },
        Options { deny: set(&["socket", "read", "getpid"]), ..Options::default() },
    ]
}

/// Numbers worth asking about: all that exist and the gaps between, both edges of everything, x32, and far beyond.
fn numbers() -> Vec<u32> {
    let mut out: Vec<u32> = (0..1200).collect();
    out.extend((0..1200).map(|number| 0x4000_0000 | number));
    out.extend([0x3FFF_FFFF, 0x7FFF_FFFF, 0x8000_0000, 0xBFFF_FFFF, 0xC000_0000, 0xFFFF_FFFE, 0xFFFF_FFFF]);
    out
}

fn arguments() -> Vec<[u64; 6]> {
    let mut out = vec![[0; 6], [u64::MAX; 6], [0x5412; 6], [0x1000_0000; 6], [(1 << 40) | 2; 6], [0x2000_0000; 6]];
    // Pseudo-random: bits, small values and bits of namespaces mixed.
    let mut state = 7u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 11
    };
    for _ in 0..40 {
        let mut one = [0u64; 6];
        for argument in &mut one {
            *argument = match next() % 6 {
                0 => next() % 20,
                1 => 1 << (next() % 64),
                2 => [0x5412, 0x541C, 0x541D, 0x5423][(next() % 4) as usize],
                3 => u64::from(libc::S_IFBLK) | (next() % 512),
                4 => next(),
                _ => 0,
            };
        }
        out.push(one);
    }
    out
}

#[test]
fn the_tree_answers_as_the_plain_rules_do() {
    let (numbers, arguments) = (numbers(), arguments());
    for options in options() {
        let rules = Rules::new(&options);
        let program = compile(&rules);
        for architecture in ARCHITECTURES {
            for &number in &numbers {
                let conditional =
                    architecture == ARCHITECTURE && rules.calls.get(&number).is_some_and(|r| !r.clauses.is_empty());
                for arguments in if conditional { &arguments[..] } else { &arguments[..2] } {
                    let call = Call { number, architecture, arguments: *arguments };
                    let (answer, _) = run(&program, &call).expect("a valid filter");
                    assert_eq!(answer, reference(&rules, &call).value(), "{call:x?}");
                }
            }
        }
    }
}

#[test]
fn every_call_takes_few_instructions() {
    let rules = Rules::new(&Options { internet: true, note: true, ..Options::default() });
    let program = compile(&rules);
    let steps = |number| run(&program, &Call { number, architecture: ARCHITECTURE, arguments: [0; 6] }).unwrap().1;
    let unconditional = rules.calls.iter().filter(|(_, rule)| rule.clauses.is_empty());
    let worst = unconditional.map(|(number, _)| steps(*number)).max().unwrap();
    assert!(worst <= 14, "{worst} instructions for one call");
    assert!(program.len() < 600, "{} instructions in all", program.len());
}

#[test]
fn other_architectures_and_x32_are_killed() {
    let program = compile(&Rules::new(&Options::default()));
    let answer = |number, architecture| run(&program, &Call { number, architecture, arguments: [0; 6] }).unwrap().0;
    assert_eq!(answer(20, 0x4000_0003), libc::SECCOMP_RET_KILL_PROCESS, "getpid of i386");
    assert_eq!(answer(0x4000_0000 | 39, ARCHITECTURE), libc::SECCOMP_RET_KILL_PROCESS, "getpid of x32");
    assert_eq!(answer(5000, ARCHITECTURE), Action::Fail(libc::ENOSYS as u16).value(), "a call of the future");
}

#[test]
fn high_halves_of_arguments_do_not_lead_astray() {
    let program = compile(&Rules::new(&Options::default()));
    let number = calls::number("clone").unwrap();
    for high in [0u64, 1 << 32, 0xFFFF_FFFF << 32] {
        let mut arguments = [0; 6];
        arguments[0] = high | libc::CLONE_NEWUSER as u64;
        let answer = run(&program, &Call { number, architecture: ARCHITECTURE, arguments }).unwrap().0;
        assert_eq!(answer, Action::Fail(libc::EPERM as u16).value());
    }
}

#[test]
fn a_table_is_sorted_and_each_name_stands_somewhere() {
    assert!(calls::CALLS.windows(2).all(|pair| pair[0].1 < pair[1].1));
    for (name, number) in calls::CALLS {
        assert_eq!(calls::name(*number), Some(*name));
        assert!(!matches!(standing(name), Standing::Unknown { .. }), "{name}");
    }
    assert_eq!(standing("ptracee"), Standing::Unknown { nearest: Some("ptrace") });
}

/// What the kernel does with a filter is what the interpreter says: asked of the kernel itself, in a child.
#[test]
fn the_kernel_agrees_with_the_interpreter() {
    let mut rules = Rules::new(&Options::default());
    rules.calls.insert(calls::number("getppid").unwrap(), Rule::always(Action::Fail(77)));
    let program = compile(&rules);
    // SAFETY: the child makes system calls alone, on memory that exists, and exits.
    let pid = unsafe { crate::sys::fork() }.unwrap();
    if pid == 0 {
        let installed = crate::sys::no_new_privileges().and_then(|()| crate::sys::install_filter(&program, false));
        // SAFETY: no arguments.
        let answers = unsafe { [libc::syscall(libc::SYS_getppid), libc::syscall(libc::SYS_bpf, 0, 0, 0)] };
        let errno = crate::sys::Errno::last().0;
        crate::sys::exit_now(if installed.is_ok() && answers == [-1, -1] && errno == libc::EPERM { 0 } else { 1 });
    }
    assert_eq!(crate::sys::wait(pid, 0).unwrap().map(|(_, status)| status), Some(0));
}
