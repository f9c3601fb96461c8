"""The tokens of the API: there is always one more way in."""

import asyncio
from pathlib import Path

import pytest

from gpve.server import authority as certs
from gpve.server.problems import Problem
from gpve.server.run import _first
from gpve.server.settings import Settings
from gpve.server.tokens import Tokens
from gpve.store.database import connect, migrate
from gpve.store.sql import SqlStore
from gpve.tasks.errors import NotFound
from gpve.tasks.ledger import Work


class Access:
    """Changes without a server."""

    def __init__(self, store: SqlStore) -> None:
        self.store = store

    async def change(self, run):
        (answer,) = self.store.transact([Work(run)])
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(tmp_path)


@pytest.fixture
def store(settings: Settings) -> SqlStore:
    engine = connect(settings.address)
    migrate(engine)
    return SqlStore(engine)


def begun(store: SqlStore, settings: Settings) -> str:
    """The token that a server's directory has after its start."""
    asyncio.run(_first(store, settings))
    return (settings.directory / "token").read_text().strip()


def test_a_server_that_starts_when_all_tokens_have_expired_writes_a_new_one(
    store: SqlStore, settings: Settings
) -> None:
    first = begun(store, settings)
    assert begun(store, settings) == first, "it is good still"

    def expire(tx) -> None:
        for row in tx.where("token"):
            tx.put("token", {**row, "expires_at": tx.now - 1.0})

    store.transact([Work(expire)])
    second = begun(store, settings)
    assert second != first
    assert begun(store, settings) == second
    good = [row["digest"] for row in store.rows("token") if row["expires_at"] is None]
    assert good == [certs.digest(second)]


def test_the_last_token_cannot_be_withdrawn(store: SqlStore, settings: Settings) -> None:
    first = certs.digest(begun(store, settings))
    tokens = Tokens(Access(store), None)  # type: ignore[arg-type]

    async def attempt() -> None:
        old = certs.digest(await tokens.make("old", certs.API, -1.0))
        with pytest.raises(Problem, match="'first' is the last one: make another first") as refused:
            await tokens.withdraw(first)
        assert refused.value.status == 409
        await tokens.withdraw(old)
        other = certs.digest(await tokens.make("other", certs.API, 60.0))
        await tokens.withdraw(first[:12])
        with pytest.raises(NotFound):
            await tokens.withdraw(first)
        with pytest.raises(Problem):
            await tokens.withdraw(other)

    asyncio.run(attempt())
