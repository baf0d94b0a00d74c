"""What committed steps are held to: they must not do worse than the probe that chose their LR.

A network that a high LR has destroyed has a finite loss, so no limit of divergence sees it. The median of a report
does, and is not moved by a bad batch. Validations show a run that forgets what it knew, or overfits. The bars come with
the directive: a client that can't reach its server holds to them alike.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from lrpilot.v1 import tuner_pb2 as pb


def is_above(bar: pb.Bar, losses: Sequence[float], validations: Sequence[float], before: float | None) -> bool:
    """Whether a report is above its bar.

    Args:
        bar: what it is held to.
        losses: of its steps, one at least.
        validations: of its steps, in order.
        before: the validation before these, since the snapshot; None: there was none. One that is above the bar may be
            the noise of a high LR, two in a row are not.
    """
    if statistics.median(losses) > bar.loss:
        return True
    if not bar.HasField("validation") or not validations:
        return False
    *earlier, last = [*([] if before is None else [before]), *validations]
    return bool(earlier) and min(earlier[-1], last) > bar.validation
