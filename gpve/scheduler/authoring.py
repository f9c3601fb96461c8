"""What turns a user's plain Python function into a part of a policy, and a compiler's complaint into a sentence.

numba compiles most of what one writes in ten lines, but not generator expressions: those that are the sole argument
of a call (``sum(x for x in y)``) become lists. Attributes of ``node`` and ``req`` are checked before compiling, where
the line is still known.
"""

import ast
import builtins
import difflib
import inspect
import re
import textwrap
from collections.abc import Callable
from typing import Any

import numba
from numba.core.errors import NumbaError

from gpve.model.errors import InputError
from gpve.scheduler.columns import NODE, REQUEST

PARAMETERS = ("free_cpu", "free_mem", "free_gpu", "node", "req")


class _Lists(ast.NodeTransformer):
    """Generator expressions that are the sole argument of a call, as lists."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if len(node.args) == 1 and isinstance(node.args[0], ast.GeneratorExp):
            generator = node.args[0]
            node.args = [ast.copy_location(ast.ListComp(generator.elt, generator.generators), generator)]
        return node


def prepare(function: Callable[..., Any], extra: tuple[str, ...] = ()) -> Callable[..., Any]:
    """The function, rewritten where the compiler needs it; its lines keep their numbers.

    ``extra`` are parameters after the five that every part of a policy has. Raises `InputError` with the user's file
    and line for a wrong number of parameters and for an attribute that ``node`` or ``req`` does not have.
    """
    file = inspect.getsourcefile(function) or function.__code__.co_filename
    first = function.__code__.co_firstlineno
    names = list(inspect.signature(function).parameters)
    wanted = (*PARAMETERS, *extra)
    if len(names) != len(wanted):
        raise InputError(
            f"{function.__name__} takes {len(names)} parameters; a policy's function takes {len(wanted)}: "
            f"({', '.join(wanted)})",
            file=file,
            line=first,
        )
    try:
        source, first = inspect.getsourcelines(function)
    except OSError:
        return function  # typed into a prompt: nothing to rewrite, the compiler sees it as it is
    tree = ast.parse(textwrap.dedent("".join(source)))
    definition = tree.body[0]
    if not isinstance(definition, ast.FunctionDef):
        return function  # a lambda: no statement of its own to rewrite
    ast.increment_lineno(tree, first - 1)
    _check_names(definition, function, file)
    _check_attributes(definition, names[3], NODE.names or (), file)
    _check_attributes(definition, names[4], REQUEST.names or (), file)
    definition.decorator_list = []
    _Lists().visit(definition)
    if function.__closure__:
        return function  # rewriting would lose what it closes over
    scope: dict[str, Any] = {}
    exec(compile(ast.fix_missing_locations(tree), file, "exec"), function.__globals__, scope)
    rewritten = scope[function.__name__]
    rewritten.__module__ = function.__module__
    rewritten.__doc__ = function.__doc__
    assert callable(rewritten)
    return rewritten


def _check_names(tree: ast.FunctionDef, function: Callable[..., Any], file: str) -> None:
    """Every name that the function reads must be its own, of its module, or Python's."""
    stored = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and not isinstance(n.ctx, ast.Load)}
    known = stored | {a.arg for a in ast.walk(tree) if isinstance(a, ast.arg)} | set(function.__code__.co_freevars)
    # Decorators may name what is still being made.
    for statement in tree.body:
        for found in ast.walk(statement):
            if not isinstance(found, ast.Name) or found.id in known:
                continue
            if found.id not in function.__globals__ and not hasattr(builtins, found.id):
                raise InputError(f"name {found.id!r} is not defined", file=file, line=found.lineno)


def _check_attributes(tree: ast.AST, name: str, known: tuple[str, ...], file: str) -> None:
    for found in ast.walk(tree):
        if not isinstance(found, ast.Attribute) or not isinstance(found.value, ast.Name):
            continue
        if found.value.id == name and found.attr not in known:
            near = difflib.get_close_matches(found.attr, known, n=1)
            hint = f"did you mean {name}.{near[0]}?" if near else f"known: {', '.join(known)}"
            raise InputError(f"{name} has no attribute {found.attr!r}; {hint}", file=file, line=found.lineno)


_PLACE = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)')
_COLOR = re.compile(r"\x1b\[[0-9;]*m")


def compile_part(signature: Any, function: Callable[..., Any]) -> Any:
    """A function pointer with a fixed type, so that the compiled loop need not be compiled again for it.

    Raises `InputError` with the user's file and line if the function cannot be compiled.
    """
    ours = function.__module__.startswith("gpve.")
    try:
        return numba.cfunc(signature, cache=ours, error_model="numpy")(function)
    except (NumbaError, KeyError, TypeError) as error:
        text = _COLOR.sub("", str(error))
        places = list(_PLACE.finditer(text))
        line = int(places[-1]["line"]) if places else function.__code__.co_firstlineno
        lines = [part.strip() for part in text.splitlines() if part.strip() and not part.startswith("Failed in")]
        problem = next((part for part in lines if not _PLACE.search(part)), "unknown reason")
        raise InputError(
            f"{function.__name__} cannot be compiled: {problem}",
            file=function.__code__.co_filename,
            line=line,
        ) from error
