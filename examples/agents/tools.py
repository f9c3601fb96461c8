"""Tools of an agent, each call in a sandbox of its own that is narrower than the agent's.

The agent may talk to its model and write to its workspace; what a tool runs may do neither.
"""

import subprocess
import sys

from gpve_agent_kernel import Policy, spawn

#: Read the interpreter, and nothing else: no network, no workspace, five seconds of CPU.
NARROW = Policy("""
version = 1
level = "L1"
[limits]
cpu_seconds = 5
address_space = "512MiB"
""")


def run_python(code: str) -> str:
    """Run Python code that the model has written; gives what it prints, or why it failed."""
    python = [getattr(sys, "_base_executable", sys.executable), "-I", "-c", code]
    tool = spawn(python, NARROW, cwd="/usr", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = tool.communicate(timeout=60)
    if tool.returncode:
        return f"failed with {tool.returncode}: {err.decode(errors='replace').strip().splitlines()[-1:]}"
    return out.decode(errors="replace").strip()
