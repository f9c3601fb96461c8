"""What the events of a trace come to at lifecycle fidelity: the tasks that they submit, and what follows their end."""

import heapq
from collections import Counter, defaultdict, deque
from enum import IntEnum
from functools import partial
from typing import Any

import numpy as np
import simpy

from gpve.model.columns import FOREVER, Nodes
from gpve.model.kinds import KINDS, Kind
from gpve.model.reasons import Reason
from gpve.scheduler.policy import Policy
from gpve.tasks.errors import Forbidden
from gpve.tasks.flows.node_drain import LOOK_S
from gpve.tasks.ha import ACTOR
from gpve.tasks.ledger import Row
from gpve.tasks.state import CLOSED, Status
from gpve.tasks.submit import request, resume
from gpve_sim.kernel.tables import ADD
from gpve_sim.trace import Trace
from gpve_sim.workload import node_events
from gpve_sim.world.archive import Archive
from gpve_sim.world.later import Later
from gpve_sim.world.lives import LIVES, Life, phases_of
from gpve_sim.world.migrations import Migration, migration_of
from gpve_sim.world.node_outages import NodeOutages
from gpve_sim.world.outages import FIRST_BACKOFF_S, LONGEST_BACKOFF_S, Failures, Uptime
from gpve_sim.world.profile import Profile
from gpve_sim.world.trace_placer import TracePlacer
from gpve_sim.world.trace_world import world_of

NEVER = float("inf")
AGAIN_S = 1.0
TRIES = 5
"""How often somebody whose guest was not made asks again, when it was not for want of room."""
SHARED: dict[str, dict[str, Any]] = {
    "vm": {"disks": [{"pool": "shared", "size_gib": 8}]},
    "vcluster": {"pool": "shared"},
}
"""By kind: where a guest with ha has its volumes."""


class Order(IntEnum):
    """What lies ahead, as ordered at equal times. Rounds of the queue, arrivals and deadlines come after all of it."""

    DEPARTURE = 0
    NODE = 1
    PHASE = 2
    CRASH = 3
    FAIL = 4


