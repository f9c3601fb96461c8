import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gpve.client import Client
from gpve.client.contexts import Context, Contexts, keep
from tests.agentrt.conftest import kernel, sandbox  # noqa: F401
from tests.agentrt.runtime.daemon import programs
from tests.agentrt.runtime.host import leaked_files, look
from tests.server.cluster import Cluster, one_node


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A cluster of its own, with a short path (a socket's name has 108 bytes)."""
    directory = Path(tempfile.mkdtemp(prefix="gpve-"))
    made = Cluster(directory)
    yield made
    made.end()
    for daemon in made.daemons.values():
        deadline = time.monotonic() + 10.0
        while not (left := look(daemon.root)).empty() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert left.empty(), left
        assert not leaked_files(left), leaked_files(left)
    shutil.rmtree(directory)


@pytest.fixture(scope="module")
def api() -> Iterator[Cluster]:
    """One server and one node for all of these tests."""
    with one_node(8000, 8192) as made:
        yield made


@pytest.fixture
def client(api: Cluster) -> Client:
    return api.client()


@pytest.fixture
def http(api: Cluster) -> Iterator[httpx.Client]:
    server = api.servers["s"]
    headers = {"Authorization": f"Bearer {api.token()}"}
    with httpx.Client(base_url=f"{server.url}/api/v1", verify=False, headers=headers) as made:
        yield made


@pytest.fixture
def command(cluster: Cluster, tmp_path: Path, gpve, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Runs ``gpve`` for this cluster: its first server's context is the current one."""

    def run(*words: str) -> Any:
        monkeypatch.setenv("GPVE_CONFIG", str(tmp_path / "contexts.yaml"))
        server = next(iter(cluster.servers.values()))
        ca = (server.directory / "ca.pem").read_text()
        keep(Contexts("x", {"x": Context((server.url,), cluster.token(), ca)}))
        return gpve(*words)

    return run


@pytest.fixture(scope="session")
def runtime() -> None:
    """The Agent Runtime was built."""
    try:
        programs()
    except FileNotFoundError as error:
        pytest.skip(str(error))
