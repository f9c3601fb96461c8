"""Rows as messages, and messages as bodies."""

import json
from typing import Any

from google.protobuf.message import Message
from pydantic import ValidationError

from gpve.model.kinds import KINDS
from gpve.server.problems import Problem
from gpve.server.sentences import bad_body
from gpve.tasks.flow import Body
from gpve.tasks.ledger import Row
from gpve.v1 import resources_pb2 as pb

KIND = {pb.KIND_VM: "vm", pb.KIND_VCLUSTER: "vcluster", pb.KIND_AGENT: "agent"}
NUMBER = {name: number for number, name in KIND.items()}
assert set(NUMBER) == set(KINDS)


def to_dict(message: Message) -> dict[str, Any]:
    """The fields that are set, by name; what is absent is absent."""
    told: dict[str, Any] = {}
    for field, value in message.ListFields():
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            told[field.name] = dict(value)
        elif field.type == field.TYPE_MESSAGE:
            many = field.is_repeated
            told[field.name] = [to_dict(one) for one in value] if many else to_dict(value)
        else:
            told[field.name] = list(value) if field.is_repeated else value
    # A message that is there and empty is there.
    for known in message.DESCRIPTOR.fields:
        if known.type == known.TYPE_MESSAGE and not known.is_repeated and message.HasField(known.name):
            told.setdefault(known.name, {})
    return told


def body_of(model: type[Body], flow: str, message: Message) -> Body:
    """The body of a flow. Raises `BadBody` with the field at fault."""
    try:
        return model.model_validate(to_dict(message))
    except ValidationError as error:
        raise bad_body(flow, error) from None


def guest(row: Row, waits_for: str = "") -> pb.Guest:
    """A guest."""
    return pb.Guest(
        id=row["id"],
        kind=NUMBER[row["kind"]],
        name=row["name"],
        project=row["project"],
        phase=row["phase"],
        task=row["task"] or 0,
        node=row["node"] or "",
        spec_json=row["spec"],
        revision=row["revision"],
        waits_for=waits_for,
    )


def task(row: Row) -> pb.Task:
    """A task."""
    bad = row["poison"] is not None
    return pb.Task(
        id=row["id"],
        flow=row["flow"],
        project=row["project"],
        actor=row["actor"],
        status="unreadable" if bad else row["status"],
        target=row["target"] or "",
        step=row["step"] or "",
        progress=row["progress"],
        reason=(row["poison"] if bad else row["reason"]) or "",
        submitted_at=row["submitted_at"],
        closed_at=row["closed_at"] or 0.0,
        committed=row["committed"],
        revision=row.get("revision", 0),
    )


def node(row: Row) -> pb.Node:
    """A node."""
    return pb.Node(
        name=row["name"],
        open=row["open"],
        alive=row["alive"],
        cpu_milli=row["cpu_milli"],
        memory_mib=row["memory_mib"],
        gpus=json.loads(row["gpus"]),
        gpu_model=row["gpu_model"],
        used_cpu_milli=row["used_cpu_milli"],
        used_memory_mib=row["used_memory_mib"],
        used_gpu_milli=json.loads(row["used_gpu_milli"]),
        labels=json.loads(row["labels"]),
        revision=row["revision"],
    )


def page_of(text: str) -> int | None:
    """Behind which number a page begins; None: the first one. Raises `Problem`."""
    if not text:
        return None
    if not text.isdigit() or len(text) > 15:
        raise Problem(422, "bad-field", "page: not the `next` of a page", [("page", "not the `next` of a page")])
    return int(text)


def size_of(size: int) -> int:
    """How many rows a page has. Raises `Problem`."""
    if not 0 <= size <= 1000:
        raise Problem(422, "bad-field", "size: 1 to 1000 are wanted", [("size", "1 to 1000 are wanted")])
    return size or 100
