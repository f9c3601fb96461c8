"""What decisions need is compiled in a process of its own, once: a server only loads it."""

import os
import subprocess
import sys
from pathlib import Path

SERVER = """
import subprocess
from pathlib import Path
from gpve.scheduler.policy import load
from gpve.server.warm import compile_apart, warm

def compiled():
    return {path: path.stat().st_mtime_ns for path in Path(ROOT).rglob("*.nb?")}

compile_apart("no-such-policy")
assert not list(Path(ROOT).rglob("filled"))
compile_apart("best-fit")
before = compiled()
assert len(before) > 10, before
warm(load("best-fit"))
assert compiled() == before
subprocess.run = None
compile_apart("best-fit")
"""


def test_a_server_compiles_nothing_itself(tmp_path: Path) -> None:
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    environment.pop("NUMBA_CACHE_DIR", None)
    script = SERVER.replace("ROOT", repr(str(tmp_path)))
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
