"""The service's Python stubs, generated from the proto file when they are first needed (they are not committed)."""

import atexit
import importlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

PROTO = Path(__file__).parents[3] / "proto"


def generate(into: Path) -> None:
    """Writes the stubs of gpve.runtime.v1 below `into`, as the package `gpve_runtime_stubs`."""
    package = into / "gpve_runtime_stubs"
    package.mkdir()
    source = package / "gpve_runtime.proto"
    # A flat name: the package path gpve/... would hide the project's own package `gpve`.
    shutil.copy(PROTO / "gpve/runtime/v1/runtime.proto", source)
    # In a process of its own: the compiler's library and that of OR-Tools cannot live in one.
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{package}"]
    command += [f"--python_out={package}", f"--grpc_python_out={package}", str(source)]
    subprocess.run(command, check=True)
    sys.path.insert(0, str(package))


def load() -> tuple[Any, Any]:
    """The modules of messages and of the service."""
    if "gpve_runtime_pb2" not in sys.modules:
        folder = Path(tempfile.mkdtemp(prefix="gpve-stubs-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        generate(folder)
    names: list[ModuleType] = [importlib.import_module(n) for n in ("gpve_runtime_pb2", "gpve_runtime_pb2_grpc")]
    return names[0], names[1]
