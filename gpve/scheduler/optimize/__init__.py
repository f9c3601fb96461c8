"""Optimal placement by OR-Tools: batches, consolidation, and bounds on what any policy could reach."""
