"""The Python SDK: a cluster by its HTTP API, synchronous (`Client`) and asynchronous (`AsyncClient`)."""

from gpve.client.asynchronous import AsyncClient
from gpve.client.contexts import Context, connect, connect_async
from gpve.client.sync import Client
from gpve.client.values import ApiError, Change, Guest, Node, Output, Task

__all__ = [
    "ApiError",
    "AsyncClient",
    "Change",
    "Client",
    "Context",
    "Guest",
    "Node",
    "Output",
    "Task",
    "connect",
    "connect_async",
]
