"""Engines forget what is over after its time, and nothing else."""

from gpve.tasks.worker import Rules
from tests.tasks.worlds import make_world, run, statuses, submit


def test_an_engine_forgets_what_has_been_over_for_long():
    world = make_world(rules=Rules(lease_s=20.0, sweep_s=10.0, keep_s=1000.0))
    world.start(2)
    for at in range(120):
        submit(world, "five", {"alone": [f"x{at}"]}, key=f"k{at}")
    world.env.run(500.0)
    assert statuses(world) == ["done"] * 120
    submit(world, "five", {})
    world.nodes.by_name["a"].up = False
    submit(world, "five", {})
    world.env.run(1200.0)
    assert [row["id"] for row in world.store.rows("task")] == [121, 122]
    assert world.store.rows("idempotency") == []
    world.nodes.by_name["a"].up = True
    assert run(world) == []
