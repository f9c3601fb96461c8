//! Checks: when they are due, what their answers add up to. How a probe is made stands in crate::probe.
//!
//! Three checks, apart: startup holds the others back until it succeeded; readiness only says whether the agent is ready;
//! liveness ends a run that fails it. Their clock stands still while the agent is paused.

use super::{Agent, Command};
use crate::clock;
use crate::probe;
use crate::spec::{Check, Kind, Probe, Settings};
use crate::state::{Reason, State};

#[derive(Debug)]
struct Watch {
    kind: Kind,
    check: Check,
    next_ms: u64,
    in_flight: bool,
    failures: u32,
    successes: u32,
    content: bool,
    /// What the check before saw, for checks that compare.
    cpu_usec: Option<u64>,
    io_bytes: Option<u64>,
}

/// What an answer changes.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Nothing,
    Content,
    Discontent(String),
}

impl Watch {
    fn answer(&mut self, result: Result<(), String>) -> Verdict {
        self.in_flight = false;
        match result {
            Ok(()) => {
                self.failures = 0;
                self.successes += 1;
                if !self.content && self.successes >= self.check.successes {
                    self.content = true;
                    return Verdict::Content;
                }
            }
            Err(said) => {
                self.successes = 0;
                self.failures += 1;
                if self.failures >= self.check.failures && (self.content || self.kind != Kind::Readiness) {
                    self.content = false;
                    self.failures = 0;
                    return Verdict::Discontent(said);
                }
            }
        }
        Verdict::Nothing
    }
}

#[derive(Debug)]
pub struct Checks {
    watches: Vec<Watch>,
    held_at_ms: Option<u64>,
    /// The start, or the end of the last pause: nothing is expected of an agent from before.
    awake_since_ms: u64,
}

impl Checks {
    pub fn new(settings: &Settings, now_ms: u64) -> Checks {
        let given = [
            (Kind::Startup, &settings.startup),
            (Kind::Readiness, &settings.readiness),
            (Kind::Liveness, &settings.liveness),
        ];
        let watches = given.into_iter().filter_map(|(kind, check)| {
            let check = check.clone()?;
            // A check that compares needs something to compare with: its first period passes first.
            let first = match check.probe {
                Probe::Heartbeat { .. } | Probe::Progress { .. } => check.initial_delay_ms.max(check.period_ms),
                _ => check.initial_delay_ms,
            };
            Some(Watch {
                kind,
                next_ms: now_ms + first,
                check,
                in_flight: false,
                failures: 0,
                successes: 0,
                content: false,
                cpu_usec: None,
                io_bytes: None,
            })
        });
        Checks { watches: watches.collect(), held_at_ms: None, awake_since_ms: now_ms }
    }

    /// Started up, and readiness (if it is checked) is content.
    pub fn ready(&self, started_up: bool) -> bool {
        started_up && self.watches.iter().all(|w| w.kind != Kind::Readiness || w.content)
    }

    pub fn next_ms(&self, started_up: bool) -> Option<u64> {
        self.watches.iter().filter(|w| !w.in_flight && due_in(w.kind, started_up)).map(|w| w.next_ms).min()
    }

    pub fn hold(&mut self) {
        self.held_at_ms.get_or_insert_with(clock::boottime_ms);
    }

    /// After a pause everything is due as much later as the pause was long.
    pub fn go_on(&mut self, now_ms: u64) {
        let Some(held_at) = self.held_at_ms.take() else { return };
        self.awake_since_ms = now_ms;
        let pause = now_ms.saturating_sub(held_at);
        for watch in &mut self.watches {
            watch.next_ms += pause;
        }
    }

    fn watch(&mut self, kind: Kind) -> Option<&mut Watch> {
        self.watches.iter_mut().find(|w| w.kind == kind)
    }
}

/// Before the agent has started up only startup is checked, afterwards never again.
fn due_in(kind: Kind, started_up: bool) -> bool {
    (kind == Kind::Startup) != started_up
}

