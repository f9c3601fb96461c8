"""What an AI agent runs: its program, its sandbox's policy, its checks, and what becomes of it when it ends.

Amounts of memory and CPU are the guest's own; they narrow what the policy says. Times are milliseconds.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from gpve.tasks.flow import Body

# The kernel's own limit for one argument; what no C string can hold is refused here, with the field named.
Word = Annotated[str, Field(max_length=131_072, pattern=r"^[^\x00]*$")]
Words = Annotated[tuple[Word, ...], Field(strict=False, min_length=1, max_length=1024)]
Variable = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[^=\x00]+$")]
Millis = Annotated[int, Field(ge=1, le=86_400_000)]
Port = Annotated[int, Field(ge=1, le=65_535)]
HttpPath = Annotated[str, Field(min_length=1, max_length=1024, pattern=r"^/[!-~]*$")]


class Check(Body):
    """A check of an agent's health: exactly one of ``exec``, ``http_port``, ``tcp_port``, ``heartbeat_ms``."""

    exec: Words | None = None
    """Run inside under the same policy; healthy when it exits with 0."""
    http_port: Port | None = None
    """On 127.0.0.1 inside; healthy with a status of 200 to 399."""
    http_path: HttpPath = "/"
    tcp_port: Port | None = None
    heartbeat_ms: Millis | None = None
    """The program writes to the descriptor GPVE_HEARTBEAT_FD at least so often."""
    period_ms: Millis = 10_000
    timeout_ms: Millis = 1_000
    initial_delay_ms: Annotated[int, Field(ge=0, le=86_400_000)] = 0
    failures: Annotated[int, Field(ge=1, le=1000)] = 3
    """So many in a row count."""

    @model_validator(mode="after")
    def _one_probe(self) -> Self:
        probes = (self.exec, self.http_port, self.tcp_port, self.heartbeat_ms)
        if sum(probe is not None for probe in probes) != 1:
            raise ValueError("exactly one of exec, http_port, tcp_port, heartbeat_ms")
        return self


class Restart(Body):
    """What becomes of an agent whose program ends. Delays double from the first to the longest."""

    when: Literal["never", "on-failure", "always"] = "on-failure"
    max_restarts: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """In a row; 0 is no bound."""
    first_delay_ms: Millis = 100
    longest_delay_ms: Millis = 60_000


class Program(Body):
    """What an agent runs. ``argv``: found inside the sandbox. ``policy``: docs/reference/policy.md, TOML or JSON."""

    argv: Words
    env: Annotated[dict[Variable, Word], Field(default_factory=dict, max_length=1024)]
    """All of it: nothing is inherited. Not for secrets."""
    cwd: Annotated[str, Field(max_length=4096, pattern=r"^(/[^\x00]*)?$")] = ""
    """Inside; empty: the workspace."""
    policy: Annotated[str, Field(max_length=262_144)] = ""
    """Empty: everything has its default."""
    restart: Restart = Restart()
    startup: Check | None = None
    readiness: Check | None = None
    liveness: Check | None = None
    stop_grace_ms: Annotated[int, Field(ge=0, le=30_000)] = 5_000
    """Between SIGTERM and SIGKILL."""
