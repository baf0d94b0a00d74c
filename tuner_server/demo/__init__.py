"""The demo: one tuned run against the usual schedules, on real images, in a few minutes."""

import importlib.util

from tuner_server.demo.comparison import run

__all__ = ["run"]

# The trainer processes need both; whoever lacks one should hear so before they are started.
for _needed in ("mlxtend", "torch"):
    if importlib.util.find_spec(_needed) is None:
        raise ModuleNotFoundError(f"No module named {_needed!r}", name=_needed)
