"""What the Agent Runtime is told of an agent of the cluster."""

import json
import tomllib
from collections.abc import Mapping
from typing import Any

from gpve.runtime.v1 import runtime_pb2 as pb

HA = "gpve.ha"
"""Label of agents that run only while their node has its lease."""
WHEN = {
    "never": pb.RestartPolicy.WHEN_NEVER,
    "on-failure": pb.RestartPolicy.WHEN_ON_FAILURE,
    "always": pb.RestartPolicy.WHEN_ALWAYS,
}


def spec_of(spec: Mapping[str, Any]) -> pb.AgentSpec:
    """What the daemon is told of an agent. The guest's amounts narrow what its policy says."""
    program = spec["program"]
    restart = program.get("restart", {})
    checks = {name: _check(program[name]) for name in ("startup", "readiness", "liveness") if program.get(name)}
    return pb.AgentSpec(
        policy=policy_of(program.get("policy", ""), spec["cpu_milli"], spec["memory_mib"]),
        argv=program["argv"],
        env=program.get("env", {}),
        cwd=program.get("cwd", ""),
        labels={HA: "1"} if spec.get("ha") else {},
        leased=spec.get("ha", False),
        restart=pb.RestartPolicy(
            when=WHEN[restart.get("when", "on-failure")],
            max_restarts=restart.get("max_restarts", 0),
            first_delay_ms=restart.get("first_delay_ms", 100),
            max_delay_ms=restart.get("longest_delay_ms", 60_000),
        ),
        health=pb.HealthChecks(**checks),
        stop_grace_ms=program.get("stop_grace_ms", 5_000),
    )


def policy_of(document: str, cpu_milli: int, memory_mib: int) -> str:
    """The agent's policy with the guest's amounts as its limits, unless it states lower ones.

    What cannot be read is passed on as it is: the daemon says what is wrong with it, and where.
    """
    try:
        policy = json.loads(document) if document.lstrip().startswith("{") else tomllib.loads(document)
        policy.setdefault("version", 1)
        limits = policy.setdefault("limits", {})
        stated, cpus = limits.get("memory"), limits.get("cpus")
        if stated is None or _bytes(stated) > memory_mib << 20:
            limits["memory"] = f"{memory_mib}MiB"
        if cpus is None or cpus > cpu_milli / 1000:
            limits["cpus"] = cpu_milli / 1000
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
        return document
    return json.dumps(policy)


UNITS = {"KiB": 10, "MiB": 20, "GiB": 30, "TiB": 40}


def _bytes(stated: Any) -> int:
    if isinstance(stated, int):
        return stated
    text = str(stated).strip()
    return int(text[:-3]) << UNITS[text[-3:]]


def _check(told: Mapping[str, Any]) -> pb.HealthCheck:
    check = pb.HealthCheck(
        period_ms=told.get("period_ms", 10_000),
        timeout_ms=told.get("timeout_ms", 1_000),
        initial_delay_ms=told.get("initial_delay_ms", 0),
        failure_threshold=told.get("failures", 3),
    )
    if told.get("exec"):
        check.exec.argv.extend(told["exec"])
    elif told.get("http_port"):
        check.http.port, check.http.path = told["http_port"], told.get("http_path", "/")
    elif told.get("tcp_port"):
        check.tcp.port = told["tcp_port"]
    else:
        check.heartbeat.max_age_ms = told["heartbeat_ms"]
    return check
