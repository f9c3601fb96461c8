"""The tokens of the API: whose they are, new ones, and their end."""

import asyncio
from collections.abc import Sequence

from gpve.server import authority as certs
from gpve.server.access import Access
from gpve.server.authority import Authority
from gpve.server.problems import Problem
from gpve.tasks.errors import NotFound
from gpve.tasks.ledger import Row, Tx


class Tokens:
    """A server keeps what it knows of a token for five seconds."""

    def __init__(self, access: Access, authority: Authority) -> None:
        self._access, self._authority = access, authority
        self._known: dict[str, tuple[float, str | None]] = {}
        """By digest: when they were looked up, and their names."""

    async def caller(self, token: str) -> str | None:
        """Whose token of the API this is; None: nobody's. A token that was withdrawn works for five seconds more."""
        digest, now = certs.digest(token), asyncio.get_running_loop().time()
        known = self._known.get(digest)
        if known is None or now - known[0] > 5.0:
            rows = await self._access.read(self._access.store.rows, "token", digest=digest)
            valid = bool(rows) and rows[0]["purpose"] == certs.API
            if valid and rows[0]["expires_at"] is not None:
                valid = rows[0]["expires_at"] > await self._access.read(self._access.store.now)
            if len(self._known) > 10_000:
                self._known.clear()
            known = self._known[digest] = (now, rows[0]["name"] if valid else None)
        return known[1]

    async def make(self, name: str, purpose: str, lives_s: float | None) -> str:
        """A new token; it is shown this once."""
        return await self._access.change(lambda tx: certs.make_token(tx, name, purpose, lives_s, self._authority))

    async def all(self) -> list[Row]:
        """All tokens: what is known of them, which is not what they are."""
        return await self._access.read(self._access.store.rows, "token")

    async def withdraw(self, digest: str) -> None:
        """A token is worth nothing from now on; ``digest``: the first 12 characters will do.

        The last one that is good for the API stays: nobody could make another.
        """

        def run(tx: Tx) -> None:
            tokens = tx.where("token")
            found = [row for row in tokens if row["digest"].startswith(digest)]
            if len(found) != 1 or len(digest) < 12:
                raise NotFound("token", digest)
            if good(tx, tokens) == found:
                raise Problem(409, "not-now", f"token {found[0]['name']!r} is the last one: make another first")
            tx.delete("token", found[0]["digest"])

        await self._access.change(run)
        self._known.clear()


def good(tx: Tx, tokens: Sequence[Row]) -> list[Row]:
    """Those of these tokens that are good for the API now."""
    return [row for row in tokens if row["purpose"] == certs.API and not expired(tx, row)]


def expired(tx: Tx, token: Row) -> bool:
    """Whether its time is over."""
    return token["expires_at"] is not None and bool(token["expires_at"] <= tx.now)
