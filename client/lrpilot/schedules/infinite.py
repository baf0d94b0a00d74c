"""A schedule that needs no end: it anneals whenever a finished model is wanted, and goes on from before.

Ibrahim et al. 2024, "Simple and scalable strategies to continually pre-train large language models", arXiv 2403.08763;
Singh et al. 2025, "Beyond cosine decay", arXiv 2503.02844, equation 1; harmonic annealing: Wen et al. 2024,
"Understanding warmup-stable-decay learning rates", arXiv 2410.05192 (WSD-S).

Notation: hi, the LR after the warm-up, 1 here; const, the LR that is kept; lo, where an annealing leads.
"""

from __future__ import annotations

import enum
import math
from typing import Any

from lrpilot.schedules.checks import at_least, between


class Cooling(enum.StrEnum):
    """How the LR falls from hi to const."""

    COSINE = "cosine"
    """const + (hi - const) / 2 (1 + cos(pi u))"""
    ISQRT = "isqrt"
    """hi / sqrt(1 + ((hi / const)^2 - 1) u), which meets const"""


class AnnealingWay(enum.StrEnum):
    """How the LR falls from const to lo."""

    EXPONENTIAL = "exponential"
    """const (lo / const)^u"""
    LINEAR = "linear"
    """const + (lo - const) u"""
    ONE_MINUS_SQRT = "one_minus_sqrt"
    """lo + (const - lo) (1 - sqrt(u))"""
    HARMONIC = "harmonic"
    """1 / (u / lo + (1 - u) / const)"""


class InfiniteSchedule:
    """The LR of every step over the highest: a warm-up, a cooldown, a constant, and an annealing when asked for."""

    def __init__(
        self,
        warmup: int,
        cooldown: int,
        *,
        constant: float = 0.55,
        floor: float = 0.1,
        cooling: str = "cosine",
        annealing: str = "exponential",
    ) -> None:
        """Begins before the first step, with no annealing.

        Args:
            warmup: steps in which the LR rises along a line from zero.
            cooldown: steps in which it falls to `constant`.
            constant: const over hi.
            floor: lo over hi; zero for linear or 1 - sqrt annealing alone.
            cooling: "cosine" or "isqrt".
            annealing: "exponential", "linear", "one_minus_sqrt" or "harmonic".

        Raises:
            ValueError: one of them is out of its range.
        """
        at_least(warmup, 0, "infinite: warmup")
        at_least(cooldown, 0, "infinite: cooldown")
        between(constant, 0.0, 1.0, "infinite: constant")
        between(floor, 0.0, constant, "infinite: floor")
        self._warmup, self._cooldown, self._constant, self._floor = warmup, cooldown, constant, floor
        self._cooling, self._annealing = Cooling(cooling), AnnealingWay(annealing)
        if constant == 0 or (floor == 0 and annealing in ("exponential", "harmonic")):
            raise ValueError(f"infinite: {annealing} annealing from {constant:g} never leads to {floor:g}")
        self._from: int | None = None
        self._steps = 0
        self._constant_from: int | None = None

    @property
    def annealing_from(self) -> int | None:
        """The step with which the annealing begins; None: there is none."""
        return self._from

    def weight(self, step: int) -> float:
        """The LR of a step, from 0, over the highest."""
        if self._from is None or step <= self._from:
            return self._unannealed(step)
        done = min((step - self._from) / self._steps, 1.0)
        return self._annealed(self._unannealed(self._from), done)

    def anneal(self, step: int, steps: int | None = None) -> None:
        """Lets the LR fall to the floor from a step on, once.

        Args:
            step: the first one of the annealing, which still has the LR from before.
            steps: how long it takes; None: 10% of the steps so far.

        Raises:
            ValueError: it anneals already, or there are no steps.
        """
        if self._from is not None:
            raise ValueError(f"infinite: it anneals from step {self._from} on; `resume_constant` ends that")
        steps = max(step // 10, 1) if steps is None else steps
        at_least(step, 0, "infinite: step")
        at_least(steps, 1, "infinite: steps")
        self._from, self._steps = step, steps

    def resume_constant(self, step: int) -> None:
        """Ends an annealing: from a step on the LR is the constant again.

        Go back to a snapshot from before the annealing, and give its step; or go on from the annealed weights (WSD-S).

        Raises:
            ValueError: there is no annealing, or the step is before it.
        """
        if self._from is None or step < self._from:
            raise ValueError(f"infinite: step {step} is in no annealing; `anneal` begins one")
        self._from, self._steps, self._constant_from = None, 0, step

    def state_dict(self) -> dict[str, Any]:
        """What was asked for so far, for a checkpoint."""
        return {"from": self._from, "steps": self._steps, "constant_from": self._constant_from}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes what `state_dict` gave."""
        self._from, self._steps, self._constant_from = state["from"], state["steps"], state["constant_from"]

    def _unannealed(self, step: int) -> float:
        if self._constant_from is not None and step >= self._constant_from:
            return self._constant
        if step < self._warmup:
            return step / self._warmup
        done = (step - self._warmup) / self._cooldown if self._cooldown else 1.0
        if done >= 1:
            return self._constant
        if self._cooling is Cooling.ISQRT:  # hi over the root of 1 + ((hi / const)^2 - 1) u, with no square to overflow
            return self._constant / math.hypot(self._constant * math.sqrt(1 - done), math.sqrt(done))
        return self._constant + (1 - self._constant) / 2 * (1 + math.cos(math.pi * done))

    def _annealed(self, start: float, done: float) -> float:
        """The LR on the way from where the annealing begins to the floor."""
        floor = min(self._floor, start)
        match self._annealing:
            case AnnealingWay.LINEAR:
                return start + (floor - start) * done
            case AnnealingWay.ONE_MINUS_SQRT:
                return floor + (start - floor) * (1 - math.sqrt(done))
            case _ if not floor:  # in the warm-up's first step
                return 0.0
            case AnnealingWay.HARMONIC:
                return 1 / (done / floor + (1 - done) / start)
        return float(start * (floor / start) ** done)