class Drive:
    """Hands the events of a trace to an engine."""

    def __init__(
        self,
        trace: Trace,
        nodes: Nodes,
        policy: Policy,
        seed: int,
        profile: Profile,
        queue: str,
        failures: Failures,
    ) -> None:
        self.env = simpy.Environment(initial_time=min(0.0, float(trace.guests.arrival_s.min(initial=0.0))))
        self.trace = trace
        self.placer = TracePlacer(trace, nodes, policy, seed, queue, lambda: self.env.now)
        self.world = world_of(self.env, trace.guests, nodes, self.placer, profile, queue)
        self.queue = self.placer.queue
        self.store = self.world.store
        self.archived = {"task": Archive("task"), "event": Archive("event")}
        self.lives: dict[int, Life] = {}
        self.tasks: dict[str, Counter[str]] = defaultdict(Counter)
        self.flow_of: dict[int, tuple[str, Life]] = {}
        self.running_s = np.full(len(trace.guests), np.nan)
        self.ahead: list[tuple[float, int, int, str]] = []
        """A heap of (time, `Order`, row of the guest or of the node event, flow or name of the node)."""
        self._deadlines: list[tuple[float, int]] = []
        """A heap of (time, row): until when guests may wait."""
        self._phases = phases_of(trace)
        self.failures = failures
        self.uptime = Uptime(len(trace.guests))
        self.outages = NodeOutages(self.world, failures, self._fell, self._returned)
        self._life_of: dict[int, Life] = {}
        """By the guest's number."""
        self._on: dict[str, set[int]] = defaultdict(set)
        """By node: the rows of the guests that run there."""
        self.node_tasks: set[int] = set()
        """Drains and openings that the trace asks for."""
        self._ended: list[int] = []
        """Tasks that are over, and still in the store."""
        self.migrations: list[Migration] = []
        self._crashes: dict[int, np.random.Generator] = {}
        self._stuck: list[int] = []
        self._until = float(
            np.where(trace.guests.departure_s < FOREVER, trace.guests.departure_s, -NEVER).max(initial=0)
        )
        self._until = max(self._until, float(trace.guests.arrival_s.max(initial=0.0)))
        self._node_events = node_events(nodes).rows()
        for row, (at, _, _) in enumerate(self._node_events):
            heapq.heappush(self.ahead, (at, Order.NODE, row, ""))
        for name in nodes.names:
            self._fail_next(name)
        self.world.over = self._over
        self.world.start(1)

    def arrive(self, g: int) -> None:
        """Create a guest, and start it."""
        guests = self.trace.guests
        body: dict[str, Any] = {
            "name": f"g{g}",
            # A trace may say that a guest needs nothing of one; a guest that is created must ask for something.
            "cpu_milli": max(1, int(guests.cpu_milli[g])),
            "memory_mib": max(1, int(guests.memory_mib[g])),
        }
        if guests.gpu_count is not None and guests.gpu_milli is not None:
            body |= {"gpu_count": int(guests.gpu_count[g]), "gpu_milli": int(guests.gpu_milli[g])}
        if self.failures.ha and self.failures.node_mtbf_s < NEVER:
            body["ha"] = True
            body |= SHARED.get(KINDS[int(guests.kind[g])], {})
        life = self.lives.get(g)
        if life is None:
            life = self.lives[g] = Life(g)
        life.busy = True
        life.tries += 1
        if guests.deadline_s is not None and guests.deadline_s[g] < FOREVER:
            heapq.heappush(self._deadlines, (float(guests.deadline_s[g]), g))
        if life.tries > 1:
            body["name"] += f"-{life.tries}"
        self._submit(f"{KINDS[int(guests.kind[g])]}_create", body, life)

    def _submit(self, flow: str, body: dict[str, Any], life: Life) -> None:
        def then(answer: Any) -> None:
            if isinstance(answer, Forbidden):
                # High availability was quicker: again a little later.
                life.busy = False
                life.due.appendleft(flow)
                Later(self.env, AGAIN_S, self._next, life)
                return
            if isinstance(answer, Exception):
                raise answer
            self.flow_of[answer["id"]] = (flow, life)
            life.guest = int(answer["target"])
            self.placer.row_of[life.guest] = life.row
            self._life_of[life.guest] = life

        self.world.engines[0].submit(request(self.world.flows, flow, body), then)

    def depart(self, g: int) -> None:
        """End a guest."""
        life = self.lives[g]
        life.over = True
        self.uptime.end(g, self.env.now)
        life.due.clear()
        life.due.extend(LIVES[KINDS[int(self.trace.guests.kind[g])]])
        self._next(life)

    def change(self, g: int, flow: str) -> None:
        """An agent falls idle or goes on."""
        life = self.lives[g]
        if not life.over:
            life.due.append(flow)
            self._next(life)

    def crash(self, g: int) -> None:
        """An agent's process ends by itself; its node starts it again after a while."""
        life = self.lives.get(g)
        if life is None or life.over or self.uptime.is_down(g):
            return
        now, backoff_s = self.env.now, min(LONGEST_BACKOFF_S, FIRST_BACKOFF_S * 2.0**life.crashes)
        life.crashes += 1
        self.uptime.down(g, now)
        self.uptime.up(g, now + backoff_s)
        self._crash_next(g, now + backoff_s)

    def change_node(self, event: int) -> None:
        """A node joins, or is drained: as the row of the node events says."""
        _, kind, n = self._node_events[event]
        flow = "node_open" if kind == ADD else "node_drain"
        self.queue.freed = True

        def then(answer: Any) -> None:
            if isinstance(answer, Exception):
                raise answer
            self.node_tasks.add(answer["id"])
            self._see_to_drain(answer["id"])

        body = {"node": self.placer.names[n]}
        self.world.engines[0].submit(request(self.world.flows, flow, body), then)

    def _see_to_drain(self, task: int) -> None:
        """What a drain submits is found by the sweeps of production; here nobody sweeps."""
        if task in self.node_tasks:
            self.world.engines[0].look()
            Later(self.env, LOOK_S, self._see_to_drain, task)

    def _crash_next(self, g: int, after: float) -> None:
        if self.failures.agent_mtbf_s < NEVER and self.trace.guests.kind[g] == Kind.AGENT:
            lots = self._crashes.setdefault(g, self.failures.agent_lots(g))
            at = after + float(lots.exponential(self.failures.agent_mtbf_s))
            heapq.heappush(self.ahead, (at, Order.CRASH, g, ""))

    def _fail_next(self, name: str) -> None:
        at = self.env.now + self.outages.until_next(name)
        if at < self._until:
            heapq.heappush(self.ahead, (at, Order.FAIL, 0, name))

    def _fell(self, name: str) -> None:
        for row in self._on[name]:
            self.uptime.down(row, self.env.now)

    def _returned(self, name: str) -> None:
        self._fail_next(name)
        stuck, self._stuck = self._stuck, []
        for task in stuck:
            # What an operator does once the node is back.
            self.world.engines[0].see_to(partial(resume, task=task))

    def _next(self, life: Life) -> None:
        if life.busy or not life.due or (life.node is not None and not self.outages.is_up(life.node)):
            return
        guest = self.store.tables["guest"][life.guest,]
        if guest["task"] is not None:
            # High availability is at work on it: afterwards.
            return
        stopped, due = guest["phase"] == "stopped", life.due[0]
        if stopped and life.over:
            life.due = deque(LIVES[guest["kind"]][1:])
        elif stopped and not due.endswith("_start"):
            # Its owner finds it stopped, and starts it again.
            life.due.appendleft(f"{guest['kind']}_start")
        elif guest["phase"] == "running" and due.endswith(("_resume", "_start")):
            life.due.popleft()
            self._next(life)
            return
        life.busy = True
        self._submit(life.due.popleft(), {"guest": life.guest}, life)

    def _over(self, task: int, status: Status) -> None:
        row = self.store.tables["task"][task,]
        flow = row["flow"]
        self.tasks[flow][str(status)] += 1
        asked = self.flow_of.get(task)
        life = asked[1] if asked else None if flow.startswith("node_") else self._life_of.get(int(row["target"]))
        if status not in CLOSED:
            self._stuck.append(task)
            return
        self.flow_of.pop(task, None)
        if life is not None and self.queue.task_of(life.row) == task:
            self.queue.give_up(life.row)
        self.node_tasks.discard(task)
        # A drain counts how often it has tried to move a guest: its migrations are kept as long as it is.
        self._ended.append(task)
        if flow == "vm_migrate" and status is Status.DONE and life is not None:
            self._moved(life.row, self.store.find("event", {"task": task}))
        if not self.node_tasks:
            self._take_out()
        if row["actor"] == ACTOR:
            # What high availability has done may have asked for more.
            self.world.engines[0].look()
        if flow == "node_survey":
            self._surveyed(row["target"])
        if flow.startswith("node_") and (flow, status) != ("node_drain", Status.DONE):
            # It may take guests again.
            self.queue.freed = True
        if life is None:
            return
        if asked is not None:
            life.busy = False
        if status is Status.DONE:
            self._done(flow, life)
        else:
            self._undone(flow, life, str(row["reason"]))
        self._next(life)

    def _take_out(self) -> None:
        for task in self._ended:
            row, log = self.store.take_out(task)
            self.archived["task"].add([row])
            self.archived["event"].add(log)
            self.world.nodes.forget_effects(task)
            self.world.nodes.forget(task, row["epoch"])
        self._ended.clear()

    def _moved(self, g: int, log: list[Row]) -> None:
        self.migrations.append(migration_of(g, log))
        self.uptime.still(g, self.migrations[-1].still_s)

    def _done(self, flow: str, life: Life) -> None:
        if flow.endswith("_delete"):
            self._settle_down(life, None)
            del self.lives[life.row], self._life_of[life.guest]
            life.due.clear()
            return
        guest = self.store.tables["guest"][life.guest,]
        if guest["phase"] == "running":
            self._settle_down(life, guest["node"])
            if self.outages.is_up(guest["node"]):
                self.uptime.up(life.row, self.env.now)
        if flow.endswith("_create"):
            self._begin(life.row)

    def _undone(self, flow: str, life: Life, reason: str) -> None:
        if not flow.endswith("_create"):
            if life.guest in self._life_of and not flow.endswith(("_recover", "_migrate")):
                life.due.appendleft(flow)
            return
        del self._life_of[life.guest]
        if "no node fits" not in reason and not life.gave_up and life.tries < TRIES:
            self.arrive(life.row)

    def _settle_down(self, life: Life, node: str | None) -> None:
        if life.node is not None:
            self._on[life.node].discard(life.row)
        life.node = node
        if node is not None and not life.over:
            self._on[node].add(life.row)

    def _surveyed(self, name: str) -> None:
        """The store knows what survived: owners start again what did not."""
        for row in sorted(self._on[name]):
            life = self.lives[row]
            guest = self.store.tables["guest"][life.guest,]
            if guest["phase"] == "stopped" and guest["task"] is None and not life.busy:
                life.due.appendleft(f"{guest['kind']}_start")
            self._next(life)

    def _begin(self, g: int) -> None:
        """A guest runs: from now on count its life and its phases."""
        guests = self.trace.guests
        self.uptime.began[g] = self.env.now
        self._crash_next(g, self.env.now)
        self.running_s[g] = late = self.env.now - guests.arrival_s[g]
        if guests.departure_s[g] < FOREVER:
            # To the very moment that the trace says where nothing kept it waiting, and as `kernel.guests` adds it up
            # where something did.
            life_s = guests.departure_s[g] - guests.arrival_s[g]
            end = guests.departure_s[g] if late == 0.0 else self.env.now + life_s
            heapq.heappush(self.ahead, (float(end), Order.DEPARTURE, g, ""))
        for at, flow in self._phases.get(g, ()):
            heapq.heappush(self.ahead, (at + late, Order.PHASE, g, flow))

    def next_deadline(self) -> float:
        """When the next guest that waits for its first place gives up."""
        while self._deadlines:
            at, g = self._deadlines[0]
            if g in self.queue.waiting and g not in self.placer.placed:
                return at
            heapq.heappop(self._deadlines)
        return NEVER

    def give_up(self) -> None:
        """The guest of the next deadline is not waited for any longer."""
        _, g = heapq.heappop(self._deadlines)
        self.lives[g].gave_up = True
        self.world.engines[0].cancel(self.queue.waiting[g].task, Reason.DEADLINE.sentence)

    def ask_for_the_queue(self) -> None:
        """Begin a round of the queue, or go on with it."""
        if self.queue.begin_round():
            self.world.engines[0].capacity()
            self.settle()

    def settle(self) -> None:
        """Drive everything that can be done at this moment."""
        while self.env.peek() <= self.env.now:
            self.env.step()
