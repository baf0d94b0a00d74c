"""The constants of policy `budget`, as options.

Notation: n, the steps of a probe that move the weights; gamma, the exponent with which the best
peak LR falls with length.
"""

from __future__ import annotations

import pydantic
from lrpilot.wire.profile import Shape

from tuner_server.core.evidence.divergence import DIVERGENCE_FACTOR
from tuner_server.core.messages import BatchSource
from tuner_server.core.policies.base import Options
from tuner_server.core.profiles import DecayField
from tuner_server.core.search.prior import LENGTH_EXPONENT
from tuner_server.core.stages.decayed_probe import probe_length
from tuner_server.core.stages.early_warning import EarlyWarningName
from tuner_server.core.stages.ending import FLOOR, MEMORY_SHARE, EndingName


class BudgetOptions(Options):
    """The constants of the method. The defaults are measured ones, see docs/quality.md."""

    probe_steps: int | None = pydantic.Field(default=None, ge=4)
    """n; None: 0.1% of the total steps, but 20 to 65, and at most 2%."""
    refinements: int = pydantic.Field(default=3, ge=0, le=50)
    """Candidates after the best one is bracketed."""
    max_candidates: int = pydantic.Field(default=8, ge=1, le=100)
    length_exponent: float = pydantic.Field(default=LENGTH_EXPONENT, ge=0, le=1)
    """gamma. 0.32 was reported over token horizons (Bjorck et al. 2024); ours was measured (docs/quality.md)."""
    warmup: float = pydantic.Field(default=0.05, ge=0, lt=1)
    """Part of a probe, and of the committed steps, in which the LR rises linearly."""
    decayed_probes: bool = True
    """Whether a probe's LR decays to zero; if not, it is constant."""
    batches: BatchSource = BatchSource.REPLAYED
    """Whether the probes share their minibatches or go on in the data."""
    decay: DecayField = Shape.LINEAR
    """How the committed LR moves: any shape between its peak and zero, by its text."""
    ending: EndingName = EndingName.VALIDATED
    """Whether the committed LR falls to zero, or to a floor with an average of the weights."""
    floor: float = pydantic.Field(default=FLOOR, ge=0, lt=1)
    """The part of its peak that the LR falls to where the weights are averaged."""
    average_memory: float = pydantic.Field(default=MEMORY_SHARE, gt=0, le=1)
    """The part of the committed steps that the average remembers."""
    widening: float = pydantic.Field(default=10.0, ge=1)
    """How far the search may leave the range, as a factor."""
    divergence_factor: float = pydantic.Field(default=DIVERGENCE_FACTOR, gt=0)
    """Losses so many times as far above what is typical as sound probes came below it have diverged."""
    early_warnings: tuple[EarlyWarningName, ...] = ()
    """By which signs a probe ends before it diverges; empty: by none."""

    def probe_length(self, total_steps: int) -> int:
        """The steps of a probe that move the weights (n), in a job of `total_steps`."""
        return self.probe_steps or probe_length(total_steps)
