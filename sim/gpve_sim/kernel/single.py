"""One decision, one release, of a guest of a trace: what the world at lifecycle fidelity asks of the core."""

import numpy as np

from gpve.scheduler.compiled import entry
from gpve.scheduler.place import begin, claim, draw_of, find, release, set_open


@entry
def start_single(state, policy):
    """Let the policy write its first state."""
    begin(state, policy[2], policy[4])


@entry
def decide_single(state, policy, c, rule, g):
    """(node, devices as bits) claimed for guest ``g`` of class ``c`` under ``rule``, or (minus the reason, 0)."""
    score, device, keep, uniform, keeps, seed = policy
    draw = draw_of(seed, g)
    n = find(state, score, uniform, c, rule, draw, False)
    if n < 0:
        return n, np.int64(0)
    return n, claim(state, device, keep, keeps, c, rule, n, draw, 0)


@entry
def release_single(state, policy, c, rule, n, devices):
    """Give back what `decide_single` claimed."""
    release(state, policy[2], policy[4], c, rule, n, devices)


@entry
def open_single(state, n, is_open):
    """Let node ``n`` take guests, or not; those on it stay."""
    set_open(state, n, is_open)
