"""The constants of policy `open_ended`, as options.

Notation: n, the steps of a probe that move the weights.
"""

from __future__ import annotations

import pydantic
from lrpilot.wire.profile import Shape

from tuner_server.core.evidence.divergence import DIVERGENCE_FACTOR
from tuner_server.core.messages import MAX_STEPS, BatchSource
from tuner_server.core.policies.base import Options
from tuner_server.core.profiles import DecayField
from tuner_server.core.search.prior import LENGTH_EXPONENT
from tuner_server.core.stages.decayed_probe import probe_length
from tuner_server.core.stages.ending import ANNEALING_MEMORY_SHARE, FLOOR, EndingName

BLIND_PROBE = 20
"""n in a run whose steps are not known, and may be few."""


class OpenEndedOptions(Options):
    """The constants of the method."""

    probe_steps: int | None = pydantic.Field(default=None, ge=4)
    """n; None: 20, or as with policy budget where the steps of the run are known."""
    refinements: int = pydantic.Field(default=3, ge=0, le=50)
    """Candidates of the search at the start after the best one is bracketed."""
    max_candidates: int = pydantic.Field(default=8, ge=1, le=100)
    """Candidates of that search."""
    length_exponent: float = pydantic.Field(default=LENGTH_EXPONENT, ge=0, le=1)
    """How fast the best peak LR falls from the length of a probe to that of the first stage."""
    plateau_factor: float = pydantic.Field(default=0.53, gt=0, le=2)
    """The LR of a plateau that is cooled down over its last fifth, relative to the peak of a linear decay as long."""
    plateau_exponent: float = pydantic.Field(default=LENGTH_EXPONENT, ge=0, le=1)
    """How fast the plateau falls with the steps so far."""
    first_stage: int = pydantic.Field(default=500, ge=20, le=MAX_STEPS)
    """Committed steps of the first stage; every further one is twice as long."""
    cooldown: float = pydantic.Field(default=0.2, gt=0, le=1)
    """Part of the committed steps in which the LR falls to zero where an end is known, or the patience is at an end."""
    annealing: DecayField = Shape.LINEAR
    """How the LR falls to zero there: any shape between the plateau's LR and zero, by its text."""
    ending: EndingName = EndingName.VALIDATED
    """Whether the LR falls to zero there, or to a floor with an average of the weights."""
    floor: float = pydantic.Field(default=FLOOR, ge=0, lt=1)
    """The part of the peak that the LR falls to where the weights are averaged."""
    average_memory: float = pydantic.Field(default=ANNEALING_MEMORY_SHARE, gt=0, le=1)
    """The part of the annealing's steps that the average remembers."""
    look_share: float = pydantic.Field(default=0.04, ge=0, le=0.5)
    """Part of the steps that looks at the plateau's LR may take; 0: there are none."""
    patience: int | None = pydantic.Field(default=None, ge=1)
    """After so many stages that gained nothing the run cools down and ends; None: never."""
    warmup: float = pydantic.Field(default=0.05, ge=0, lt=1)
    """Part of a probe, and of the first stage, in which the LR rises linearly."""
    batches: BatchSource = BatchSource.REPLAYED
    """Whether the probes share their minibatches or go on in the data."""
    widening: float = pydantic.Field(default=10.0, ge=1)
    """How far the search may leave the range, as a factor."""
    divergence_factor: float = pydantic.Field(default=DIVERGENCE_FACTOR, gt=0)
    """Losses so many times as far above what is typical as sound probes came below it have diverged."""

    def probe_length(self, total_steps: int | None) -> int:
        """The steps of a probe that move the weights (n), in a job of so many; None: nobody knows how many."""
        return self.probe_steps or (BLIND_PROBE if total_steps is None else probe_length(total_steps))
