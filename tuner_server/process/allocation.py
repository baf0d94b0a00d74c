"""How the C library keeps the memory of a server: what a large answer took goes back to the system after it."""

from __future__ import annotations

import ctypes
import os

# From malloc.h of the GNU C library.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
ARENAS = 2
"""Heaps that threads share. By default there are eight for each core, and each keeps what was once needed in it."""
MAPPED_BYTES = 2**20
"""Blocks of this size on are mapped by themselves, and given back at once. By default the limit rises to that of the
largest block that was ever freed, up to 32 MiB, and small blocks that outlive a large one then keep its room."""
KEPT_BYTES = 2 * 2**20
"""What may be free at the end of a heap before it is given back."""


def give_back_memory() -> None:
    """Sets that for this process, before it has threads.

    Another C library is left as it is, and so is one that the environment has settings for (`MALLOC_ARENA_MAX`).
    """
    if any(name.startswith("MALLOC_") for name in os.environ) or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        for option, value in ((_ARENA_MAX, ARENAS), (_MMAP_THRESHOLD, MAPPED_BYTES), (_TRIM_THRESHOLD, KEPT_BYTES)):
            set_option(option, value)
