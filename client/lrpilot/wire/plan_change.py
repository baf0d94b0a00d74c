"""What a change of a run's plan can be, read alike on both sides. Pure."""

from __future__ import annotations

import enum


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


class BatchScaling(enum.StrEnum):
    """How the LR follows the batch size, as a first guess."""

    SQRT = "sqrt"
    """As its square root (Hoffer et al. 2017; for Adam Malladi et al. 2022)."""
    LINEAR = "linear"
    """In proportion (Goyal et al. 2017)."""
    NONE = "none"

    @property
    def power(self) -> float:
        """The power of the batch size that the LR follows."""
        return {BatchScaling.SQRT: 0.5, BatchScaling.LINEAR: 1.0, BatchScaling.NONE: 0.0}[self]


class ChangeOrigin(enum.StrEnum):
    """Who asked for a change."""

    CLIENT = "client"
    """The training program."""
    OPERATOR = "operator"
    """Somebody at the server."""
    POLICY = "policy"
    """The policy, which saw the losses leave what it had forecast."""
