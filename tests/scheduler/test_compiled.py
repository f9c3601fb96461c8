"""The cache of compiled code cannot go stale: whatever a compiled function is made of is in its key."""

import ast
import importlib
import pkgutil
from pathlib import Path

import gpve_sim

import gpve
from gpve.scheduler import compiled
from gpve.scheduler.compiled import sources

DECORATORS = tuple(f"gpve.scheduler.compiled.{name}" for name in ("entry", "kernel", "outlined", "inlined", "OPTIONS"))
COMPILING = (*DECORATORS, "numba", "llvmlite")
"""What a module imports that has compiled functions."""
VALUES = {"gpve.model", "gpve.model.columns", "gpve.model.errors", "gpve.model.kinds"}
"""Values for Python alone: no compiled function names what is in them."""
SAID = {"gpve_sim.results"}
"""These import numba to say which version it is."""
PATHS = {"cache_root", "cache_directory"}
"""What says where the cache is."""


def test_the_decorators_are_all():
    """Whatever else `gpve.scheduler.compiled` comes to offer is looked at here first."""
    offered = {name for name, value in vars(compiled).items() if getattr(value, "__module__", "") == compiled.__name__}
    assert offered == {"entry", "kernel", "outlined", "inlined", "bound", "sources", "_sources_hash", *PATHS}


def modules():
    """Name -> file of everything here."""
    found = {}
    for package in (gpve, gpve_sim):
        for root in package.__path__:
            for module in pkgutil.walk_packages([root], package.__name__ + "."):
                name = module.name
                path = Path(root, *name.split(".")[1:])
                found[name] = path / "__init__.py" if module.ispkg else path.with_suffix(".py")
    return found


def imported(path):
    """Names of the modules that a file imports, in functions too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: a relative import"
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_all_that_is_compiled_is_in_the_key():
    """Every module that compiles, and every module of ours that it takes anything from."""
    files = modules()
    due = {n for n, f in files.items() if any(i.startswith(COMPILING) for i in imported(f))} - SAID
    policies = {n for n in files if n.startswith("gpve.scheduler.policies.")}
    assert {"gpve.scheduler.place", "gpve_sim.kernel.loop", "gpve_sim.kernel.batch"} <= due
    due |= policies
    seen = set()
    while due - seen:
        name = (due - seen).pop()
        seen.add(name)
        due |= {i for i in imported(files[name]) if i in files and i not in VALUES}
    missing = {name for name in seen if files[name].resolve() not in set(sources())}
    assert not missing
    assert all(path.exists() for path in sources())


def test_values_are_no_numbers_of_the_core():
    """What the key leaves out holds no number that a compiled function could have taken in."""
    kernels = {path for path in sources() if "def " in path.read_text()}
    for path in kernels:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module in VALUES:
                module = importlib.import_module(node.module)
                for alias in node.names:
                    assert not isinstance(getattr(module, alias.name), int | float), f"{path.name}: {alias.name}"
