"""Create a volume that belongs to no guest, on a node."""

from typing import Any

from gpve.tasks.errors import Forbidden, NotFound
from gpve.tasks.flow import Context, Flow, Opened, Step
from gpve.tasks.flows.create import Gib, NodeName, Pool, check_pool
from gpve.tasks.flows.free_volumes import OnVolume, locks, make, read, remove
from gpve.tasks.ledger import Tx


class VolumeCreate(OnVolume):
    """``volume``: its name, one in the cluster; ``node``: where, for a guest of that node to use."""

    node: NodeName
    size_gib: Gib
    pool: Pool = "local"


def _open(tx: Tx, wish: Any, task: int) -> Opened:
    body = wish.body
    check_pool(body.pool, "pool")
    if tx.get("volume", body.volume) is not None:
        raise Forbidden(f"create volume {body.volume!r}", "the name of another", ("another name",))
    if tx.get("node", body.node) is None:
        raise NotFound("node", body.node)
    row = {"id": body.volume, "guest": None, "pool": body.pool, "node": body.node}
    tx.put("volume", {**row, "size_gib": body.size_gib, "task": task})
    return Opened(body.volume)


def _close(tx: Tx, seen: Context, done: bool) -> None:
    row = tx.get("volume", seen.target)
    if row is not None and done:
        tx.put("volume", {**row, "task": None})
    elif row is not None:
        tx.delete("volume", seen.target)


volume_create = Flow(
    "volume_create",
    version=1,
    body=VolumeCreate,
    open=_open,
    locks=locks,
    read=read,
    close=_close,
    steps=[Step("make", make, undo=remove)],
)
