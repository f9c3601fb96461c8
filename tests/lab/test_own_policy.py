"""A user's own policy: the same placements as in plain Python, errors with the user's line."""

from types import SimpleNamespace

import gpve_sim as lab
import numpy as np
import pytest
from gpve_sim.driver import Settings, replay_trace
from gpve_sim.policies import find_policy
from gpve_sim.trace import Trace
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpve.model import InputError
from gpve.scheduler.policy import policy
from tests import reference
from tests.worlds import clusters, guest_lists


@policy
def keep_gpus_whole(free_cpu, free_mem, free_gpu, node, req):
    """The sketch: a generator expression, as one writes it."""
    return -sum((0 < g < 1000) for g in free_gpu) + 0.001 * free_cpu / node.cpu


@policy("with-everything")
def with_everything(free_cpu, free_mem, free_gpu, node, req):
    """Score by own state."""
    return node.state[0] - abs(free_mem - 2 * req.mem) / 1e6


@with_everything.on_filter
def not_the_third(free_cpu, free_mem, free_gpu, node, req):
    return node.index != 2


@with_everything.on_device
def most_left(free_cpu, free_mem, free_gpu, node, req):
    return free_gpu.argmax()


@with_everything.on_change
def count(free_cpu, free_mem, free_gpu, node, req, change):
    node.state[0] += change * req.cpu / 1000.0


class Plain(reference.Reference):
    """The reference with the user's functions called as plain Python."""

    own = None

    def parts(self, g, i):
        n = self.nodes[i]
        free_gpu = np.array([*n.free_gpu, *([-1] * (max(m.gpus for m in self.nodes) - n.gpus))], dtype=np.int32)
        node = SimpleNamespace(cpu=n.cpu, mem=n.mem, index=i, gpu_count=n.gpus, state=self.state[i])
        req = SimpleNamespace(cpu=g.cpu, mem=g.mem, gpu_count=g.gpus, gpu_milli=g.milli)
        return n.free_cpu, n.free_mem, free_gpu, node, req

    def run(self):
        self.state = np.zeros((len(self.nodes), 16))
        return super().run()

    def why_not(self, g, n, grouped=True):
        verdict = super().why_not(g, n, grouped)
        asked = grouped and verdict in (reference.Reason.FITS, reference.Reason.GROUP) and self.own.allows is not None
        if asked and not self.own.allows(*self.parts(g, self.nodes.index(n))):
            return reference.Reason.POLICY
        return verdict

    def find(self, g):
        verdicts = [self.why_not(g, n) for n in self.nodes]
        fitting = [i for i, v in enumerate(verdicts) if v is reference.Reason.FITS]
        if not fitting:
            return -1, max(verdicts)
        return max(fitting, key=lambda i: (self.own.score(*self.parts(g, i)), -i)), None

    def devices(self, g, n):
        if g.gpus == 1 and g.milli < 1000 and self.own is with_everything:
            return [int(self.own.device(*self.parts(g, self.nodes.index(n))))]
        return super().devices(g, n)

    def claim(self, g, i):
        super().claim(g, i)
        if self.own.keeps:
            self.own.keep(*self.parts(g, i), 1)

    def leave(self, g, move=False):
        i = g.node
        super().leave(g, move)
        if self.own.keeps:
            self.own.keep(*self.parts(g, i), -1)


@pytest.mark.parametrize("own", [keep_gpus_whole, with_everything], ids=lambda p: p.name)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_like_plain_python(own, data):
    """Compiled and plain make the same placements, filter, device choice and state included."""
    guests, nodes = data.draw(guest_lists()), data.draw(clusters(moves=False))
    queue = data.draw(st.sampled_from(["drop", "backfill"]))
    replayed = replay_trace(Trace("random", guests, nodes), own, settings=Settings(queue=queue))
    plain = Plain(guests, nodes, own.name, queue)
    plain.own = own
    plain.run()
    assert replayed.run.node.tolist() == [-1 if g.first is None else g.first[0] for g in plain.guests]
    if len(replayed.run.devices):
        bits = [0 if g.first is None else sum(1 << d for d in g.first[1]) for g in plain.guests]
        assert replayed.run.devices.tolist() == bits


