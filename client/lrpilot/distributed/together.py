"""What may fail on one of several ranks, and then fails on all: no rank goes where the others don't."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from lrpilot.errors import LRPilotError

if TYPE_CHECKING:
    from lrpilot.distributed.ranks import Ranks


def together(ranks: Ranks | None, act: Callable[[], object]) -> None:
    """Does something on every rank; collective. `ranks` None: this process trains alone.

    Raises:
        Exception: what `act` raises here.
        LRPilotError: it raised on another rank.
    """
    failure: Exception | None = None
    try:
        act()
    except Exception as error:
        failure = error
    failed = failure is not None if ranks is None else ranks.any(failure is not None)[0]
    if failed:
        raise failure or LRPilotError("it failed on another rank")
