"""Upgrade a vCluster to a newer Kubernetes: back its datastore up, upgrade, see that it answers, drop the backup.

A newer version writes its datastore anew, so the way back is the backup. When the new version is accepted there is no
way back: the commit point.
"""

from typing import Any

from pydantic import Field

from gpve.tasks.errors import Forbidden
from gpve.tasks.events import decode, encode
from gpve.tasks.flow import Command, Context, Flow, Step
from gpve.tasks.flows.guests import OnGuest, begin, end, on, only_guest, read, spec, was
from gpve.tasks.flows.vcluster_create import Version
from gpve.tasks.ledger import Row, Tx


class VclusterUpgrade(OnGuest):
    """What a vCluster shall become."""

    version: Version = Field(description="Of Kubernetes: a newer one than it has.")


def backup(vcluster: Context) -> Command:
    """The datastore as it is."""
    return on(vcluster, "volume.hold", name="upgrade")


def drop_backup(vcluster: Context) -> Command:
    """It is of no use any more."""
    return on(vcluster, "volume.let-go", name="upgrade")


def upgrade(vcluster: Context) -> Command:
    """The new version takes the datastore over."""
    return on(vcluster, "vcluster.upgrade", version=vcluster.body.version)


def downgrade(vcluster: Context) -> Command:
    """The old version, over the backup."""
    return on(vcluster, "vcluster.downgrade", version=spec(vcluster)["version"], name="upgrade")


def accept(vcluster: Context) -> Command:
    """It answers, if it ran before, and says that it is of the new version."""
    return on(vcluster, "vcluster.accept", version=vcluster.body.version, running=was(vcluster, "running"))


def _newer(tx: Tx, guest: Row, body: Any) -> None:
    has = decode(guest["spec"])["version"]
    if _numbers(body.version) <= _numbers(has):
        raise Forbidden(f"upgrade vcluster {guest['id']} to {body.version}", f"at {has}", ("a newer version",))


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version[1:].split(".")]


def _upgraded(tx: Tx, vcluster: Context, guest: Row) -> Row:
    return {**guest, "spec": encode({**decode(guest["spec"]), "version": vcluster.body.version})}


vcluster_upgrade = Flow(
    "vcluster_upgrade",
    version=1,
    body=VclusterUpgrade,
    open=begin("vcluster", "upgrade", _newer),
    locks=only_guest,
    read=read,
    close=end("upgrade", after=_upgraded),
    steps=[
        Step("backup", backup, undo=drop_backup),
        Step("upgrade", upgrade, undo=downgrade),
        Step("accept", accept, commit=True),
        Step("drop-backup", drop_backup),
    ],
)
