"""Scale a vCluster: its control plane and workers have other amounts, and the containers that run go on."""

from gpve.tasks.flows.resize import Resize, resizing


class VclusterResize(Resize):
    """``cpu_milli``, ``memory_mib``: what it shall have; None: as it is."""


vcluster_resize = resizing("vcluster", VclusterResize)
