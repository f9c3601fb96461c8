"""Watching, without a server: what is said when nothing happens, and what is gone."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import Request

from gpve.server import watch
from gpve.server.http.streams import _never_quiet, _stream
from gpve.store.database import connect, migrate
from gpve.store.sql import SqlStore
from gpve.tasks.flows.guests import no_use
from gpve.tasks.ledger import Tx, Work
from gpve.tasks.retention import Compacted
from gpve.v1 import node_pb2 as pb

NODE = {"name": "a", "open": True, "alive": True, "cpu_milli": 1000, "memory_mib": 1024, "gpus": "[1000]"}
NODE |= {"gpu_model": "", "labels": '{"rack":"1"}', "taints": "[]", "used_cpu_milli": 0, "used_memory_mib": 0}
NODE |= {"used_gpu_milli": "[0]", "version": 1}


class Access:
    """The store without a server; `busy`: each reading of the revision comes after somebody's change."""

    def __init__(self, store: SqlStore, busy: bool = False) -> None:
        self.store, self.busy = store, busy

    async def read(self, ask: Any, *arguments: Any) -> Any:
        if self.busy and ask == self.store.revision:
            change(self.store, lambda tx: tx.put("quota", {**no_use("p"), "guests": tx.take("guest")}))
        await asyncio.sleep(0)
        return ask(*arguments)

    async def one(self, table: str, number: int) -> Any:
        return {"revision": 7, "status": "waiting", "poison": None}


def change(store: SqlStore, run: Any) -> None:
    (answer,) = store.transact([Work(run)])
    assert not isinstance(answer, Exception), answer


@pytest.fixture
def store(tmp_path: Path) -> SqlStore:
    engine = connect(f"sqlite:///{tmp_path / 'gpve.db'}")
    migrate(engine)
    return SqlStore(engine)


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "QUIET_S", 0.05)
    monkeypatch.setattr(watch, "LOOK_S", 0.001)


async def several(stream: AsyncIterator[Any], count: int) -> list[Any]:
    found = []
    async with asyncio.timeout(20.0):
        async for each in stream:
            found.append(each)
            if len(found) == count:
                break
    return found


@pytest.mark.parametrize("busy", [False, True])
def test_a_watcher_hears_that_there_is_nothing_whatever_others_do(store: SqlStore, busy: bool) -> None:
    async def heard() -> list[Any]:
        pulse = watch.Pulse(Access(store, busy))  # type: ignore[arg-type]
        return await several(watch.changes(pulse, None, ["alarm"]), 3)

    assert asyncio.run(heard()) == [(None, False)] * 3


@pytest.mark.parametrize("busy", [False, True])
def test_a_follower_of_a_task_that_waits_hears_so(store: SqlStore, busy: bool) -> None:
    async def heard() -> list[Any]:
        return await several(watch.task(watch.Pulse(Access(store, busy)), 1), 3)  # type: ignore[arg-type]

    row, *nothing = asyncio.run(heard())
    assert (row["status"], nothing) == ("waiting", [None, None])


def test_output_that_pauses_is_no_broken_stream() -> None:
    async def frames(goes_on: asyncio.Event) -> AsyncIterator[pb.CallFrame]:
        yield pb.CallFrame(data=b"x")
        await goes_on.wait()
        yield pb.CallFrame(data=b"y")

    async def heard() -> list[Any]:
        goes_on, found = asyncio.Event(), []
        async for frame in _never_quiet(frames(goes_on)):
            found.append(None if frame is None else frame.data)
            if found.count(None) == 2:
                goes_on.set()
        return found

    first, *nothing, last = asyncio.run(heard())
    assert (first, last, set(nothing)) == (b"x", b"y", {None})


def test_what_is_compacted_is_refused_before_anything_is_said(store: SqlStore) -> None:
    change(store, lambda tx: tx.put("counter", {"name": "compacted", "value": 5}))
    for tables in (["guest"], ["event"]):
        changes = watch.changes(watch.Pulse(Access(store)), 0, tables)  # type: ignore[arg-type]
        with pytest.raises(Compacted):
            asyncio.run(several(changes, 1))


def test_a_change_looks_like_what_is_asked_for_by_itself(store: SqlStore) -> None:
    spec = '{"cpu_milli":5}'
    guest = {"id": 100, "kind": "vm", "name": "web", "project": "p", "phase": "creating", "phase_before": None}

    def made(tx: Tx) -> None:
        tx.put("node", NODE)
        tx.put("guest", {**guest, "task": 1, "node": None, "spec": spec})
        tx.put("volume", {"id": "v", "guest": 100, "pool": "local", "node": None, "size_gib": 1, "task": None})

    change(store, made)

    async def heard() -> list[Any]:
        changes = watch.changes(watch.Pulse(Access(store)), 0, watch.TABLES)  # type: ignore[arg-type]
        return [change for change, _ in await several(changes, 3)]

    rows = {change["table"]: change["row"] for change in asyncio.run(heard())}
    assert rows["guest"]["spec"] == {"cpu_milli": 5}
    assert "phase_before" not in rows["guest"]
    assert (rows["node"]["gpus"], rows["node"]["labels"]) == ([1000], {"rack": "1"})
    assert "version" not in rows["node"]
    assert rows["volume"]["size_gib"] == 1


def test_what_breaks_a_stream_later_has_the_id_of_the_request() -> None:
    async def events() -> AsyncIterator[bytes]:
        yield b": nothing yet\n\n"
        raise Compacted(1, 5)

    async def sent() -> list[Any]:
        request = Request({"type": "http", "request_id": "mine"})
        response: Any = await _stream(request, events())
        return [part async for part in response.body_iterator]

    _, last = asyncio.run(sent())
    assert last.startswith(b"event: problem\n")
    told = json.loads(last.partition(b"data: ")[2])
    assert (told["status"], told["instance"]) == (410, "urn:gpve:request:mine")
