"""Measurements that the documentation quotes; each module runs with `python -m`."""
