"""The node agent: GPVE's own process on a node. It dials in, makes operations once, and holds guests by a lease."""