impl Agent {
    pub(super) fn run_checks(&mut self, now: u64) {
        let started_up = self.record.started_up;
        let Some(run) = &mut self.run else { return };
        let needs_stats =
            run.health.watches.iter().any(|w| matches!(w.check.probe, Probe::Progress { .. }) && w.next_ms <= now);
        let stats = if needs_stats { self.cgroup().and_then(|c| c.stats().ok()) } else { None };
        let Some(run) = &mut self.run else { return };
        let awake_ms = now.saturating_sub(run.health.awake_since_ms);
        let mut due = Vec::new();
        for watch in &mut run.health.watches {
            if watch.in_flight || watch.next_ms > now || !due_in(watch.kind, started_up) {
                continue;
            }
            watch.next_ms = now + watch.check.period_ms;
            let input = match &watch.check.probe {
                Probe::Progress { .. } => {
                    let cpu = stats.as_ref().and_then(|s| s.cpu_usec);
                    let io = stats.as_ref().map(|s| s.read_bytes.unwrap_or(0) + s.written_bytes.unwrap_or(0));
                    let seen = probe::Progress {
                        cpu_usec: cpu.zip(watch.cpu_usec).map(|(now, before)| now.saturating_sub(before)),
                        io_bytes: io.zip(watch.io_bytes).map(|(now, before)| now.saturating_sub(before)),
                    };
                    let first = watch.cpu_usec.is_none();
                    (watch.cpu_usec, watch.io_bytes) = (cpu, io);
                    if first {
                        continue;
                    }
                    seen
                }
                _ => probe::Progress::default(),
            };
            watch.in_flight = true;
            due.push((watch.kind, watch.check.clone(), input));
        }
        for (kind, check, input) in due {
            let (shared, run) = (self.shared.clone(), self.record.run);
            let pidfd = self.run.as_ref().and_then(|r| r.pidfd.as_ref()).and_then(|p| p.get_ref().try_clone().ok());
            let target = probe::Target {
                shared: shared.clone(),
                pidfd,
                cgroup: self
                    .run
                    .as_ref()
                    .and_then(|r| r.cgroup.as_ref())
                    .and_then(|c| serde_json::to_vec(c).ok())
                    .unwrap_or_default(),
                plan: self.plan.as_ref().map(|(text, _)| text.clone()),
                who: self.who(),
                spawner: self.spawner().clone(),
                run,
                awake_ms,
            };
            tokio::spawn(async move {
                let result = probe::probe(&target, &check, input).await;
                drop(target);
                let _ = shared.send(Command::Probed { run, kind, result }).await;
            });
        }
    }

    pub(super) async fn on_probed(&mut self, kind: Kind, result: Result<(), String>) {
        let state = self.record.state;
        let Some(run) = &mut self.run else { return };
        let Some(watch) = run.health.watch(kind) else { return };
        if state != State::Running {
            // Asked before a pause: the answer of a frozen agent says nothing.
            watch.in_flight = false;
            return;
        }
        let verdict = watch.answer(result);
        match (kind, verdict) {
            (_, Verdict::Nothing) => {}
            (Kind::Startup, Verdict::Content) => {
                self.record.started_up = true;
                let ready = self.run.as_ref().is_some_and(|r| r.health.ready(true));
                let event = if ready { "ready" } else { "started-up" };
                self.commit(State::Running, event, "its startup check succeeded", None, Vec::new());
            }
            (Kind::Readiness, Verdict::Content) => self.commit(State::Running, "ready", "", None, Vec::new()),
            (Kind::Readiness, Verdict::Discontent(said)) => {
                self.commit(State::Running, "unready", &said, None, Vec::new())
            }
            (Kind::Liveness, Verdict::Content) => {}
            (Kind::Startup | Kind::Liveness, Verdict::Discontent(said)) => {
                let detail = format!("its {} check failed: {said}", kind.name());
                self.end_run(Reason::Health, &detail, self.shared.settings.grace_ms, false, Vec::new());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch(kind: Kind, failures: u32, successes: u32) -> Watch {
        let probe = Probe::Tcp { port: 1 };
        let check = Check { probe, period_ms: 10, timeout_ms: 10, initial_delay_ms: 0, failures, successes };
        Watch {
            kind,
            check,
            next_ms: 0,
            in_flight: true,
            failures: 0,
            successes: 0,
            content: false,
            cpu_usec: None,
            io_bytes: None,
        }
    }

    #[test]
    fn only_failures_in_a_row_count() {
        let mut w = watch(Kind::Liveness, 3, 1);
        let no = || Err("no".to_owned());
        assert_eq!(w.answer(no()), Verdict::Nothing);
        assert_eq!(w.answer(no()), Verdict::Nothing);
        assert_eq!(w.answer(Ok(())), Verdict::Content);
        assert_eq!(w.answer(no()), Verdict::Nothing);
        assert_eq!(w.answer(no()), Verdict::Nothing);
        assert_eq!(w.answer(no()), Verdict::Discontent("no".into()));
    }

    #[test]
    fn readiness_comes_and_goes_and_is_told_once() {
        let mut w = watch(Kind::Readiness, 1, 2);
        assert_eq!(w.answer(Err("not yet".into())), Verdict::Nothing);
        assert_eq!(w.answer(Ok(())), Verdict::Nothing);
        assert_eq!(w.answer(Ok(())), Verdict::Content);
        assert_eq!(w.answer(Ok(())), Verdict::Nothing);
        assert_eq!(w.answer(Err("gone".into())), Verdict::Discontent("gone".into()));
        assert_eq!(w.answer(Err("gone".into())), Verdict::Nothing);
    }

    #[test]
    fn startup_holds_the_others_back() {
        for kind in [Kind::Readiness, Kind::Liveness] {
            assert!(!due_in(kind, false) && due_in(kind, true));
        }
        assert!(due_in(Kind::Startup, false) && !due_in(Kind::Startup, true));
    }

    #[test]
    fn a_pause_moves_what_is_due() {
        let mut checks =
            Checks { watches: vec![watch(Kind::Liveness, 1, 1)], held_at_ms: Some(1_000), awake_since_ms: 0 };
        checks.watches[0].in_flight = false;
        checks.watches[0].next_ms = 1_500;
        checks.go_on(61_000);
        assert_eq!(checks.next_ms(true), Some(61_500));
        assert_eq!(checks.awake_since_ms, 61_000);
    }
}
