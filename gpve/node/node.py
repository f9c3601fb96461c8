"""One node: operations made once and fenced, and the lease by which guests with ha may run."""

import asyncio
import json
import logging
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from gpve.node.executor import CallError, Cannot, Executor, Frame, Spent
from gpve.node.journal import Journal
from gpve.tasks.advance import Operation
from gpve.tasks.operations import Make, OpKey, admit, key_of
from gpve.tasks.outcome import Done, Outcome, Refused, Unknown

LOG = logging.getLogger(__name__)
USAGE_S = 0.2
"""Over which time the use of CPU is measured."""


def clock() -> float:
    """The clock by which a lease is counted: monotonic, and it goes on while the machine sleeps. Seconds."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Node:
    """``executors``: by the kind of guest that a verb begins with (agent, vm, ...); "" for all others.

    ``machine``: what the whole machine has used; a simulated one uses nothing.
    """

    def __init__(
        self,
        name: str,
        journal: Journal,
        executors: Mapping[str, Executor],
        machine: Callable[[], Spent] = lambda: Spent(0, 0),
    ) -> None:
        self.name, self._journal, self._executors, self._machine = name, journal, executors, machine
        self._under_way: dict[OpKey, asyncio.Task[Outcome]] = {}
        self._lease_until = float("-inf")
        self._leased = False

    @property
    def leased(self) -> bool:
        """Whether guests with ha may run here now."""
        return clock() < self._lease_until

    async def grant(self, until: float) -> None:
        """A beat was acknowledged: there is a lease until then (`clock`)."""
        # They first: what is started now must not be ended by an old lease.
        if not all([await executor.lease(until) for executor in set(self._executors.values())]):
            return
        self._lease_until = max(self._lease_until, until)
        if not self._leased and self.leased:
            self._leased = True
            await self._all(lambda executor: executor.restart_ha())

    async def expire(self) -> None:
        """End what may not run any more, if the lease is over. To be called at `lease_until`, and now and then."""
        if self._leased and not self.leased:
            self._leased = False
            LOG.warning("the lease is over: guests with ha are ended", extra={"node": self.name})
            await self._all(lambda executor: executor.end_ha())

    async def _all(self, see_to: Callable[[Executor], Awaitable[None]]) -> None:
        """Of all executors, whether or not the journal can be written now: how things are is written with what is next,
        and a node agent that starts anew has no lease, whatever the journal says."""
        for executor in set(self._executors.values()):
            try:
                await see_to(executor)
                await self._journal.disk.written()
            except sqlite3.Error as error:
                LOG.warning("the journal cannot be written: %s", error, extra={"node": self.name})

    @property
    def lease_until(self) -> float:
        """When the lease is over (`clock`)."""
        return self._lease_until

    async def perform(self, operation: Operation) -> Outcome:
        """Make an operation once, or say what became of it. What is answered is on disk."""
        try:
            lost = self._journal.disk.lost
            verdict = admit(self._journal, operation)
            if not isinstance(verdict, Make):
                await self._journal.disk.written()
                return verdict
            key = key_of(operation)
            if key in self._under_way:
                return await asyncio.shield(self._under_way[key])
            if verdict.cut:
                await self._cut((operation.task, operation.step, "do"))
            making = asyncio.create_task(self._make(operation, lost))
            self._under_way[key] = making
            making.add_done_callback(lambda _: self._under_way.pop(key, None))
            # Whoever waits may go away; what was begun is brought to an end.
            return await asyncio.shield(making)
        except sqlite3.Error as error:
            LOG.warning("the journal cannot be written: %s", error, extra={"node": self.name})
            return Unknown(f"the node's journal cannot be written: {error}")
        except Exception as error:
            LOG.exception("operation %s", operation.verb, extra={"node": self.name, "task": operation.task})
            return Unknown(f"{type(error).__name__}: {error}")

    async def _cut(self, key: OpKey) -> None:
        forward = self._under_way.get(key)
        if forward is not None:
            forward.cancel()
            await asyncio.wait([forward])

    async def _make(self, operation: Operation, lost: int) -> Outcome:
        executor = self._of(operation.verb)
        if executor is not None and not executor.atomic:
            # An older owner must be refused also if we die in the middle of the effect.
            await self._journal.disk.written()
        try:
            outcome: Outcome = Done(await self._effect(operation, executor))
        except Cannot as error:
            outcome = Refused(str(error), error.again)
        except asyncio.CancelledError:
            return Unknown("cut off by its undo")
        except Exception as error:
            LOG.exception("operation %s", operation.verb, extra={"node": self.name, "task": operation.task})
            return Unknown(f"{type(error).__name__}: {error}")
        if self._journal.disk.lost != lost:
            # Its fence or tombstone may be lost: who repeats it writes them anew, and finds the effect there.
            return Unknown("the node's journal could not be written meanwhile")
        if isinstance(outcome, Done):
            self._journal.record(operation, outcome.result)
        # If this fails, nobody knows: `perform` says so, and a repetition finds the effect there.
        await self._journal.disk.written()
        return outcome

    async def _effect(self, operation: Operation, executor: Executor | None) -> dict[str, Any]:
        guests = operation.arguments.get("guests", [])
        match operation.verb:
            case "node.look":
                found: set[int] = set()
                for each in set(self._executors.values()):
                    found.update(await each.runs(guests))
                return {"runs": [guest for guest in guests if guest in found]}
            case "node.clean":
                for each in set(self._executors.values()):
                    await each.clean(guests)
                return {}
        if executor is None:
            raise Cannot(f"this node has no executor for {operation.verb}")
        return await executor.make(operation, self.leased)

    def _of(self, verb: str) -> Executor | None:
        return self._executors.get(verb.split(".")[0], self._executors.get(""))

    async def call(self, asked: Mapping[str, Any]) -> AsyncIterator[Frame]:
        """Answer a call that is no operation. Raises `CallError`."""
        if asked["verb"] == "usage":
            yield 1, json.dumps(await self._usage()).encode(), None
            return
        executor = self._executors.get("agent", self._executors.get(""))
        if executor is None:
            raise CallError("precondition", "this node runs no agents")
        async for frame in executor.call(asked):
            yield frame

    async def _usage(self) -> dict[str, Any]:
        """CPU over a short time, memory now: of the machine, and of each guest that runs for real."""
        began, machine, guests = clock(), self._machine(), await self._spent()
        await asyncio.sleep(USAGE_S)
        now = await self._spent()
        took = clock() - began
        return {
            **_use(machine, self._machine(), took),
            "guests": {guest: _use(guests[guest], now[guest], took) for guest in guests.keys() & now.keys()},
        }

    async def _spent(self) -> dict[int, Spent]:
        found: dict[int, Spent] = {}
        for executor in set(self._executors.values()):
            found |= await executor.usage()
        return found


def _use(before: Spent, now: Spent, took_s: float) -> dict[str, int]:
    cpu = max(0, now.cpu_ns - before.cpu_ns) / took_s / 1e6
    return {"cpu_milli": round(cpu), "memory_mib": now.memory_bytes >> 20}


def operation_of(told: Any, node: str) -> Operation:
    """An operation as the protocol tells it. Raises `ValueError`."""
    arguments = json.loads(told.arguments_json or b"{}")
    if told.direction not in ("do", "undo") or not isinstance(arguments, dict):
        raise ValueError("no operation of this protocol")
    return Operation(
        told.task,
        told.step,
        told.direction,
        node,
        told.verb,
        arguments,
        told.resource,
        told.epoch,
        told.tombstone,
    )
