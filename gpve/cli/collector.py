"""How often a command looks for cycles."""

import atexit
import gc


def collect_seldom() -> None:
    """Look for cycles seldom, and not at the end.

    Else a small replay spends a quarter of its time looking for cycles among what its imports made, and taking all of
    it apart at the end. What is large are arrays, which go without being looked for.
    """
    gc.set_threshold(200_000, 2, 2)
    atexit.register(gc.freeze)
