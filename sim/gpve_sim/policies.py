"""Policies by name, or out of a user's file."""

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from gpve.model.errors import InputError
from gpve.scheduler.policy import Policy, load, policy

OR_TOOLS = "or-tools"
"""Decides batches, not guests (`gpve_sim.batched`): no `Policy` but a `Batching`."""
DETERMINISTIC_LIMIT = 0.1
"""CP-SAT's own measure of work, for a batch of 50 guests; larger ones have as much per guest."""


@dataclass(frozen=True)
class Batching:
    """The policy ``or-tools``: how arrivals are gathered; the default depends on whether guests depart."""

    name: ClassVar[str] = OR_TOOLS
    window_s: float | None = None
    size: int | None = None
    deterministic_limit: float = DETERMINISTIC_LIMIT
    spare_nodes: bool | None = None
    """Whether to open few empty nodes counts; None: where guests depart."""


def find_decider(spec: str) -> Policy | Batching:
    """As `find_policy`, and ``or-tools`` with its defaults."""
    return Batching() if spec == OR_TOOLS else find_policy(spec)


def find_policy(spec: str) -> Policy:
    """``fgd``, or ``file.py:name``: a function (or a policy made with ``@policy``) in a user's file.

    Raises `InputError` for a file that cannot be read or run, with the line at fault, and for a missing name.
    """
    if spec == OR_TOOLS:
        raise InputError(f"the policy {OR_TOOLS} decides batches: it goes with gpve replay, compare and sweep")
    if ":" not in spec and not spec.endswith(".py"):
        return load(spec)
    path, _, name = spec.rpartition(":")
    file = Path(path if path else spec)
    if not path:
        raise InputError("name the policy in the file: file.py:name", file=file)
    module = _run(file)
    names = [key for key, value in vars(module).items() if isinstance(value, Policy) or callable(value)]
    if name not in names:
        own = [key for key in names if getattr(getattr(module, key), "__module__", None) == module.__name__]
        own += [key for key, value in vars(module).items() if isinstance(value, Policy)]
        raise InputError(f"has no policy {name!r}; it has {', '.join(dict.fromkeys(own)) or 'none'}", file=file)
    found = getattr(module, name)
    return found if isinstance(found, Policy) else policy(found)


def _run(file: Path):  # type: ignore[no-untyped-def]
    if not file.is_file():
        raise InputError("no such file", file=file)
    name = f"gpve_policy_{abs(hash(file.resolve()))}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except InputError:
        raise
    except SyntaxError as error:
        raise InputError(f"is not Python: {error.msg}", file=file, line=error.lineno) from None
    except Exception as error:  # whatever the user's file raises is bad input
        lines = [frame.lineno for frame in _frames(error) if frame.filename == str(file)]
        line = lines[-1] if lines else None
        raise InputError(f"{type(error).__name__}: {error}", file=file, line=line) from error
    return module


def _frames(error: BaseException):  # type: ignore[no-untyped-def]
    import traceback

    return traceback.extract_tb(error.__traceback__)
