"""What a change of a run's plan can be, read alike on both sides. Pure."""

from __future__ import annotations

import enum

# How the LR follows the batch size is part of a change.
from lrpilot.schedules.batch_size import BatchScaling as BatchScaling


class ChangeKind(enum.StrEnum):
    """What changes; see `PlanChangeKind` of the wire contract."""

    EXTEND = "extend"
    """The end of the run."""
    REPLAN = "replan"
    """The data, the batch size or the model: what was found before is only a guess from here on."""
    ANNEAL = "anneal"
    """The LR falls to zero now, and then the run is over."""
    UNDO_ANNEALING = "undo_annealing"
    """The run goes on from before its annealing."""


class ChangeOrigin(enum.StrEnum):
    """Who asked for a change."""

    CLIENT = "client"
    """The training program."""
    OPERATOR = "operator"
    """Somebody at the server."""
    POLICY = "policy"
    """The policy, which saw the losses leave what it had forecast."""
