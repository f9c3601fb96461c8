"""What a replay writes down as time passes: the log of events, the rows of the timeline, the integrals."""

from gpve.scheduler.compiled import kernel, outlined
from gpve_sim.kernel.tables import (
    A_ARRIVAL,
    A_FAILED,
    A_LOG,
    A_PLACED,
    A_ROWS,
    A_SAMPLE,
    FAILED,
    QUANTITIES,
    RECORDED,
    T_ARRIVED,
    T_ARRIVED_GPU,
    T_FAILED,
    T_PLACED,
    T_QUANTITIES,
    T_REASONS,
    T_TIME,
)


@kernel
def log(run, time, guest, node, event, reason):
    at = run.at[A_LOG]
    run.log[at, 0] = time
    run.log[at, 1] = guest
    run.log[at, 2] = node
    run.log[at, 3] = event
    run.log[at, 4] = reason
    run.at[A_LOG] = at + 1


@outlined
def row_now(run, time):
    """Write a row of the timeline."""
    at = run.at[A_ROWS]
    row = run.timeline[at]
    row[T_TIME] = time
    row[T_ARRIVED] = run.at[A_ARRIVAL]
    row[T_ARRIVED_GPU] = run.clock[1]
    row[T_PLACED] = run.at[A_PLACED]
    row[T_FAILED] = run.at[A_FAILED]
    for q in range(QUANTITIES):
        row[T_QUANTITIES + q] = run.now[q]
    for r in range(run.reasons.shape[0]):
        row[T_REASONS + r] = run.reasons[r]
    run.at[A_ROWS] = at + 1


@kernel
def advance(load, run, time):
    """Let time pass up to the next event: integrals, and the timeline rows that lie between."""
    before = run.clock[0]
    if time <= before:
        return
    samples = load.sample_times
    while run.at[A_SAMPLE] < samples.shape[0] and samples[run.at[A_SAMPLE]] < time:
        row_now(run, samples[run.at[A_SAMPLE]])
        run.at[A_SAMPLE] += 1
    passed = time - before
    for q in range(RECORDED):
        run.integral[q] += run.now[q] * passed
    run.clock[0] = time


@outlined
def fail(run, g, time, reason):
    run.at[A_FAILED] += 1
    run.reasons[reason] += 1
    log(run, time, g, -1, FAILED, reason)
