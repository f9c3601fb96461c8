"""How a server is to run."""

import os
import secrets
import socket
from dataclasses import dataclass, field
from pathlib import Path

from gpve.model.errors import InputError

API_PORT, RPC_PORT, NODE_PORT = 7460, 7461, 7462


@dataclass(frozen=True)
class Settings:
    """``directory``: where it keeps its certificate, its first token and, without a database, its SQLite file."""

    directory: Path
    database: str = ""
    bind: str = "127.0.0.1"
    advertise: str = ""
    """By which host name or address nodes and other servers reach it; empty: as ``bind``."""
    api_port: int = API_PORT
    rpc_port: int = RPC_PORT
    node_port: int = NODE_PORT
    tls: bool = True
    """Whether the APIs are served over TLS. The port of nodes always is."""
    policy: str = "best-fit"
    name: str = field(default_factory=lambda: f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}")
    node_lease_s: float = 15.0
    node_margin_s: float = 5.0
    lease_s: float = 15.0
    keep_s: float = 7 * 86_400.0
    """How long a closed task is kept."""

    def __post_init__(self) -> None:
        if "/" in self.name or not self.name or len(self.name) > 100:
            raise InputError("1 to 100 characters without a slash are wanted", column="name")
        if not self.tls and self.bind not in ("127.0.0.1", "::1", "localhost"):
            raise InputError("without TLS only the loopback is served", column="bind")

    @property
    def address(self) -> str:
        """The database's."""
        return self.database or f"sqlite:///{self.directory / 'gpve.db'}"

    @property
    def host(self) -> str:
        """By which it is reached."""
        return self.advertise or ("127.0.0.1" if self.bind in ("0.0.0.0", "::") else self.bind)

    @property
    def url(self) -> str:
        """Of its HTTP API."""
        return f"http{'s' if self.tls else ''}://{self.host}:{self.api_port}"
