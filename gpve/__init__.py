"""GPVE: virtual machines, virtual Kubernetes clusters and AI agents under one scheduler and one lifecycle."""

__version__ = "0.1.0"
