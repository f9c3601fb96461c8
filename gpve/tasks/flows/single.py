"""Flows of one step on the guest's node: built alike, so that a file has nothing but what is its own."""

from collections.abc import Callable

from gpve.tasks.flow import Action, Context, Flow, Step
from gpve.tasks.flows.guests import Check, OnGuest, begin, end, only_guest, read
from gpve.tasks.ledger import Row, Tx


def single(
    kind: str,
    operation: str,
    do: Action,
    *,
    undo: Action | None = None,
    body: type[OnGuest] = OnGuest,
    check: Check | None = None,
    after: Callable[[Tx, Context, Row], Row] | None = None,
    attempt_s: float = 60.0,
    deadline_s: float = 600.0,
) -> Flow:
    """The flow ``kind_operation``. Without an undo its step is the commit point."""
    step = Step(operation, do, undo=undo, commit=undo is None, attempt_s=attempt_s, deadline_s=deadline_s)
    return Flow(
        f"{kind}_{operation}",
        version=1,
        body=body,
        open=begin(kind, operation, check),
        locks=only_guest,
        read=read,
        close=end(operation, after),
        steps=[step],
    )
