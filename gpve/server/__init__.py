"""The control plane: HTTP and gRPC over the same use cases, the sessions of nodes, an engine in a thread."""