def test_from_a_file(tmp_path, gpve):
    """``--policy file.py:name``, a plain function or a decorated one."""
    file = tmp_path / "mine.py"
    file.write_text(
        "import gpve_sim as lab\n\n"
        "def last(free_cpu, free_mem, free_gpu, node, req):\n    return node.index\n\n"
        "@lab.policy('first')\ndef other(free_cpu, free_mem, free_gpu, node, req):\n    return -node.index\n"
    )
    trace = lab.load("generated/azure-like", guests=200)
    assert lab.replay(trace, f"{file}:last").placements.node[0] == trace.nodes.names[-1]
    assert lab.replay(trace, f"{file}:other").placements.equals(lab.replay(trace, "first-fit").placements)
    assert gpve("replay", "generated/azure-like", "--policy", f"{file}:nobody").code == 2


ERRORS = {
    "misspelt": (
        "def p(free_cpu, free_mem, free_gpu, node, req):\n    x = 1\n    return node.cpus * x\n", 3, "node.cpu",
    ),
    "too few parameters": ("\n\ndef p(free_cpu, node, req):\n    return 1.0\n", 3, "takes 5"),
    "not compilable": (
        "def p(free_cpu, free_mem, free_gpu, node, req):\n    y = 2\n    return open(y)\n", 3, "cannot be compiled",
    ),
    "undefined name": (
        "def p(free_cpu, free_mem, free_gpu, node, req):\n    return nothing * 2\n", 2, "nothing",
    ),
    "syntax": ("def p(free_cpu, free_mem\n    return 1\n", 1, "not Python"),
    "raises on import": ("x = 1\ny = x / 0\n", 2, "ZeroDivisionError"),
}  # fmt: skip


@pytest.mark.parametrize("case", ERRORS)
def test_errors_name_the_users_line(tmp_path, case):
    """What is wrong in the user's function is told with the user's file and line."""
    text, line, words = ERRORS[case]
    file = tmp_path / "mine.py"
    file.write_text(text)
    with pytest.raises(InputError) as told:
        _ = find_policy(f"{file}:p").compiled
    assert told.value.line == line
    assert str(told.value.file) == str(file)
    assert words in str(told.value)


@pytest.mark.parametrize("value", ["float('nan')", "float('inf')", "-1e300"])
def test_not_a_score(tmp_path, value):
    """NaN, infinity and what is below the floor are refused, with guest class and node."""
    file = tmp_path / "mine.py"
    file.write_text(f"x = {value}\ndef p(free_cpu, free_mem, free_gpu, node, req):\n    return x\n")
    with pytest.raises(InputError, match=r"not a score .* on node") as told:
        lab.replay(lab.load("generated/azure-like", guests=50), f"{file}:p")
    assert (told.value.file, told.value.line) == (str(file), 2)


@pytest.mark.parametrize("device", ["7", "-1", "free_gpu.argmin()"])
def test_not_a_device(tmp_path, device):
    """One that the node does not have, or on which too little is left: nothing is claimed of it unseen."""
    file = tmp_path / "mine.py"
    parameters = "(free_cpu, free_mem, free_gpu, node, req)"
    file.write_text(
        f"import gpve_sim as lab\n@lab.policy\ndef p{parameters}:\n    return -1.0 * node.index\n"
        f"@p.on_device\ndef d{parameters}:\n    return {device}\n"
    )
    with pytest.raises(InputError, match=r"a device that cannot take the share .* on node") as told:
        lab.replay(lab.load("generated/openb-like"), f"{file}:p")
    assert (told.value.file, told.value.line) == (str(file), 6)


def test_late_mistakes_leave_nothing(tmp_path, gpve):
    """A score that turns NaN in the middle: one sentence, exit code 2, no file, from every command that replays."""
    file, out = tmp_path / "mine.py", tmp_path / "out"
    file.write_text(
        "def p(free_cpu, free_mem, free_gpu, node, req):\n    return 1.0 if node.guests < 20 else float('nan')\n"
    )
    sweep = tmp_path / "sweep.toml"
    sweep.write_text(f'traces = ["generated/azure-like"]\npolicies = ["{file}:p"]\nseeds = 1\n')
    for command in (
        ("replay", "generated/azure-like", "--policy", f"{file}:p", "--out", out),
        ("compare", "generated/azure-like", "--policy", f"best-fit,{file}:p", "--seeds", "1", "--out", out),
        ("size", "generated/azure-like", "--node", "64c,256G", "--policy", f"{file}:p"),
        ("sweep", sweep, "--out", out / "sweep.parquet", "--workers", "1"),
    ):
        told = gpve(*command)
        assert told.code == 2, command
        assert f"{file}, line 1: policy 'p' returned something that is not a score" in told.err
        assert told.err.count("\n") == 1
        assert not [path for path in out.rglob("*") if path.is_file()]
