"""The simulated world: a store, nodes and a clock that the very engine of production drives, with faults by plan."""
