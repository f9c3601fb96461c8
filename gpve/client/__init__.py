"""The Python SDK: a cluster by its HTTP API, synchronous (`Client`) and asynchronous (`AsyncClient`)."""
