"""The service's Python code, as the package carries it (it is generated when the package is built)."""

from typing import Any


def load() -> tuple[Any, Any]:
    """The modules of messages and of the service."""
    from gpve.runtime.v1 import runtime_pb2, runtime_pb2_grpc

    return runtime_pb2, runtime_pb2_grpc
