//! The one table of an agent's states and legal moves, and the reasons of its ends.

use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    Created,
    Starting,
    Running,
    Paused,
    Stopping,
    Backoff,
    CrashLoop,
    Exited,
    Deleting,
}

use State::*;

/// Every legal move. What is not here is refused, by whichever path it comes.
pub const MOVES: &[(State, &[State])] = &[
    (Created, &[Starting, Deleting]),
    (Starting, &[Running, Stopping, Exited, Backoff, CrashLoop]),
    (Running, &[Paused, Stopping, Exited, Backoff, CrashLoop]),
    (Paused, &[Running, Stopping, Exited, Backoff, CrashLoop]),
    (Stopping, &[Exited, Backoff, CrashLoop]),
    (Backoff, &[Starting, Exited, Deleting]),
    (CrashLoop, &[Starting, Exited, Deleting]),
    (Exited, &[Starting, Deleting]),
    (Deleting, &[]),
];

impl State {
    pub const ALL: [State; 9] = [Created, Starting, Running, Paused, Stopping, Backoff, CrashLoop, Exited, Deleting];

    pub fn may_become(self, next: State) -> bool {
        MOVES.iter().any(|(from, to)| *from == self && to.contains(&next))
    }

    /// The agent may have processes on the host.
    pub fn has_processes(self) -> bool {
        matches!(self, Starting | Running | Paused | Stopping | Deleting)
    }

    /// Nothing will happen to the agent any more unless somebody asks for it.
    pub fn at_rest(self) -> bool {
        matches!(self, Created | Exited)
    }

    pub fn name(self) -> &'static str {
        match self {
            Created => "created",
            Starting => "starting",
            Running => "running",
            Paused => "paused",
            Stopping => "stopping",
            Backoff => "backoff",
            CrashLoop => "crash-loop",
            Exited => "exited",
            Deleting => "deleting",
        }
    }
}

/// Why a program ended; the words of the proto's ExitReason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    Exited,
    Signal,
    Oom,
    Limit,
    Policy,
    Health,
    Stopped,
    Ttl,
    StartFailed,
    HostRestarted,
    Killed,
    Lease,
}

impl Reason {
    pub fn name(self) -> &'static str {
        match self {
            Reason::Exited => "exited",
            Reason::Signal => "signal",
            Reason::Oom => "oom",
            Reason::Limit => "limit",
            Reason::Policy => "policy",
            Reason::Health => "health",
            Reason::Stopped => "stopped",
            Reason::Ttl => "ttl",
            Reason::StartFailed => "start-failed",
            Reason::HostRestarted => "host-restarted",
            Reason::Killed => "killed",
            Reason::Lease => "lease",
        }
    }
}

/// The end of one run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    pub reason: Reason,
    pub code: i32,
    pub signal: i32,
    pub detail: String,
    pub at_unix_ms: i64,
    #[serde(default)]
    pub limits_hit: Vec<String>,
}

impl Exit {
    pub fn new(reason: Reason, detail: impl Into<String>) -> Exit {
        Exit {
            reason,
            code: 0,
            signal: 0,
            detail: detail.into(),
            at_unix_ms: crate::clock::unix_ms(),
            limits_hit: Vec::new(),
        }
    }

    /// A success ends a row of failures.
    pub fn is_failure(&self) -> bool {
        match self.reason {
            Reason::Exited => self.code != 0,
            Reason::Stopped | Reason::Ttl | Reason::Lease => false,
            _ => true,
        }
    }

    /// The runtime was asked for this end: no restart policy undoes it.
    pub fn was_asked_for(&self) -> bool {
        matches!(self.reason, Reason::Stopped | Reason::Ttl | Reason::Lease)
    }
}

