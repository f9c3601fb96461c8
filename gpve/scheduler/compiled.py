"""How the core is compiled: one decorator, and a cache outside the tree, keyed by what was compiled.

numba invalidates a cached function when its own file changes, not when a function that it calls does. The
cache therefore lies in a directory named by a hash of all compiled sources.
"""

import hashlib
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from numba.core.errors import NumbaExperimentalFeatureWarning


def cache_root() -> Path:
    """Where GPVE keeps what can be made again: $XDG_CACHE_HOME/gpve, else ~/.cache/gpve."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "gpve"


def sources() -> list[Path]:
    """All files whose text can change what is compiled: of the scheduler without the optimizer, which calls the core
    and is not called by it, of the loop, and the reasons, whose numbers the core returns."""
    scheduler = Path(__file__).resolve().parent
    root = scheduler.parent.parent
    lab = root / "sim" / "gpve_sim"
    if not lab.is_dir():
        lab = root / "gpve_sim"
    found = [*scheduler.rglob("*.py"), *(lab / "kernel").rglob("*.py"), scheduler.parent / "model" / "reasons.py"]
    return sorted(path for path in found if scheduler / "optimize" not in path.parents)


def _sources_hash() -> str:
    digest = hashlib.sha256(f"{numba.__version__}".encode())
    for path in sources():
        digest.update(f"{path.parent.name}/{path.name}".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


# Function pointers with a fixed type are what lets one compiled loop serve every policy.
warnings.filterwarnings("ignore", category=NumbaExperimentalFeatureWarning)

if not os.environ.get("NUMBA_CACHE_DIR"):
    numba.config.CACHE_DIR = str(cache_root() / "compiled" / _sources_hash())

OPTIONS: dict[str, Any] = {
    "cache": True,
    "nogil": True,
    # Divisions by zero give infinities: a score of one is reported, not raised from the middle of a loop.
    "error_model": "numpy",
    # The core allocates nothing and owns nothing: without reference counts a replay is six times faster.
    "_nrt": False,
}
"""How everything here is compiled; no reordering of floating-point sums."""


def cache_directory() -> Path:
    """Where what was compiled of these very sources lies."""
    return Path(numba.config.CACHE_DIR)


def entry(function: Callable[..., Any]) -> Any:
    """Compile a function of the core that Python calls."""
    return numba.njit(**OPTIONS)(function)


def bound(function: Any, *arguments: Any) -> Callable[..., Any]:
    """The compiled function for arguments of just these types, without looking at the types at each call.

    Looking costs five times what a decision does. The caller must hand on arguments of the same types ever after.
    """
    signature = tuple(numba.typeof(argument) for argument in arguments)
    function.compile(signature)
    call = function.overloads[signature].entry_point
    assert callable(call)
    return call


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a function of the core into its callers.

    The state is a tuple of arrays: handing it on by value would cost more than most of these functions do. Python
    cannot call them (making that possible for each would take most of the time of compiling).
    """
    return numba.njit(forceinline=True, no_cpython_wrapper=True, no_cfunc_wrapper=True, **OPTIONS)(function)


def outlined(function: Callable[..., Any]) -> Any:
    """Compile a large function of the core that is called from several places, or seldom."""
    return numba.njit(no_cpython_wrapper=True, no_cfunc_wrapper=True, **OPTIONS)(function)


def inlined(function: Callable[..., Any]) -> Any:
    """As `kernel`, for small functions on records of several types."""
    return numba.njit(inline="always", no_cpython_wrapper=True, no_cfunc_wrapper=True, **OPTIONS)(function)
