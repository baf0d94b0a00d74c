"""The evidence by which a run is annealed before its end (`stop_when`)."""

from __future__ import annotations

import pydantic

from tuner_server.core.values import Lr, Number, Steps, Value


class Stopping(Value):
    """Why a run was annealed before its end: what it would have gained by going on, and how that is known."""

    worth: Lr
    """What is still worth going on for, as a loss."""
    gain: Number
    """How much lower the loss would be at the planned end than after an annealing at once, as it is expected."""
    gain_sd: Number
    """The standard error of `gain`."""
    end_step: Steps
    """The planned end in committed steps; of a run without one, twice the steps so far."""
    open_ended: bool
    """Whether the run had no end."""
    floor: Number
    """L0 of the annealing law L0 + A S1^-alpha - C S2 that fits the validations best; S1, the area under the LR so far,
    counts as 1 at the last of them."""
    scale: Number
    """A"""
    exponent: Number
    """alpha"""
    annealing: Number
    """C"""
    memory: Steps
    """Steps over which a fall of the LR takes effect in that law."""
    layer: Number
    """How far the loss was from the asymptote of a constant LR (the layer of convergence of the learning trend)."""
    steps: tuple[Steps, ...]
    """The last validations: after how many committed steps,"""
    losses: tuple[Number, ...]
    """and what they were."""

    @pydantic.model_validator(mode="after")
    def _of_one_length(self) -> Stopping:
        if len(self.steps) != len(self.losses):
            raise ValueError("steps and losses of a stopping have one value for every validation")
        return self
