"""The Agent Kernel: what stands between an AI agent and the host it runs on.

>>> from gpve_agent_kernel import Policy, spawn
>>> policy = Policy('version = 1')
>>> policy.allows("write", "/usr/bin/env")
False
>>> spawn(["echo", "hello"], policy).wait()  # doctest: +SKIP
0
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from gpve_agent_kernel._native import Policy, _enter, _host, _report, _schema
from gpve_agent_kernel._spawn import Process, SpawnError, spawn

__all__ = ["Explanation", "Policy", "Process", "SpawnError", "enter", "explain", "host", "report", "schema", "spawn"]


@dataclass(frozen=True, slots=True)
class Explanation:
    """Whether an access passes, which layer decides, why, and what to write in the policy to have it allowed."""

    allowed: bool
    layer: str
    why: str
    to_allow: str | None


def explain(policy: Policy, verb: str, object: str) -> Explanation:
    """Explain an access: ``explain(policy, "read", "/etc/shadow")``.

    Verbs are read, write, execute (a path), connect ("host:port"), bind (a port), call (a system call), capability.
    """
    return Explanation(**json.loads(policy._explain(verb, object)))


def enter(policy: Policy) -> dict[str, Any]:
    """Put a policy of level L1 on this very process, for good; returns what is in force. OSError where that fails.

    Refused where this process has more than one thread: the others would stay free.
    """
    applied: dict[str, Any] = json.loads(_enter(policy))
    return applied


def report() -> dict[str, Any]:
    """What this process uses (memory, CPU, I/O) and what holds it."""
    used: dict[str, Any] = json.loads(_report())
    return used


def host() -> dict[str, Any]:
    """What this host's kernel can do."""
    able: dict[str, Any] = json.loads(_host())
    return able


def schema() -> dict[str, Any]:
    """The JSON schema of the policy document."""
    document: dict[str, Any] = json.loads(_schema())
    return document
