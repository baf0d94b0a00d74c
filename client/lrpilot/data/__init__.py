"""Batches: where a run is in its data, and the same ones again."""
