"""Delete a volume that belongs to no guest. Its data is lost: the commit point."""

from typing import Any

from gpve.tasks.errors import Forbidden
from gpve.tasks.flow import Context, Flow, Opened, Step
from gpve.tasks.flows.free_volumes import OnVolume, locks, read, remove, steady_volume
from gpve.tasks.ledger import Tx


def _open(tx: Tx, wish: Any, task: int) -> Opened:
    row = steady_volume(tx, wish.body.volume)
    if row["guest"] is not None:
        raise Forbidden(f"delete volume {row['id']!r}", f"attached to guest {row['guest']}", ("volume_detach",))
    tx.put("volume", {**row, "task": task})
    return Opened(row["id"])


def _close(tx: Tx, seen: Context, done: bool) -> None:
    row = tx.get("volume", seen.target)
    if row is not None and done:
        tx.delete("volume", seen.target)
    elif row is not None:
        tx.put("volume", {**row, "task": None})


volume_delete = Flow(
    "volume_delete",
    version=1,
    body=OnVolume,
    open=_open,
    locks=locks,
    read=read,
    close=_close,
    steps=[Step("remove", remove, commit=True)],
)
