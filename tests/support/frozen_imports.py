"""Imported last by a process that forks: what it has imported is left out of its children's garbage collections.

A collection writes to every object that it looks at, and a page that a child writes to is a page that is copied.
"""

from __future__ import annotations

import gc

gc.collect()
gc.freeze()
