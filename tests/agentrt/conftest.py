"""The agent runtime's tests: skipped by name, with the reason, where it was not built or the host cannot."""

import importlib.util
import os

import pytest

ROOT = os.geteuid() == 0


@pytest.fixture(scope="session")
def kernel():
    """The Python package of the Agent Kernel."""
    if importlib.util.find_spec("gpve_agent_kernel") is None:
        pytest.skip("gpve_agent_kernel is not built (make agentrt builds it where cargo is installed)")
    import gpve_agent_kernel

    return gpve_agent_kernel


@pytest.fixture(scope="session")
def sandbox(kernel):
    """The package, on a host that can make sandboxes as root."""
    host = kernel.host()
    if not ROOT:
        pytest.skip("needs root: agents get ids and cgroups of their own")
    if host["landlock"] < 6 or not host["user_namespaces"]:
        pytest.skip("needs Landlock ABI 6 and user namespaces")
    if "memory" not in host["cgroups"]["places"]:
        pytest.skip("needs a memory cgroup")
    return kernel
