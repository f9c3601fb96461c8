"""The live driver of tasks: the worker's loop over a real store and real nodes."""
