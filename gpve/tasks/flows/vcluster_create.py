"""Create a vCluster: place it, make its datastore and ports, define its control plane, register its endpoint, start it.

A vCluster is a group of processes on a node: an API server and its controllers over a datastore on a volume. Clients
reach it by an endpoint that the node serves from the vCluster's creation to its deletion.
"""

from dataclasses import replace
from typing import Annotated, Any

from pydantic import ConfigDict, Field

from gpve.tasks.flow import Command, Context, Flow, Step
from gpve.tasks.flows.create import (
    Created,
    Disk,
    Gib,
    Pool,
    Ranked,
    autostart,
    close,
    drop_volumes,
    locks,
    make_volumes,
    open_,
    place,
    plug_ports,
    unplug_ports,
)
from gpve.tasks.flows.guests import on, ports, read, spec, unplace, volumes

Version = Annotated[str, Field(pattern=r"^v1\.[0-9]{1,3}\.[0-9]{1,3}$")]


class VclusterCreateFirst(Created):
    """A vCluster to create."""

    model_config = ConfigDict(title="VclusterCreate")
    version: Version = Field(default="v1.31.0", description="Of Kubernetes.")
    pool: Pool = Field(default="local", description="Where its datastore is.")
    datastore_gib: Gib = Field(default=4, description="How large its datastore is, GiB.")

    def made_of(self) -> dict[str, Any]:
        """Its spec."""
        return super().made_of() | {"version": self.version}

    def volumes_to_make(self) -> tuple[Disk, ...]:
        """Its datastore."""
        return (Disk(pool=self.pool, size_gib=self.datastore_gib),)


class VclusterCreate(VclusterCreateFirst, Ranked):
    """A vCluster to create."""


def define(vcluster: Context) -> Command:
    """Write down what its control plane is made of, certificates and all."""
    return on(vcluster, "vcluster.define", spec=dict(spec(vcluster)), volumes=volumes(vcluster), ports=ports(vcluster))


def undefine(vcluster: Context) -> Command:
    """Forget it."""
    return on(vcluster, "vcluster.undefine")


def register(vcluster: Context) -> Command:
    """Serve its endpoint."""
    return on(vcluster, "vcluster.register")


def unregister(vcluster: Context) -> Command:
    """Serve it no more."""
    return on(vcluster, "vcluster.unregister")


def start(vcluster: Context) -> Command:
    """Start its control plane."""
    return on(vcluster, "vcluster.start")


def stop(vcluster: Context) -> Command:
    """End its control plane."""
    return on(vcluster, "vcluster.stop")


vcluster_create = Flow(
    "vcluster_create",
    version=2,
    body=VclusterCreate,
    open=open_("vcluster"),
    locks=locks,
    read=read,
    close=close,
    steps=[
        Step("place", place, undo=unplace, waits=True),
        Step("datastore", make_volumes, undo=drop_volumes),
        Step("ports", plug_ports, undo=unplug_ports, needs=("place",)),
        Step("define", define, undo=undefine, needs=("datastore", "ports")),
        Step("endpoint", register, undo=unregister),
        Step("start", start, undo=stop, only_if=autostart),
    ],
)
vcluster_create_first = replace(vcluster_create, version=1, body=VclusterCreateFirst)
"""As it was before priorities: tasks of it may be in somebody's store."""
