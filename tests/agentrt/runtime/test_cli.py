"""The command line, as people use it."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.agentrt.runtime.daemon import Daemon, programs

VERBS = [
    "daemon",
    "run",
    "ps",
    "stats",
    "logs",
    "events",
    "exec",
    "start",
    "stop",
    "kill",
    "rm",
    "pause",
    "resume",
    "forward",
    "claim",
]


def cli(*args: str, socket: Path | None = None, **given: Any) -> subprocess.CompletedProcess[str]:
    head = [str(programs() / "gpve-agentrt")] + (["--socket", str(socket)] if socket else [])
    return subprocess.run([*head, *args], capture_output=True, text=True, timeout=30, **given)


@pytest.mark.parametrize(
    "verb", [*VERBS, "policy check", "policy explain", "template create", "template ls", "template pool", "template rm"]
)
def test_every_verb_helps_with_an_example(verb: str) -> None:
    said = cli(*verb.split(), "--help").stdout
    assert "Example:\n  gpve-agentrt " + verb in said


def test_a_day_in_the_life(daemon: Daemon) -> None:
    at = {"socket": daemon.socket}
    done = cli("run", "--rm", "--", "/bin/sh", "-c", "echo out; echo err >&2; exit 5", **at)
    assert (done.returncode, done.stdout, done.stderr) == (5, "out\n", "err\n")
    assert cli("ps", **at).stdout.count("\n") == 1
    id = cli("run", "-d", "--id", "x", "-l", "a=b", "--memory", "64M", "--", "/bin/sleep", "1000", **at).stdout.strip()
    assert id == "x"
    assert "running" in cli("ps", "-l", "a=b", **at).stdout
    agent = json.loads(cli("ps", "--json", **at).stdout)
    assert (agent["state"], agent["limits"]["memory_bytes"]) == ("running", 64 << 20)
    assert cli("exec", "-i", "x", "--", "/bin/cat", input="hello", **at).stdout == "hello"
    assert cli("exec", "x", "--", "/bin/sh", "-c", "exit 9", **at).returncode == 9
    assert cli("pause", "x", **at).returncode == 0
    assert "paused" in cli("ps", **at).stdout
    assert cli("resume", "x", **at).returncode == 0
    assert json.loads(cli("stats", "x", "--json", **at).stdout)["stats"][0]["pids"] == 2
    assert "daemon:" in cli("stats", **at).stdout
    assert cli("stop", "x", **at).returncode == 0
    assert cli("start", "x", **at).returncode == 0
    assert cli("kill", "x", **at).returncode == 0
    assert cli("rm", "x", **at).returncode == 0
    kinds = [json.loads(line)["kind"] for line in cli("events", "--id", "x", "--json", **at).stdout.splitlines()]
    assert kinds[:3] == ["created", "starting", "running"]
    assert kinds[-1] == "deleted"


def test_errors_are_one_sentence(daemon: Daemon, tmp_path: Path) -> None:
    at = {"socket": daemon.socket}
    for args in [("stop", "nobody"), ("run", "--", "/no/such"), ("run", "-e", "X", "--", "/bin/true")]:
        done = cli(*args, **at)
        assert done.returncode == 1
        assert done.stderr.startswith("gpve-agentrt: ")
        assert done.stderr.count("\n") == 1, done.stderr
    assert not json.loads(cli("stats", "--json", **at).stdout)["daemon"]["agents"], "a run that failed left an agent"
    away = cli("ps", socket=tmp_path / "nothing.sock")
    assert "no daemon answers" in away.stderr


def test_policy(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text('version = 1\n[files]\nread = ["/etc/hostname"]\n')
    assert "can be enforced" in cli("policy", "check", str(file)).stdout
    assert json.loads(cli("policy", "check", "--json", str(file)).stdout)["level"] == "L3"
    assert cli("policy", "explain", str(file), "read", "/etc/hostname").returncode == 0
    denied = cli("policy", "explain", str(file), "--json", "call", "ptrace")
    assert denied.returncode == 3
    assert json.loads(denied.stdout)["allowed"] is False
    file.write_text("version = 1\nfilez = 1\n")
    bad = cli("policy", "check", str(file))
    assert bad.returncode == 1
    assert "filez" in bad.stderr
