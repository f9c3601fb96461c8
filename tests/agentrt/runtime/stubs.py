"""The service's Python stubs, generated from the proto file when they are first needed (they are not committed)."""

import atexit
import importlib
import shutil
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

PROTO = Path(__file__).parents[3] / "proto"


def generate(into: Path) -> None:
    """Writes the stubs of gpve.runtime.v1 below `into`, as the package `gpve_runtime_stubs`."""
    from grpc_tools import protoc

    package = into / "gpve_runtime_stubs"
    package.mkdir()
    source = package / "gpve_runtime.proto"
    # A flat name: the package path gpve/... would hide the project's own package `gpve`.
    shutil.copy(PROTO / "gpve/runtime/v1/runtime.proto", source)
    args = ["protoc", f"-I{package}", f"--python_out={package}", f"--grpc_python_out={package}", str(source)]
    if protoc.main(args) != 0:
        raise RuntimeError("the service's stubs cannot be generated")
    sys.path.insert(0, str(package))


def load() -> tuple[Any, Any]:
    """The modules of messages and of the service."""
    if "gpve_runtime_pb2" not in sys.modules:
        folder = Path(tempfile.mkdtemp(prefix="gpve-stubs-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        generate(folder)
    names: list[ModuleType] = [importlib.import_module(n) for n in ("gpve_runtime_pb2", "gpve_runtime_pb2_grpc")]
    return names[0], names[1]
