"""Examine an installation."""

import importlib.metadata
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from gpve.scheduler.compiled import cache_directory


@dataclass(frozen=True)
class Finding:
    """One check."""

    check: str
    ok: bool
    found: str
    advice: str
    needed: bool = True
    """False: only some commands need it."""


_PACKAGES = {
    "numpy": True, "numba": True, "pyarrow": True, "pandas": True, "matplotlib": True, "ortools": True,
    "distributed": False, "nbclient": False,
}  # fmt: skip


def examine() -> list[Finding]:
    """All checks, in the order in which a user would want to mend them."""
    version = ".".join(map(str, sys.version_info[:3]))
    findings = [Finding("Python", sys.version_info >= (3, 11), version, "GPVE needs Python 3.11 or newer")]
    for name, needed in _PACKAGES.items():
        try:
            found = importlib.metadata.version(name)
            findings.append(Finding(name, True, found, "", needed))
        except importlib.metadata.PackageNotFoundError:
            findings.append(Finding(name, False, "", f"pip install {name}", needed))
    findings.append(_compile_cache(cache_directory()))
    findings.append(_traces())
    findings.append(_memory())
    return findings


def _compile_cache(directory: Path) -> Finding:
    advice = "compiled code cannot be kept: each start compiles for a minute; make the directory writable"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        return Finding("compile cache", False, "", f"{directory}: {error.strerror}; {advice}", needed=False)
    warm = any(directory.rglob("*.nbc"))
    return Finding("compile cache", True, f"{directory} ({'warm' if warm else 'cold: the first replay compiles'})", "")


def _traces() -> Finding:
    from gpve_sim.catalogue import available

    names = sorted(available())
    real = [name for name in names if not name.startswith("generated/")]
    advice = "no real traces here; `gpve traces pull NAME` fetches them, generated/... needs none"
    return Finding("real traces", bool(real), f"{len(real)}: {', '.join(real[:4])}, ...", advice, needed=False)


def _memory() -> Finding:
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    gib = pages / 2**30
    return Finding("memory", gib >= 2, f"{gib:.0f} GiB", "2 GiB are needed for a million guests", needed=False)
