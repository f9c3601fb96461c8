//! From rules to a filter.
//!
//! The numbers from 0 to 2^32 are cut into ranges of one answer each; the filter is a binary search over their
//! bounds, laid out left to right, so that jumps go forward as BPF demands:
//!
//! ```text
//! node:  JGE bound, 0, 1      ; not less: take the far jump, else skip it
//!        JA  size of left     ; jump offsets of tests have 8 bits, those of JA 32
//!        ...left...
//!        ...right...
//! ```

use super::bpf::{
    AND, ANY_BIT, ARCHITECTURE as OFFSET, Call, EQUAL, JUMP, LOAD, NOT_LESS, NUMBER, RETURN, low, plain, test,
};
use super::{ARCHITECTURE, Action, Instruction, Rule, Rules, Test};

/// Calls of the x32 interface have this bit: the same calls under other numbers.
const X32: u32 = 0x4000_0000;

/// The filter of `rules`.
pub fn compile(rules: &Rules) -> Vec<Instruction> {
    let ranges = ranges(rules);
    let mut program = vec![
        plain(LOAD, OFFSET),
        test(EQUAL, ARCHITECTURE, 1, 0),
        plain(RETURN, Action::Kill.value()),
        plain(LOAD, NUMBER),
    ];
    program.extend(node(&ranges));
    program
}

/// What `rules` answer to a call, said plainly: what the filter is tested against.
pub fn reference(rules: &Rules, call: &Call) -> Action {
    if call.architecture != ARCHITECTURE || call.number >= X32 {
        return Action::Kill;
    }
    let Some(rule) = rules.calls.get(&call.number) else {
        return Action::Fail(libc::ENOSYS as u16);
    };
    for (tests, action) in &rule.clauses {
        let holds = |test: &Test| match *test {
            Test::AnyBit(argument, bits) => call.arguments[argument as usize] as u32 & bits != 0,
            Test::Masked(argument, mask, value) => call.arguments[argument as usize] as u32 & mask == value,
        };
        if tests.iter().all(holds) {
            return *action;
        }
    }
    rule.otherwise
}

/// Where each range starts, and its rule.
fn ranges(rules: &Rules) -> Vec<(u32, Rule)> {
    let unknown = Rule::always(Action::Fail(libc::ENOSYS as u16));
    let mut out: Vec<(u32, Rule)> = Vec::new();
    let mut next = 0;
    let mut put = |start: u32, rule: &Rule| {
        if out.last().is_none_or(|(_, last)| last != rule) {
            out.push((start, rule.clone()));
        }
    };
    for (&number, rule) in rules.calls.range(..X32) {
        if number > next || number == 0 && next != 0 {
            put(next, &unknown);
        }
        put(number, rule);
        next = number + 1;
    }
    put(next, &unknown);
    // Every number with the bit of x32, and beyond: no program of ours makes such a call.
    put(X32, &Rule::always(Action::Kill));
    out
}

fn node(ranges: &[(u32, Rule)]) -> Vec<Instruction> {
    if let [(_, rule)] = ranges {
        return leaf(rule);
    }
    let (left, right) = ranges.split_at(ranges.len() / 2);
    let (bound, left, right) = (right[0].0, node(left), node(right));
    let mut program = Vec::with_capacity(left.len() + right.len() + 2);
    match u8::try_from(left.len()) {
        Ok(far) => program.push(test(NOT_LESS, bound, far, 0)),
        Err(_) => {
            program.push(test(NOT_LESS, bound, 0, 1));
            program.push(plain(JUMP, left.len() as u32));
        }
    }
    program.extend(left);
    program.extend(right);
    program
}

/// The clauses of a rule: each ends in its answer, and a test that fails skips to the next.
fn leaf(rule: &Rule) -> Vec<Instruction> {
    let mut program = Vec::new();
    for (tests, action) in &rule.clauses {
        let mut clause: Vec<Instruction> = vec![plain(RETURN, action.value())];
        for one in tests.iter().rev() {
            let skip = clause.len() as u8;
            let mut code = match *one {
                Test::AnyBit(argument, bits) => {
                    vec![plain(LOAD, low(argument)), test(ANY_BIT, bits, 0, skip)]
                }
                Test::Masked(argument, u32::MAX, value) => {
                    vec![plain(LOAD, low(argument)), test(EQUAL, value, 0, skip)]
                }
                Test::Masked(argument, mask, value) => {
                    vec![plain(LOAD, low(argument)), plain(AND, mask), test(EQUAL, value, 0, skip)]
                }
            };
            code.append(&mut clause);
            clause = code;
        }
        program.append(&mut clause);
    }
    program.push(plain(RETURN, rule.otherwise.value()));
    program
}
