"""At build time: the Python code of the services, generated from proto/ into gpve/v1 and gpve/runtime/v1."""

import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDERS = ("gpve/v1", "gpve/runtime/v1")


class Stubs(BuildHookInterface[Any]):
    """Runs the compiler in a process of its own, and has the wheel carry what it wrote."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Before a wheel is made, an editable one too."""
        root = Path(self.root)
        sources = [str(path) for folder in FOLDERS for path in sorted((root / "proto" / folder).glob("*.proto"))]
        command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{root / 'proto'}"]
        command += [f"--python_out={root}", f"--pyi_out={root}", f"--grpc_python_out={root}"]
        subprocess.run([*command, *sources], check=True, cwd=root)
        for folder in ("gpve/v1", "gpve/runtime", "gpve/runtime/v1"):
            (root / folder / "__init__.py").write_text(f'"""Generated from proto/{folder}."""\n')
        build_data["artifacts"] += ["gpve/v1/*.py", "gpve/v1/*.pyi", "gpve/runtime/**/*.py", "gpve/runtime/**/*.pyi"]
