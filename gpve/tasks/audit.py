"""Every invariant that can be read off the store, and off the nodes where their contents are given.

`audit` finds nothing on a healthy cluster, at any moment and after any accident; there is no verb that repairs what it
finds, because what it finds is a defect of GPVE. Each finding is a sentence that names the rows concerned.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from gpve.model.phases import STEADY
from gpve.tasks.claims import overdrawn
from gpve.tasks.errors import CorruptLog
from gpve.tasks.events import Event, Kind, decode, from_rows
from gpve.tasks.flow import Flow, Flows
from gpve.tasks.ledger import Row
from gpve.tasks.replay import divergences
from gpve.tasks.state import CLOSED, At, Status, fold

Reader = Callable[[str], list[Row]]
"""All rows of a table."""
Inventory = Mapping[str, Mapping[str, Mapping[Any, Any]]]
"""By node and kind of thing (volumes, ports, machines, ...): what is there, by key."""


def audit(read: Reader, flows: Flows, nodes: Inventory | None = None) -> list[str]:
    """All findings; an empty list is good news. ``nodes`` leaves out the nodes that do not answer."""
    findings = [*_tasks(read, flows), *_locks(read, flows), *audit_guests(read)]
    if nodes is not None:
        findings += _nodes(read, nodes)
    return findings


def audit_guests(read: Reader) -> list[str]:
    """What is wrong with guests, claims and quota: the part that does not read the logs, and so is quick."""
    return [*_guests(read), *_claims(read), *_quota(read)]


def _tasks(read: Reader, flows: Flows) -> Iterator[str]:
    logs: dict[int, list[Row]] = defaultdict(list)
    for row in read("event"):
        logs[row["task"]].append(row)
    tasks = {row["id"]: row for row in read("task")}
    alarms = {row["task"] for row in read("alarm")}
    for task, row in tasks.items():
        if row["poison"] is not None:
            if task not in alarms:
                yield f"task {task} cannot be driven and has no alarm"
            continue
        flow = flows.of(row)
        if flow is None:
            # Of another version of GPVE: what its log says is for that version to judge.
            continue
        try:
            events = from_rows(task, sorted(logs[task], key=lambda e: e["seq"]))
        except CorruptLog as error:
            yield str(error)
            continue
        state = fold(events)
        if state.seq != row["seq"] or str(state.status) != row["status"]:
            yield f"task {task}: its row says {row['status']} at {row['seq']}, its log {state.status} at {state.seq}"
        if (row["status"] == Status.STUCK) != (task in alarms):
            yield f"task {task} is {row['status']}, and {'has' if task in alarms else 'has no'} alarm"
        if row["status"] in (*CLOSED, Status.STUCK) and row["owner"] is not None:
            yield f"task {task} is {row['status']} and owned by {row['owner']}"
        yield from (f"task {task}: {problem}" for problem in check_log(flow, events))
        body = flow.body.model_validate_json(row["body"], strict=False)
        yield from (f"task {task}: {problem}" for problem in divergences(flow, task, body, events))
    closed = {task for task, row in tasks.items() if row["status"] in CLOSED}
    for table in ("lock", "outbox", "alarm"):
        for row in read(table):
            if row["task"] in closed or row["task"] not in tasks:
                yield f"{table} {row}: task {row['task']} is over"
    for row in read("idempotency"):
        if row["task"] not in tasks:
            yield f"idempotency key {row['key']!r} names task {row['task']}, which is not there"
    sent = {(row["task"], row["step"], row["direction"]) for row in read("outbox")}
    for task, row in tasks.items():
        if row["status"] in CLOSED or row["poison"] is not None or flows.of(row) is None:
            continue
        with suppress(CorruptLog):
            state = fold(from_rows(task, sorted(logs[task], key=lambda e: e["seq"])))
            due = {(task, name, DIRECTION[step.at]) for name, step in state.steps.items() if step.at in DIRECTION}
            for key in due ^ {key for key in sent if key[0] == task}:
                yield f"task {task}, step {key[1]}, {key[2]}: {'not' if key in due else 'still'} in the outbox"


DIRECTION = {At.SENT: "do", At.UNDOING: "undo"}


def _locks(read: Reader, flows: Flows) -> Iterator[str]:
    """Whether two tasks were ever at work under locks that exclude each other, or out of turn."""
    spans: dict[str, list[tuple[int, float, int, bool]]] = defaultdict(list)
    began: dict[int, int] = {}
    ended: dict[int, int] = {}
    for event in read("event"):
        if event["kind"] == Kind.BEGAN:
            began[event["task"]] = event["revision"]
        elif event["kind"] == Kind.CLOSED:
            ended[event["task"]] = event["revision"]
    for row in read("task"):
        flow = flows.of(row)
        if flow is None or row["id"] not in began or row["poison"] is not None:
            continue
        body = flow.body.model_validate_json(row["body"], strict=False)
        target = int(row["target"]) if (row["target"] or "").isdigit() else row["target"]
        for lock in flow.locks(target, body):
            end = ended.get(row["id"], float("inf"))
            spans[lock.resource].append((began[row["id"]], end, row["id"], lock.shared))
    for resource, held in spans.items():
        held.sort()
        longest: dict[bool, tuple[float, int]] = {True: (-1.0, 0), False: (-1.0, 0)}
        for start, end, task, shared in held:
            for other_shared in (False,) if shared else (False, True):
                until, other = longest[other_shared]
                if start < until:
                    yield f"tasks {other} and {task} held {resource} at the same time"
            longest[shared] = max(longest[shared], (end, task))


def check_log(flow: Flow, events: list[Event]) -> Iterator[str]:
    """What is wrong with the order of a log (guarantees.md, promises 4, 6, 9 and 12)."""
    completed: list[str] = []
    started: set[str] = set()
    failed = closed = False
    committed = False
    epoch = 0
    gave_up: set[str] = set()
    for at, event in enumerate(events):
        step = event.step
        if closed:
            yield f"event {at}: {event.kind} after the end"
        if event.epoch < epoch:
            yield f"event {at}: epoch {event.epoch} after epoch {epoch}"
        epoch = max(epoch, event.epoch)
        match event.kind:
            case Kind.STARTED | Kind.DONE if failed:
                yield f"event {at}: {step} goes forward after the task turned"
            case Kind.FAILED if committed:
                yield f"event {at}: the task turns after its commit point"
        match event.kind:
            case Kind.STARTED | Kind.DONE:
                if event.kind is Kind.STARTED or step not in started:
                    late = [other for other in flow.dependents[step] if other in started]
                    if late:
                        yield f"event {at}: {step} goes forward after {late[0]} has begun"
                    early = [need for need in flow.needs[step] if need not in started]
                    if early:
                        yield f"event {at}: {step} begins before {early[0]}"
                started.add(step)
                if step in completed:
                    completed.remove(step)
                completed.append(step)
                if event.kind is Kind.DONE and flow.by_name[step].commit:
                    committed = True
            case Kind.SKIPPED:
                started.add(step)
            case Kind.REFUSED:
                started.discard(step)
            case Kind.FAILED:
                failed = True
            case Kind.GAVE_UP:
                gave_up.add(step)
            case Kind.RESUMED:
                gave_up.clear()
            case Kind.UNDOING:
                for other in completed[completed.index(step) + 1 :] if step in completed else ():
                    if other not in gave_up:
                        yield f"event {at}: {step} is undone before {other}, which was completed later"
            case Kind.UNDONE:
                if step in completed:
                    completed.remove(step)
            case Kind.CLOSED:
                closed = True
                if event.data["outcome"] == "undone" and [s for s in completed if s in started]:
                    yield f"event {at}: undone, but for {', '.join(s for s in completed if s in started)}"


def _guests(read: Reader) -> Iterator[str]:
    tasks = {row["id"]: row for row in read("task")}
    locks = {(row["task"], row["resource"]) for row in read("lock")}
    for guest in read("guest"):
        name, steady = f"guest {guest['id']}", guest["phase"] in STEADY[guest["kind"]]
        if steady != (guest["task"] is None):
            yield f"{name} is {guest['phase']} and names task {guest['task']}"
        elif not steady and (guest["task"], f"guest/{guest['id']}") not in locks:
            yield f"{name} is {guest['phase']}, and its task {guest['task']} is not at work on it"
    alive = {row["name"] for row in read("node") if row["alive"]}
    for row in read("debris"):
        if row["node"] in alive:
            yield f"node {row['node']} is alive, and guest {row['guest']} was never removed from it"
    for table in ("claim", "volume", "network"):
        for row in read(table):
            if row["task"] is not None and (row["task"] not in tasks or tasks[row["task"]]["status"] in CLOSED):
                yield f"{table} {row}: task {row['task']} is over"


def _claims(read: Reader) -> Iterator[str]:
    guests = {row["id"]: row for row in read("guest")}
    used: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    gpus: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    claims: dict[int, list[Row]] = defaultdict(list)
    for row in read("claim"):
        claims[row["guest"]].append(row)
        used[row["node"]][0] += row["cpu_milli"]
        used[row["node"]][1] += row["memory_mib"]
        for device, milli in decode(row["devices"]).items():
            gpus[row["node"]][device] += milli
        if row["guest"] not in guests:
            yield f"claim on {row['node']} of guest {row['guest']}, which is not there"
    for node in read("node"):
        name = node["name"]
        told = [node["used_cpu_milli"], node["used_memory_mib"]]
        if told != used[name]:
            yield f"node {name} counts {told} (cpu_milli, memory_mib), its claims {used[name]}"
        for device, milli in enumerate(decode(node["used_gpu_milli"])):
            if milli != gpus[name][str(device)]:
                yield f"node {name} counts {milli} gpu_milli on device {device}, its claims {gpus[name][str(device)]}"
        if overdrawn(node):
            yield f"node {name} has given away more than it has"
    for guest in guests.values():
        if guest["task"] is not None:
            continue
        idle = guest["kind"] == "agent" and guest["phase"] == "stopped"
        wanted = [] if idle else [(guest["node"], "placement")]
        found = [(row["node"], row["role"]) for row in claims[guest["id"]]]
        if found != wanted:
            yield f"guest {guest['id']} is {guest['phase']} on {guest['node']} and claims {found}"


def _quota(read: Reader) -> Iterator[str]:
    sums: dict[str, dict[str, int]] = defaultdict(lambda: {"guests": 0, "cpu_milli": 0, "memory_mib": 0})
    for guest in read("guest"):
        spec = decode(guest["spec"])
        total = sums[guest["project"]]
        total["guests"] += 1
        total["cpu_milli"] += spec["cpu_milli"]
        total["memory_mib"] += spec["memory_mib"]
    for row in read("quota"):
        for resource, amount in sums[row["project"]].items():
            if row[resource] != amount:
                yield f"quota of {row['project']} counts {row[resource]} {resource}, its guests {amount}"


def _nodes(read: Reader, nodes: Inventory) -> Iterator[str]:
    """What is on the nodes, against what the store says should be; guests that a task works on are left out."""
    guests = {row["id"]: row for row in read("guest")}
    busy = {guest for guest, row in guests.items() if row["task"] is not None}
    machines: dict[int, list[tuple[str, str]]] = defaultdict(list)
    left = {(row["node"], row["guest"]) for row in read("debris")}
    """What dead nodes still have; they remove it when they come back."""
    for name, things in nodes.items():
        for guest, state in things["machines"].items():
            if (name, guest) not in left:
                machines[guest].append((name, state))
        # A volume of no guest is accounted for below.
        owners = [(volume, guest) for volume, guest in things["volumes"].items() if guest is not None]
        for kind in ("planes", "endpoints"):
            owners += [(f"one of the {kind}", int(guest)) for guest in things.get(kind, {})]
        owners += [(f"snapshot {key}", int(key.split("/")[0])) for key in things.get("snapshots", {})]
        owners += [(f"port in {network}", guest) for guest, network in things["ports"]]
        owners += [("workspace", guest) for guest in things["workspaces"]]
        owners += [("sandbox", guest) for guest in things["sandboxes"]]
        for what, guest in owners:
            strange = guest not in guests or guests[guest]["node"] != name
            if strange and guest not in busy and (name, guest) not in left:
                yield f"node {name} has {what} of guest {guest}, which is not there"
    for guest, found in machines.items():
        if guest in busy:
            continue
        if guest not in guests or [node for node, _ in found] != [guests[guest]["node"]]:
            yield f"guest {guest} is defined on {found}"
    rows = {row["id"]: row for row in read("volume")}
    for volume in rows.values():
        on = [name for name, things in nodes.items() if volume["id"] in things["volumes"]]
        on = [name for name in on if (name, volume["guest"]) not in left]
        at_rest = volume["guest"] not in busy and volume["task"] is None
        if at_rest and volume["node"] in nodes and on != [volume["node"]]:
            yield f"volume {volume['id']} is on {on}, not on {volume['node']}"
    for name, things in nodes.items():
        for volume_id, guest in things["volumes"].items():
            if guest is None and volume_id not in rows:
                yield f"node {name} has volume {volume_id} of no guest, which is not there"
