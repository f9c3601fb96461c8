"""CPython's own test suite, outside (as an ordinary user) and inside L3: which of its cases pass."""

import os
import re
import subprocess
import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path

PYTHON = "/usr/bin/python3"
#: What needs a network, takes minutes, or is about the interpreter's build rather than about the system.
LEFT_OUT = ["test_ssl", "test_urllib2net", "test_urllibnet", "test_robotparser", "test_nntplib", "test_distutils"]
POLICY = """
version = 1
[workspace]
size = "2GiB"
inodes = 400000
[limits]
memory = "4GiB"
cpus = 2.0
processes = 1024
open_files = 4096
"""


def command(modules: list[str], place: str) -> str:
    """A shell's line that runs the suite in ``place`` and prints its results."""
    chosen = " ".join(modules) if modules else "-x " + " ".join(LEFT_OUT)
    suite = f"{PYTHON} -m test -j2 --timeout 300 --junit-xml {place}/out.xml {chosen}"
    return f"cd {place}; export TMPDIR={place} HOME={place}; {suite} >{place}/log 2>&1; cat {place}/out.xml"


def passed(xml: str) -> set[str]:
    """The cases that passed."""
    # regrtest writes control characters that XML does not know.
    text = re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f]", "", xml)
    out = set()
    for case in ET.fromstring(text).iter("testcase"):
        if not any(child.tag in ("failure", "error", "skipped") for child in case):
            out.add(case.get("name", ""))
    return out


def outside(modules: list[str], timeout: float) -> set[str]:
    """Run it as an ordinary user of the host."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as place:
        Path(place).chmod(0o777)
        line = command(modules, place)
        env = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}
        user = ["setpriv", "--reuid", "12345", "--regid", "12345", "--clear-groups"] if os.geteuid() == 0 else []
        done = subprocess.run(
            [*user, "sh", "-c", line], capture_output=True, text=True, timeout=timeout, env=env, check=False
        )
        return passed(done.stdout)


def inside(kernel, modules: list[str], timeout: float) -> set[str]:
    """Run it as an agent at L3."""
    process = kernel.spawn(["sh", "-c", command(modules, "/workspace")], kernel.Policy(POLICY), stdout=subprocess.PIPE)
    out, _ = process.communicate(timeout=timeout)
    return passed(out.decode())
