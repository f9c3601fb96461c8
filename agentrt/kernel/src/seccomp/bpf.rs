//! Classic BPF as seccomp runs it: the few instructions that filters use, and an interpreter for the tests.

use crate::sys::Instruction;

/// Load the word at an offset of `seccomp_data`.
pub const LOAD: u16 = 0x20;
/// Jump always, by `k`.
pub const JUMP: u16 = 0x05;
/// Jump if equal to `k`.
pub const EQUAL: u16 = 0x15;
/// Jump if greater than or equal to `k`.
pub const NOT_LESS: u16 = 0x35;
/// Jump if any bit of `k` is set.
pub const ANY_BIT: u16 = 0x45;
/// Return `k`.
pub const RETURN: u16 = 0x06;
/// And the accumulator with `k`.
pub const AND: u16 = 0x54;

/// Offset of the system call's number.
pub const NUMBER: u32 = 0;
/// Offset of the architecture.
pub const ARCHITECTURE: u32 = 4;

/// Offset of the low half of an argument (both architectures are little-endian).
pub const fn low(argument: u8) -> u32 {
    16 + 8 * argument as u32
}

/// Offset of the high half of an argument.
pub const fn high(argument: u8) -> u32 {
    low(argument) + 4
}

/// An instruction without jumps.
pub const fn plain(code: u16, k: u32) -> Instruction {
    Instruction { code, jt: 0, jf: 0, k }
}

/// A test.
pub const fn test(code: u16, k: u32, jt: u8, jf: u8) -> Instruction {
    Instruction { code, jt, jf, k }
}

/// What a filter is asked about.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// Number of the system call.
    pub number: u32,
    /// `AUDIT_ARCH_*`.
    pub architecture: u32,
    /// The six arguments.
    pub arguments: [u64; 6],
}

impl Call {
    fn word(&self, offset: u32) -> Option<u32> {
        match offset {
            NUMBER => Some(self.number),
            ARCHITECTURE => Some(self.architecture),
            16..64 if offset.is_multiple_of(4) => {
                let argument = self.arguments[(offset as usize - 16) / 8];
                Some(if offset.is_multiple_of(8) { argument as u32 } else { (argument >> 32) as u32 })
            }
            _ => None,
        }
    }
}

/// Run a filter: what it returns and how many instructions that took, or `None` if it is no valid filter.
pub fn run(program: &[Instruction], call: &Call) -> Option<(u32, usize)> {
    let (mut at, mut accumulator) = (0usize, 0u32);
    // Jumps go forward alone, so no program runs longer than it is.
    for steps in 1..=program.len() {
        let instruction = program.get(at)?;
        let mut branch = |taken: bool| at += 1 + usize::from(if taken { instruction.jt } else { instruction.jf });
        match instruction.code {
            LOAD => {
                accumulator = call.word(instruction.k)?;
                at += 1;
            }
            AND => {
                accumulator &= instruction.k;
                at += 1;
            }
            JUMP => at += 1 + instruction.k as usize,
            EQUAL => branch(accumulator == instruction.k),
            NOT_LESS => branch(accumulator >= instruction.k),
            ANY_BIT => branch(accumulator & instruction.k != 0),
            RETURN => return Some((instruction.k, steps)),
            _ => return None,
        }
    }
    None
}
