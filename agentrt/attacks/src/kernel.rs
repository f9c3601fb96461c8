//! Attacks on the kernel's wider surface.

use crate::{Outcome, Targets, outcome, raw};

pub fn bpf(_: &Targets) -> Outcome {
    // An array map of one element.
    let attributes = [2u32, 4, 4, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    outcome(raw!(libc::SYS_bpf, 0, attributes.as_ptr(), 64))
}
pub fn performance_counters(_: &Targets) -> Outcome {
    let mut attributes = [0u32; 32];
    (attributes[0], attributes[1]) = (1, 128); // software, size
    outcome(raw!(libc::SYS_perf_event_open, attributes.as_ptr(), 0, -1, -1, 0))
}
pub fn page_faults(_: &Targets) -> Outcome {
    outcome(raw!(libc::SYS_userfaultfd, 0))
}
pub fn io_uring(_: &Targets) -> Outcome {
    let mut parameters = [0u32; 30];
    outcome(raw!(libc::SYS_io_uring_setup, 4, parameters.as_mut_ptr()))
}
pub fn add_key(_: &Targets) -> Outcome {
    outcome(raw!(libc::SYS_add_key, c"user".as_ptr(), c"attack".as_ptr(), c"x".as_ptr(), 1, -3))
}
pub fn join_keyring(_: &Targets) -> Outcome {
    outcome(raw!(libc::SYS_keyctl, 1, 0, 0, 0, 0))
}
pub fn read_kernel_log(_: &Targets) -> Outcome {
    outcome(raw!(libc::SYS_syslog, 10, 0, 0))
}
pub fn accounting(_: &Targets) -> Outcome {
    outcome(raw!(libc::SYS_acct, std::ptr::null::<u8>()))
}
pub fn hang_up(_: &Targets) -> Outcome {
    outcome(raw!(libc::SYS_vhangup))
}
pub fn adjust_clock(_: &Targets) -> Outcome {
    let mut nothing = [0u8; 256];
    outcome(raw!(libc::SYS_adjtimex, nothing.as_mut_ptr()))
}
pub fn set_clock(_: &Targets) -> Outcome {
    // To what it is: the offset of zero, singly.
    let mut change = [0u8; 256];
    change[..4].copy_from_slice(&0x0100u32.to_ne_bytes()); // ADJ_SETOFFSET
    outcome(raw!(libc::SYS_clock_adjtime, 0, change.as_mut_ptr()))
}
pub fn segment_table(_: &Targets) -> Outcome {
    let mut buffer = [0u8; 16];
    outcome(raw!(libc::SYS_modify_ldt, 0, buffer.as_mut_ptr(), 16))
}
pub fn personality(_: &Targets) -> Outcome {
    outcome(raw!(libc::SYS_personality, 0x0040000)) // ADDR_NO_RANDOMIZE
}
pub fn file_watch(_: &Targets) -> Outcome {
    outcome(raw!(libc::SYS_fanotify_init, 0, 0))
}
pub fn secret_memory(_: &Targets) -> Outcome {
    outcome(raw!(libc::SYS_memfd_secret, 0))
}
pub fn remap(_: &Targets) -> Outcome {
    // SAFETY: a fresh anonymous mapping.
    let page = unsafe {
        libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_READ, libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1, 0)
    };
    outcome(raw!(libc::SYS_remap_file_pages, page, 4096, 0, 0, 0))
}
pub fn move_pages(t: &Targets) -> Outcome {
    let _ = t;
    outcome(raw!(libc::SYS_move_pages, 0, 0, std::ptr::null::<u8>(), std::ptr::null::<u8>(), std::ptr::null::<u8>(), 0))
}
pub fn filesystem_names(_: &Targets) -> Outcome {
    outcome(raw!(libc::SYS_sysfs, 3))
}
pub fn advise_victim(t: &Targets) -> Outcome {
    let fd = raw!(libc::SYS_pidfd_open, t.victim, 0);
    outcome(raw!(libc::SYS_process_madvise, fd.max(0), std::ptr::null::<u8>(), 0, libc::MADV_COLD, 0))
}
/// The 32-bit entry: other numbers, unseen by a filter that forgets the architecture.
#[cfg(target_arch = "x86_64")]
pub fn old_entry(_: &Targets) -> Outcome {
    let mut answer: i64 = 20; // getpid
    // SAFETY: getpid of the 32-bit interface changes no memory; r8 to r11 may be clobbered.
    unsafe {
        std::arch::asm!("int 0x80", inout("rax") answer, out("r8") _, out("r9") _, out("r10") _, out("r11") _);
    }
    if answer < 0 { Err(-answer as i32) } else { Ok(()) }
}
/// The x32 entry: the same calls under numbers with another bit.
#[cfg(target_arch = "x86_64")]
pub fn x32_entry(_: &Targets) -> Outcome {
    outcome(raw!(0x4000_0000 | libc::SYS_getpid))
}
