import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agentrt.runtime.daemon import Daemon
from tests.agentrt.runtime.host import leaked_files, look


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    """A daemon of its own, with a short path (a socket's name has 108 bytes). It may leave nothing on the host."""
    root = Path(tempfile.mkdtemp(prefix="gpve-")) / "r"
    d = Daemon(root).start()
    yield d
    if d.process is None or d.process.poll() is not None:
        d.start()
    d.clear()
    d.stop()
    deadline = time.monotonic() + 10
    while (left := look(root)) and not left.empty() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert left.empty(), left
    assert not leaked_files(left), leaked_files(left)
    assert "panicked" not in d.said(), d.said()
    shutil.rmtree(root.parent)
