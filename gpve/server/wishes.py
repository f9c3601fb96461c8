"""What is checked of a wish beyond its schema: before there is a task, with the field at fault named."""

from collections.abc import Mapping
from typing import Any

from gpve.model.phases import STEADY, TRANSITIONAL
from gpve.server.agent_policy import problem_of_policy
from gpve.server.problems import Problem
from gpve.tasks.errors import BadBody, NotFound
from gpve.tasks.flows.create import Created
from gpve.tasks.state import Status

PHASES = tuple(sorted(frozenset().union(*STEADY.values(), *TRANSITIONAL.values())))
STATUSES = tuple(status.value for status in Status)


def check_created(kind: str, body: Created) -> None:
    """Raise `BadBody` for a guest that would be misunderstood, or that its node would refuse in any case."""
    check_guest_name(body.name)
    if body.gpu_milli and not body.gpu_count:
        raise BadBody("create", "gpu_milli", "a share of no device: say gpu_count too")
    program = getattr(body, "program", None)
    if program is not None and (problem := problem_of_policy(program.policy)):
        raise BadBody("create", "program.policy", problem)


def check_guest_name(name: str) -> None:
    """Raise `BadBody` for a name that would be taken for a number."""
    if name.isdigit():
        raise BadBody("create", "name", f"{name} would be taken for a guest's number: a letter is wanted in it")


def check_filters(equal: Mapping[str, Any]) -> None:
    """Raise `BadBody` for a phase or a status that nothing ever has: nothing found would look like an answer."""
    for name, known in (("phase", PHASES), ("status", STATUSES)):
        if name in equal and equal[name] not in known:
            raise BadBody("list", name, f"no {equal[name]!r}; there are {', '.join(known)}")


def named_in(fields: Mapping[str, Any], error: NotFound) -> Problem | NotFound:
    """What to tell of something that is not there: with the field of the body, if that is where it was named."""
    for field, value in fields.items():
        if error.name == value or (isinstance(value, tuple | list) and error.name in value):
            return Problem(404, "not-found", str(error), [(field, str(error))])
    return error
