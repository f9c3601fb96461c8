"""The compiled loop of a replay at placement fidelity, and what it records."""
