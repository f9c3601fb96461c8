"""The inputs of the FGD evaluation, drawn as its authors drew them: Go's math/rand with one global source.

Go's source is an additive lagged Fibonacci generator, y[n] = y[n-607] + y[n-273] modulo 2^63, whose start is a linear
congruential generator's, mixed with the state that another such start reaches after 7.8e12 steps. Nobody walks those
steps: the state after N of them is linear in the first one, by x^N modulo x^607 - x^334 - 1.
"""

from functools import cache

import numpy as np

LENGTH, TAP = 607, 273
JUMP = 7_800_000_000_000
REFLECTORS = 10
"""Numbers between 0 and 1 that the simulated API server draws after the copies and before the order of nodes."""
LOAD = 1.3
"""Copies arrive up to so much of the cluster's GPUs."""


def _congruential(seed, shifts):
    """The values that fill a register: three numbers of the congruential generator each, put over one another."""
    x, out = seed % 0x7FFFFFFF, []
    for i in range(-20, LENGTH):
        x = 48271 * x % 0x7FFFFFFF
        if i < 0:
            continue
        value = x << shifts[0]
        x = 48271 * x % 0x7FFFFFFF
        value ^= x << shifts[1]
        x = 48271 * x % 0x7FFFFFFF
        out.append(value ^ x)
    return out


def _times(a, b):
    """The product of two polynomials modulo x^607 - x^334 - 1, coefficients modulo 2^64."""
    wide = np.convolve(a, b)
    with np.errstate(over="ignore"):  # overflowing is the modulus
        for k in range(len(wide) - 1, LENGTH - 1, -1):
            wide[k - LENGTH] += wide[k]
            wide[k - TAP] += wide[k]
    return wide[:LENGTH]


@cache
def _mixed_in():
    """The register after `JUMP` steps from seed 1, in the order of its places."""
    places = [(LENGTH - TAP - 1 - k) % LENGTH for k in range(LENGTH)]  # the place that step k writes
    first = _congruential(1, (20, 10))
    known = np.zeros(2 * LENGTH, np.uint64)
    known[:LENGTH] = [first[place] for place in places]
    for k in range(LENGTH, 2 * LENGTH):
        known[k] = known[k - LENGTH] + known[k - TAP]
    power = np.zeros(LENGTH, np.uint64)
    power[0] = 1
    x = np.zeros(LENGTH, np.uint64)
    x[1] = 1
    for bit in f"{JUMP:b}":
        power = _times(power, power)
        if bit == "1":
            power = _times(power, x)
    out = [0] * LENGTH
    for i in range(LENGTH):
        out[places[(JUMP + i) % LENGTH]] = int((power * known[i : i + LENGTH]).sum())
    return out


class GoRandom:
    """math/rand's Rand over its own source."""

    def __init__(self, seed):
        pairs = zip(_congruential(seed, (40, 20)), _mixed_in(), strict=True)
        self.register = [(a ^ b) & (1 << 63) - 1 for a, b in pairs]
        self.steps = 0

    def int63(self):
        """63 bits."""
        self.steps += 1
        feed, tap = (LENGTH - TAP - self.steps) % LENGTH, -self.steps % LENGTH
        self.register[feed] = (self.register[feed] + self.register[tap]) & (1 << 63) - 1
        return self.register[feed]

    def below(self, n):
        """Intn: by remainder, what would favour small numbers drawn again."""
        most = (1 << 31) - 1 - (1 << 31) % n
        while (value := self.int63() >> 32) > most:
            pass
        return value % n

    def shuffled(self, items):
        """Shuffle: from the end, each place by a multiplication."""
        items = list(items)
        for i in range(len(items) - 1, 0, -1):
            n = i + 1
            while (product := (self.int63() >> 31) * n) % (1 << 32) < (1 << 32) % n:
                pass
            j = product >> 32
            items[i], items[j] = items[j], items[i]
        return items

    def permutation(self, n):
        """Perm."""
        out = []
        for i in range(n):
            j = self.below(i + 1)
            out.append(i)
            out[i], out[j] = out[j], i
        return out


def drawn(guests, nodes, seed):
    """(names of pods in order of arrival, names of nodes in order of ties) of one seed of the evaluation."""
    rng = GoRandom(seed)
    rng.int63()
    pods = sorted(
        zip(guests.ids.to_pylist(), guests.gpu_milli.tolist(), guests.gpu_count.tolist(), strict=True),
        key=lambda pod: pod[0],
    )
    arrivals = rng.shuffled([name for name, _, _ in pods])
    wanted = LOAD * 1000 * int(nodes.gpu_count.sum())
    total = sum(milli * count for _, milli, count in pods)
    copies = 0
    while True:
        name, milli, count = pods[rng.below(len(pods))]
        if total + milli > wanted:
            break
        arrivals.append(f"{name}-tuned-{copies}")
        total += milli * count
        copies += 1
    for _ in range(REFLECTORS):
        rng.int63()
    place = rng.permutation(len(nodes))
    return arrivals, [name for _, name in sorted(zip(place, sorted(nodes.names), strict=True))]
