"""The verbs that change what is on a node, by kind of thing; what they mean is said in `gpve.world.hardware`."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

from gpve.world.hardware import Arguments, Hardware, Verb
from gpve.world.verbs import agents, nodes, vclusters, vms, volumes

RESULTS: dict[str, Callable[[Hardware, Arguments], dict[str, Any]]] = defaultdict(lambda: lambda node, a: {})
"""By verb, what it answers."""
RESULTS["node.look"] = nodes.what_runs

VERBS: dict[str, Verb] = {
    **nodes.VERBS,
    **volumes.VERBS,
    **vms.VERBS,
    **vclusters.VERBS,
    **agents.VERBS,
}
"""By name, what the flows ask of a node."""
