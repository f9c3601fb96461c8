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
Folder = Annotated[str, Field(max_length=4096, pattern=r"^(/[^\x00]*)?$")]
Millis = Annotated[int, Field(ge=1, le=86_400_000)]
Port = Annotated[int, Field(ge=1, le=65_535)]
HttpPath = Annotated[str, Field(min_length=1, max_length=1024, pattern=r"^/[!-~]*$")]


class Check(Body):
    """A check of an agent's health: exactly one of ``exec``, ``http_port``, ``tcp_port``, ``heartbeat_ms``."""

    exec: Words | None = Field(
        default=None, description="Run inside under the same policy; healthy when it exits with 0."
    )
    http_port: Port | None = Field(
        default=None, description="On 127.0.0.1 inside; healthy with a status of 200 to 399."
    )
    http_path: HttpPath = Field(default="/", description="What is asked for at `http_port`.")
    tcp_port: Port | None = Field(default=None, description="On 127.0.0.1 inside; healthy when it accepts.")
    heartbeat_ms: Millis | None = Field(
        default=None, description="The program writes to the descriptor GPVE_HEARTBEAT_FD at least so often."
    )
    period_ms: Millis = Field(default=10_000, description="From one check to the next.")
    timeout_ms: Millis = Field(default=1_000, description="A check that takes longer has failed.")
    initial_delay_ms: Annotated[int, Field(ge=0, le=86_400_000)] = Field(
        default=0, description="Before the first check."
    )
    failures: Annotated[int, Field(ge=1, le=1000)] = Field(default=3, description="So many in a row count.")

    @model_validator(mode="after")
    def _one_probe(self) -> Self:
        probes = (self.exec, self.http_port, self.tcp_port, self.heartbeat_ms)
        if sum(probe is not None for probe in probes) != 1:
            raise ValueError("exactly one of exec, http_port, tcp_port, heartbeat_ms")
        return self


class Restart(Body):
    """What becomes of an agent whose program ends. Delays double from the first to the longest."""

    when: Literal["never", "on-failure", "always"] = Field(
        default="on-failure", description="On a failure: when it exits with another code than 0, or is killed."
    )
    max_restarts: Annotated[int, Field(ge=0, le=1_000_000)] = Field(default=0, description="In a row; 0 is no bound.")
    first_delay_ms: Millis = Field(default=100, description="Before the first restart.")
    longest_delay_ms: Millis = Field(default=60_000, description="Before any restart.")


class Program(Body):
    """What an agent runs."""

    argv: Words = Field(description="The program, found inside the sandbox, and its arguments.")
    env: Annotated[
        dict[Variable, Word],
        Field(default_factory=dict, max_length=1024, description="All of it: nothing is inherited. Not for secrets."),
    ]
    cwd: Folder = Field(default="", description="Inside; empty: the workspace.")
    policy: Annotated[str, Field(max_length=262_144)] = Field(
        default="",
        description="What it may do, in TOML or JSON (docs/reference/policy.md); empty: everything has its default.",
    )
    restart: Restart = Field(default=Restart(), description="What becomes of it when it ends.")
    startup: Check | None = Field(
        default=None, description="Until it succeeds the other two wait; when it fails the run ends."
    )
    readiness: Check | None = Field(default=None, description="Only says whether the agent is ready.")
    liveness: Check | None = Field(default=None, description="When it fails the run ends, and `restart` decides.")
    stop_grace_ms: Annotated[int, Field(ge=0, le=30_000)] = Field(
        default=5_000, description="Between SIGTERM and SIGKILL."
    )
