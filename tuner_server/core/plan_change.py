"""A change of the plan of a run, as it is asked for and as it takes effect."""

from __future__ import annotations

import pydantic
from lrpilot.schedules.batch_size import lr_factor
from lrpilot.wire.plan_change import BatchScaling, ChangeKind, ChangeOrigin

from tuner_server.core.values import Lr, Steps, Text, Value

LARGEST_LR_FACTOR = 4.0
"""A change of the batch size moves the LR by no more than this factor either way, as a first guess."""
MAX_CHANGE_REASON = 500
"""Characters of the reason for a change of the plan."""
MAX_REQUEST_ID = 100
"""Characters of the name of a request for a change of the plan."""


class PlanChange(Value):
    """A change of the plan of a run: what `PlanChange` of the proto tells."""

    kind: ChangeKind
    total_steps: Steps | None = None
    """Optimizer steps of the whole run from now on, search included; None: as before, or no end is known."""
    anneal_steps: Steps | None = None
    """How many steps an annealing takes."""
    later_steps: Steps | None = None
    """By how many steps the end moves from where it is by then; None: `total_steps` says where to."""
    batch_factor: Lr | None = None
    """The new batch size over the old one; None: it stays."""
    batch_scaling: BatchScaling = BatchScaling.SQRT
    reason: Text = pydantic.Field(default="", max_length=MAX_CHANGE_REASON)
    origin: ChangeOrigin = ChangeOrigin.CLIENT
    request_id: Text = pydantic.Field(default="", max_length=MAX_REQUEST_ID)
    """The name that whoever asks at the server has given the request; empty: none."""

    @property
    def lr_factor(self) -> float:
        """What the LR is multiplied by, as a first guess: the batch size's power, within `LARGEST_LR_FACTOR`."""
        if self.batch_factor is None:
            return 1.0
        factor = lr_factor(self.batch_factor, self.batch_scaling)
        return min(max(factor, 1.0 / LARGEST_LR_FACTOR), LARGEST_LR_FACTOR)
