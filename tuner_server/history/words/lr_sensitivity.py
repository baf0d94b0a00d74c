"""What an LR that is off would cost, by a search's own evidence: its probes, and the surrogate between them.

It is told as a part of what the best probe gained, which has no unit (`core.laws.lr_sensitivity`), and holds over a
probe: a longer run loses less by an LR that is too low (docs/methods/stability.md).
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from tuner_server.core.evidence.promise import FIRST_LOSSES
from tuner_server.core.laws.lr_sensitivity import loss_off_by, lost_share
from tuner_server.history.stage import Stage
from tuner_server.history.words.numbers import share

FACTOR = 3.0
"""How far off the LR is that is told of: half a decade, as the steps of a usual grid."""


@dataclasses.dataclass(frozen=True, slots=True)
class LrSensitivity:
    """The parts of the best probe's gain that LRs lack which are off by `FACTOR`; None: none was tried so far out."""

    lower: float | None
    higher: float | None

    @classmethod
    def of(cls, stage: Stage) -> LrSensitivity | None:
        """What the search of a stage tells; None: its probes were not measured, or none gained anything."""
        start = _start(stage)
        if start is None or not all(candidate.measured or candidate.diverged for candidate in stage.candidates):
            return None
        lrs, losses = _curve(stage)
        if not lrs or not min(losses) < start:
            return None
        best = int(np.argmin(losses))

        def lost(factor: float) -> float | None:
            loss = loss_off_by(lrs, losses, lrs[best], factor, start)
            return None if loss is None else lost_share(loss, losses[best], start)

        found = cls(lost(1 / FACTOR), lost(FACTOR))
        return None if found.lower is None and found.higher is None else found

    @property
    def words(self) -> str:
        """Both parts, in words."""
        parts = [
            (f"{'a third of' if factor < 1 else 'three times'} the best LR", part)
            for factor, part in ((1 / FACTOR, self.lower), (FACTOR, self.higher))
            if part is not None
        ]
        (lr, part), *others = parts
        words = f"Over a probe {lr} would lose {share(part, 1.0)} of what the best one gained"
        longer = " A longer run loses less by too low an LR." if self.lower is not None else ""
        return f"{words}{''.join(f', and {lr} {share(part, 1.0)}' for lr, part in others)}.{longer}"


def words(stage: Stage) -> str:
    """What an LR would have cost that is off, as a sentence; empty: nothing tells."""
    found = LrSensitivity.of(stage)
    return "" if found is None else found.words


def _curve(stage: Stage) -> tuple[list[float], list[float]]:
    """LRs, ascending, and their losses: the surrogate's where it was asked, and beyond that those of the candidates.

    The loss of a probe that diverged is infinite.
    """
    curve = stage.posterior
    known = {} if curve is None else dict(zip(curve.lr, curve.mean, strict=True))
    low, high = (curve.lr[0], curve.lr[-1]) if curve is not None else (math.inf, -math.inf)
    known |= {c.lr: c.loss for c in stage.candidates if not low <= c.lr <= high}
    lrs = sorted(known)
    return lrs, [known[lr] for lr in lrs]


def _start(stage: Stage) -> float | None:
    """The loss before the first step, in the measure that probes are judged by; None: there is none that is a number.

    Where it is no validation, it is the mean of the first losses at the lowest LR, which hardly moves in these steps.
    """
    spans = [probe.span for probe in stage.tried if probe.span is not None]
    if stage.validated:
        before = [v.loss for span in spans for v in span.validations if v.step == 0]
        return before[0] if before else None
    firsts = [span.losses[:FIRST_LOSSES] for span in sorted(spans, key=lambda span: span.profile.peak)]
    return next((float(losses.mean(dtype=np.float64)) for losses in firsts if np.isfinite(losses).all()), None)
