"""Contexts: which cluster is meant, where its servers are and how to log in. One file, as kubectl has one."""

import os
import re
import ssl
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from gpve.client.asynchronous import AsyncClient
from gpve.client.sync import Client
from gpve.client.values import ApiError
from gpve.model.errors import InputError

NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,62})")


@dataclass(frozen=True)
class Context:
    """``servers``: URLs; ``ca``: the cluster's authority, PEM; ``token``: of the API."""

    servers: tuple[str, ...]
    token: str
    ca: str | None = None

    def checked(self) -> "Context":
        """This, if a client can be made of it. Raises `InputError`."""
        if not self.servers:
            raise InputError("at least one server is wanted")
        for server in self.servers:
            _check_url(server)
        if not re.fullmatch(r"[!-~]+", self.token):
            raise InputError("the token is none: one line of printable characters is wanted")
        try:
            if self.ca is not None:
                ssl.create_default_context(cadata=self.ca)
        except (ssl.SSLError, ValueError) as error:
            raise InputError("the cluster's authority is none: a certificate, PEM, is wanted") from error
        return self


def _check_url(server: str) -> None:
    try:
        parts = urlsplit(server)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good or not re.fullmatch(r"[!-~]+", server):
        raise InputError(f"{server!r} is no URL of a server; https://10.0.0.1:7460 is one")


@dataclass(frozen=True)
class Contexts:
    """All contexts by name, and the one that is meant when none is named."""

    current: str | None
    named: dict[str, Context]


def path() -> Path:
    """The file: GPVE_CONFIG, or ~/.config/gpve/contexts.yaml."""
    given = os.environ.get("GPVE_CONFIG")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "gpve" / "contexts.yaml"


def load() -> Contexts:
    """What the file says. Raises `InputError`."""
    file = path()
    try:
        told: Any = yaml.safe_load(file.read_text()) or {}
        named = {
            str(name): Context(tuple(map(str, one["servers"])), str(one["token"]), one.get("ca"))
            for name, one in (told.get("contexts") or {}).items()
        }
        current = told.get("current")
        return Contexts(None if current is None else str(current), named)
    except FileNotFoundError:
        return Contexts(None, {})
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", file=file) from error
    except (yaml.YAMLError, KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise InputError(f"no file of contexts: {' '.join(str(error).split())}", file=file) from error


def keep(contexts: Contexts) -> None:
    """Write the file, for its owner alone: tokens are in it. Raises `InputError`."""
    file = path()
    new = file.with_name(f"{file.name}.{os.getpid()}")
    named = {name: {**asdict(one), "servers": list(one.servers)} for name, one in contexts.named.items()}
    told = {"current": contexts.current, "contexts": named}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
            yaml.safe_dump(told, out, sort_keys=False)
        new.replace(file)
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror}", file=file) from error


def add(name: str, context: Context) -> None:
    """Add a context, or replace the one of that name; it is the current one from now on. Raises `InputError`."""
    if not NAME.fullmatch(name):
        raise InputError(f"{name!r} is no name of a context: letters, digits, dots, dashes and underscores are wanted")
    before = load()
    keep(Contexts(name, {**before.named, name: context.checked()}))


def own(ca: str, wanted: str | None = None) -> str:
    """The name of the context of the cluster that has this authority: the one that it has, else one that is free.

    ``wanted``: this one. Raises `InputError` if it is another cluster's.
    """
    named = load().named
    if wanted is not None:
        if wanted in named and named[wanted].ca != ca:
            problem = f"context {wanted!r} is of another cluster; say another name, or gpve context remove {wanted}"
            raise InputError(problem, column="--context")
        return wanted
    has = [name for name, one in named.items() if one.ca == ca]
    free = (name for number in count(1) if (name := "local" if number == 1 else f"local-{number}") not in named)
    return has[0] if has else next(free)


def remove(name: str) -> None:
    """Remove a context. If it was the current one, none is: what was meant for one cluster is not to hit another.

    Raises `InputError`.
    """
    before = load()
    if name not in before.named:
        raise InputError(f"no context {name!r}; there are {', '.join(before.named) or 'none'}")
    named = {other: one for other, one in before.named.items() if other != name}
    keep(Contexts(before.current if before.current != name else None, named))


def forget(ca: str) -> list[str]:
    """Remove all contexts of the cluster that has this authority; their names. Raises `InputError`."""
    gone = [name for name, one in load().named.items() if one.ca == ca]
    for name in gone:
        remove(name)
    return gone


def find(name: str | None = None) -> Context:
    """The context of that name, else of GPVE_CONTEXT, else the current one. Raises `InputError`."""
    contexts = load()
    wanted = name or os.environ.get("GPVE_CONTEXT") or contexts.current
    if wanted is None and contexts.named:
        raise InputError(f"no cluster is meant: gpve context use NAME; there are {', '.join(contexts.named)}")
    if wanted is None:
        raise InputError("no cluster is known here: `gpve up` starts one, `gpve context add` names one")
    if wanted not in contexts.named:
        raise InputError(f"no context {wanted!r}; there are {', '.join(contexts.named) or 'none'}")
    return contexts.named[wanted].checked()


def connect(name: str | None = None, waiting: Callable[[ApiError], None] | None = None) -> Client:
    """A client of a context's cluster; ``waiting``: as `Client` says."""
    context = find(name)
    return Client(context.servers, context.token, context.ca, waiting=waiting)


def connect_async(name: str | None = None, waiting: Callable[[ApiError], None] | None = None) -> AsyncClient:
    """An asynchronous client of a context's cluster."""
    context = find(name)
    return AsyncClient(context.servers, context.token, context.ca, waiting=waiting)
