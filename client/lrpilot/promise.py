"""What committed steps are held to: they must not do worse than the probe that chose their LR.

A network that a high LR has destroyed has a finite loss, so no limit of divergence sees it. The mean over a report does
show it. The bars come with the directive: a client that can't reach its server holds to them alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from lrpilot.v1 import tuner_pb2 as pb


def broken_bar(promise: Sequence[pb.Bar], begin: int, losses: Sequence[float]) -> pb.Bar | None:
    """The bar that a report is above; None: it keeps what was promised.

    Args:
        promise: the directive's bars, ascending by their step.
        begin: the step of the directive with which the report begins.
        losses: of the report's steps, one at least.
    """
    bar = next((bar for bar in reversed(promise) if bar.from_step <= begin), None)
    if bar is None or math.fsum(losses) / len(losses) <= bar.mean_loss:
        return None
    return bar
