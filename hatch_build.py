"""At build time: what is generated.

The Python code of the services, from proto/ into gpve/v1 and gpve/runtime/v1; and the synchronous client, which is the
asynchronous one without waiting.
"""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDERS = ("gpve/v1", "gpve/runtime/v1")
ASYNCHRONOUS, SYNCHRONOUS = "gpve/client/asynchronous.py", "gpve/client/sync.py"
WITHOUT_WAITING = {
    '"""The asynchronous client."""': '"""The synchronous client: generated from asynchronous.py."""',
    "import asyncio": "import time",
    "asyncio.sleep": "time.sleep",
    "async ": "",
    "await ": "",
    "AsyncClient": "Client",
    "AsyncIterator": "Iterator",
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
    "aclose": "close",
    "aread": "read",
    "aiter_lines": "iter_lines",
}
"""What the one client says, and the other."""


def without_waiting(code: str) -> str:
    """The code of the synchronous client, from that of the asynchronous one."""
    return re.sub("|".join(map(re.escape, WITHOUT_WAITING)), lambda found: WITHOUT_WAITING[found[0]], code)


class Generated(BuildHookInterface[Any]):
    """Runs the compiler of the services in a process of its own, and has the wheel carry what was made."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Before a wheel is made, an editable one too."""
        root = Path(self.root)
        sources = [str(path) for folder in FOLDERS for path in sorted((root / "proto" / folder).glob("*.proto"))]
        command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{root / 'proto'}"]
        command += [f"--python_out={root}", f"--pyi_out={root}", f"--grpc_python_out={root}"]
        subprocess.run([*command, *sources], check=True, cwd=root)
        for folder in ("gpve/v1", "gpve/runtime", "gpve/runtime/v1"):
            (root / folder / "__init__.py").write_text(f'"""Generated from proto/{folder}."""\n')
        (root / SYNCHRONOUS).write_text(without_waiting((root / ASYNCHRONOUS).read_text()))
        build_data["artifacts"] += [SYNCHRONOUS]
        build_data["artifacts"] += ["gpve/v1/*.py", "gpve/v1/*.pyi", "gpve/runtime/**/*.py", "gpve/runtime/**/*.pyi"]
