import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agentrt.runtime.daemon import Daemon


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    """A daemon of its own, with a short path (a socket's name has 108 bytes). It may leave nothing on the host."""
    root = Path(tempfile.mkdtemp(prefix="gpve-")) / "r"
    d = Daemon(root).start()
    yield d
    if d.process is None or d.process.poll() is not None:
        d.start()
    d.leave_nothing()
