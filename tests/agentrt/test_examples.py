"""The examples, run as guests against a model server of our own, each in its virtual environment."""

import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.agentrt.model import Model
from tests.agentrt.runtime.conftest import daemon
from tests.agentrt.runtime.daemon import Daemon, pb

__all__ = ["daemon"]

REPO = Path(__file__).parents[2]
EXAMPLES = REPO / "examples/agents"
KERNEL = REPO / "agentrt/python"
PYTHON = Path("/usr/bin/python3")
#: What each framework has imported before its agents are forked.
IMPORTS = {
    "langchain": ["langchain.agents", "langchain_openai"],
    "autogen": ["autogen_agentchat.agents", "autogen_agentchat.teams", "autogen_ext.models.openai"],
    "crewai": ["crewai"],
}
#: CrewAI loads libraries that have threads and locks of their own, which no fork has.
UNFORKABLE = {"crewai"}


def environment(name: str) -> Path:
    """A virtual environment of the host's own interpreter with an example's requirements, made once for each list."""
    wanted = EXAMPLES / name / "requirements.txt"
    digest = hashlib.sha256(wanted.read_bytes()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gpve/frameworks"
    made = cache / f"{name}-{digest}"
    if not (made / "done").exists():
        shutil.rmtree(made, ignore_errors=True)
        try:
            subprocess.run([PYTHON, "-m", "venv", made], check=True, capture_output=True, timeout=120)
            pip = [made / "bin/pip", "install", "--quiet", "--disable-pip-version-check", "-r", wanted]
            subprocess.run(pip, check=True, capture_output=True, timeout=900)
        except subprocess.SubprocessError as error:
            pytest.skip(f"{name} cannot be installed here: {getattr(error, 'stderr', error)!r}"[:300])
        (made / "done").touch()
    return made


def policy(model: Model, *more: Path) -> str:
    readable = [str(p) for p in (EXAMPLES, KERNEL, *more)]
    return f"""version = 1
[files]
execute = {readable!r}
[limits]
memory = "1GiB"
processes = 64
[network]
egress = ["127.0.0.1:{model.port}"]
"""


def variables(model: Model) -> dict[str, str]:
    # The model is on this host's loopback, which is another than the agent's: so to the proxy with it.
    return {
        "OPENAI_BASE_URL": f"http://127.0.0.1:{model.port}/v1",
        "OPENAI_API_KEY": "of-no-use",
        "NO_PROXY": "",
        "no_proxy": "",
        "PYTHONPATH": str(KERNEL),
    }


@pytest.fixture
def model() -> Iterator[Model]:
    with Model() as server:
        yield server


def judged(daemon: Daemon, model: Model, id: str) -> None:
    """It has answered, by way of its tool; the tool was held closer than the agent; and its use is accounted for."""
    exit = daemon.wait(id, timeout=120).last_exit
    said = daemon.logs(id).decode()
    assert (exit.reason, exit.code) == (pb.EXIT_REASON_EXITED, 0), said
    assert model.asked, said
    results = [m["content"] for m in model.asked[-1]["messages"] if m["role"] == "tool"]
    results += [m["content"] for r in model.asked for m in r["messages"] if m["role"] == "tool"]
    assert results, model.asked
    assert "42" in str(results[0]), results
    assert "PermissionError" in str(results[0]), results
    assert "42" in said, said
    stats = daemon.stats(id)
    print(stats)
    assert stats.egress_connections >= 1
    assert stats.egress_bytes_in > 0


def test_a_plain_script(daemon: Daemon, model: Model, kernel: Any) -> None:
    agent = EXAMPLES / "script/agent.py"
    id = daemon.run(str(PYTHON), str(agent), "What is 6 times 7?", policy=policy(model), env=variables(model))
    judged(daemon, model, id)
    # Another host is not reached, and it is said by name.
    asks = (
        "import urllib.request as u\ntry:\n    u.urlopen('http://telemetry.example:80/')\nexcept OSError as e: print(e)"
    )
    id = daemon.run(str(PYTHON), "-c", asks, policy=policy(model), env=variables(model))
    daemon.wait(id)
    assert b"403" in daemon.logs(id)
    assert daemon.stats(id).egress_denials["telemetry.example:80"] == 1


@pytest.mark.parametrize(
    "framework",
    ["langchain", pytest.param("autogen", marks=pytest.mark.full), pytest.param("crewai", marks=pytest.mark.full)],
)
def test_a_framework(daemon: Daemon, model: Model, kernel: Any, framework: str) -> None:
    """Cold, and claimed from a template that has the framework's imports done."""
    made = environment(framework)
    python = str(made / "bin/python")
    agent = str(EXAMPLES / framework / "agent.py")
    allowed = policy(model, made)
    id = daemon.run(python, agent, "What is 6 times 7?", policy=allowed, env=variables(model))
    judged(daemon, model, id)
    model.asked.clear()
    setup = f"import sys; sys.path.append({str(KERNEL)!r})"
    # Telemetry would leave a thread behind.
    imports = {"OPENAI_API_KEY": "of-no-use", "OTEL_SDK_DISABLED": "true", "CREWAI_DISABLE_TELEMETRY": "true"}
    daemon.template(
        "t",
        policy=allowed,
        python=python,
        imports=IMPORTS[framework],
        setup=setup,
        pool=1,
        env=imports,
        no_fork=framework in UNFORKABLE,
    )
    began = time.monotonic()
    id = daemon.claim("t", agent, "What is 6 times 7?", env=variables(model)).id
    judged(daemon, model, id)
    print(framework, "answered", round(time.monotonic() - began, 2), "s after its claim")
