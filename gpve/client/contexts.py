"""Contexts: which cluster is meant, where its servers are and how to log in. One file, as kubectl has one."""

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from gpve.client.asynchronous import AsyncClient
from gpve.client.sync import Client
from gpve.model.errors import InputError


@dataclass(frozen=True)
class Context:
    """``servers``: URLs; ``ca``: the cluster's authority, PEM; ``token``: of the API."""

    servers: tuple[str, ...]
    token: str
    ca: str | None = None


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
            str(name): Context(tuple(one["servers"]), str(one["token"]), one.get("ca"))
            for name, one in (told.get("contexts") or {}).items()
        }
        return Contexts(told.get("current"), named)
    except FileNotFoundError:
        return Contexts(None, {})
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"no file of contexts: {error}", file=file) from error


def keep(contexts: Contexts) -> None:
    """Write the file, for its owner alone: tokens are in it."""
    file = path()
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_name(f"{file.name}.{os.getpid()}")
    named = {name: {**asdict(one), "servers": list(one.servers)} for name, one in contexts.named.items()}
    told = {"current": contexts.current, "contexts": named}
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        yaml.safe_dump(told, out, sort_keys=False)
    new.replace(file)


def add(name: str, context: Context) -> None:
    """Add a context, or replace the one of that name; it is the current one from now on."""
    before = load()
    keep(Contexts(name, {**before.named, name: context}))


def remove(name: str) -> None:
    """Remove a context. Raises `InputError`."""
    before = load()
    if name not in before.named:
        raise InputError(f"no context {name!r}; there are {', '.join(before.named) or 'none'}")
    named = {other: one for other, one in before.named.items() if other != name}
    current = before.current if before.current != name else next(iter(named), None)
    keep(Contexts(current, named))


def find(name: str | None = None) -> Context:
    """The context of that name, else of GPVE_CONTEXT, else the current one. Raises `InputError`."""
    contexts = load()
    wanted = name or os.environ.get("GPVE_CONTEXT") or contexts.current
    if wanted is None:
        raise InputError("no cluster is known here: `gpve up` starts one, `gpve context add` names one")
    if wanted not in contexts.named:
        raise InputError(f"no context {wanted!r}; there are {', '.join(contexts.named) or 'none'}")
    return contexts.named[wanted]


def connect(name: str | None = None) -> Client:
    """A client of a context's cluster."""
    context = find(name)
    return Client(context.servers, context.token, context.ca)


def connect_async(name: str | None = None) -> AsyncClient:
    """An asynchronous client of a context's cluster."""
    context = find(name)
    return AsyncClient(context.servers, context.token, context.ca)