/// What to do after an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    Stay,
    Restart { state: State, delay_ms: u64 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum When {
    Never,
    OnFailure,
    Always,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartPolicy {
    pub when: When,
    pub max_restarts: u32,
    pub first_delay_ms: u64,
    pub max_delay_ms: u64,
    pub crash_loop_after: u32,
    pub reset_after_ms: u64,
}

impl RestartPolicy {
    /// Decides after `exit` of a run of `ran_ms`. `in_row` counts ends in a row before it that led to a restart; the
    /// caller stores the new count. `random` (0..=65535) is the jitter: a delay is shortened by up to a quarter.
    pub fn next(&self, exit: &Exit, ran_ms: u64, in_row: u32, random: u16) -> (Next, u32) {
        let wanted = match self.when {
            When::Never => false,
            When::OnFailure => exit.is_failure(),
            When::Always => true,
        };
        if !wanted || exit.was_asked_for() {
            return (Next::Stay, in_row);
        }
        let in_row = if ran_ms >= self.reset_after_ms { 1 } else { in_row.saturating_add(1) };
        if self.max_restarts > 0 && in_row > self.max_restarts {
            return (Next::Stay, in_row);
        }
        if in_row > self.crash_loop_after {
            return (Next::Restart { state: CrashLoop, delay_ms: jitter(self.max_delay_ms, random) }, in_row);
        }
        // The first failure after a good run is most often a passing one: start again at once.
        let delay = match in_row {
            1 => 0,
            n => self.first_delay_ms.saturating_mul(1 << (n - 2).min(32)).min(self.max_delay_ms),
        };
        (Next::Restart { state: Backoff, delay_ms: jitter(delay, random) }, in_row)
    }
}

fn jitter(delay_ms: u64, random: u16) -> u64 {
    delay_ms - delay_ms / 4 * u64::from(random) / 65536
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_has_one_row_and_no_row_leads_to_itself() {
        for state in State::ALL {
            let rows: Vec<_> = MOVES.iter().filter(|(from, _)| *from == state).collect();
            assert_eq!(rows.len(), 1, "{state:?}");
            assert!(!state.may_become(state), "{state:?}");
        }
    }

    #[test]
    fn every_state_is_reached_and_all_lead_to_deleting() {
        let reach = |from: State| {
            let mut seen = vec![from];
            let mut i = 0;
            while i < seen.len() {
                let (_, next) = MOVES.iter().find(|(s, _)| *s == seen[i]).expect("a row");
                for n in *next {
                    if !seen.contains(n) {
                        seen.push(*n);
                    }
                }
                i += 1;
            }
            seen
        };
        assert_eq!(reach(Created).len(), State::ALL.len());
        for state in State::ALL {
            assert!(reach(state).contains(&Deleting), "{state:?}");
        }
    }

    fn policy(when: When) -> RestartPolicy {
        RestartPolicy {
            when,
            max_restarts: 0,
            first_delay_ms: 100,
            max_delay_ms: 1_000,
            crash_loop_after: 5,
            reset_after_ms: 10_000,
        }
    }

    fn failed() -> Exit {
        Exit { code: 1, ..Exit::new(Reason::Exited, "") }
    }

    #[test]
    fn delays_double_up_to_the_cap_and_then_it_is_a_crash_loop() {
        let p = policy(When::OnFailure);
        let mut in_row = 0;
        let mut seen = Vec::new();
        for _ in 0..7 {
            let (next, n) = p.next(&failed(), 5, in_row, 0);
            in_row = n;
            seen.push(next);
        }
        let delays = [0, 100, 200, 400, 800].map(|delay_ms| Next::Restart { state: Backoff, delay_ms });
        assert_eq!(seen[..5], delays);
        assert_eq!(seen[5..], [Next::Restart { state: CrashLoop, delay_ms: 1_000 }; 2]);
    }

    #[test]
    fn a_long_run_forgets_failures_and_what_was_asked_for_is_never_undone() {
        let p = policy(When::Always);
        assert_eq!(p.next(&failed(), 10_000, 4, 0), (Next::Restart { state: Backoff, delay_ms: 0 }, 1));
        for reason in [Reason::Stopped, Reason::Ttl, Reason::Lease] {
            assert_eq!(p.next(&Exit::new(reason, ""), 5, 0, 0).0, Next::Stay);
        }
        assert_eq!(policy(When::OnFailure).next(&Exit::new(Reason::Exited, ""), 5, 0, 0).0, Next::Stay);
        assert_eq!(policy(When::Never).next(&failed(), 5, 0, 0).0, Next::Stay);
    }

    #[test]
    fn restarts_have_a_bound_and_jitter_only_shortens_by_a_quarter() {
        let p = RestartPolicy { max_restarts: 2, ..policy(When::Always) };
        assert_ne!(p.next(&failed(), 5, 1, 0).0, Next::Stay);
        assert_eq!(p.next(&failed(), 5, 2, 0).0, Next::Stay);
        for random in [0, 1, 30_000, u16::MAX] {
            let d = jitter(1_000, random);
            assert!((750..=1_000).contains(&d), "{d}");
        }
    }
}
