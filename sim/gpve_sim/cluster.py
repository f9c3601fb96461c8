"""Work for the machines of a Dask cluster."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from gpve.model.errors import InputError

Key = TypeVar("Key")


def on_dask(address: str, run: Callable[[Any], Any], work: Sequence[tuple[str, Key, Any]]) -> Iterator[tuple[Key, Any]]:
    """``run`` of each piece of work (name, key, argument) on the cluster at ``address``: (key, result) as they come.

    ``run`` must be pure: a worker may die, and then another one takes its work, as often as need be. Raises
    `InputError` if nobody answers there.
    """
    try:
        from distributed import Client
        from distributed import as_completed as in_any_order
    except ImportError:
        raise InputError("--dask needs the package distributed: pip install 'gpve[dask]'") from None
    try:
        client = Client(address, timeout=10)
    except (OSError, TimeoutError, ValueError) as error:
        raise InputError(f"no Dask scheduler answers at {address}: {error}", column="--dask") from None
    with client:
        waiting = {client.submit(run, argument, key=f"gpve-{name}", retries=10): key for name, key, argument in work}
        for finished in in_any_order(list(waiting)):
            yield waiting[finished], finished.result()
