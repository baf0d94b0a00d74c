"""How a run ends: with the LR at zero, or at a floor with an average of the weights.

At zero there is no noise left to average out, and at a floor the last weights are noisy. Their average does at least as
well as the last weights at zero, and has come as far as the higher LRs lead (Ajroldi et al. 2025, "When, where and why
to average weights?"; WSM 2025, arXiv 2507.17634: to average is to decay). The client validates both, and keeps the
better.
"""

from __future__ import annotations

import enum
from typing import NamedTuple, Self

from lrpilot.wire.profile import Profile, Shape

from tuner_server.core.config import JobConfig
from tuner_server.core.errors import InvalidInputError
from tuner_server.core.messages import Average

FLOOR = 0.2
"""The LR at the last step is this part of the peak."""
MEMORY_SHARE = 0.08
"""The average remembers this part of the committed steps."""
ANNEALING_MEMORY_SHARE = 0.3
"""The average of an annealing remembers this part of its steps: they are few, and the LR falls fast."""
EVERY = 5
"""The average is brought up to date after so many steps: often enough, and hardly a cost."""
FEWEST_UPDATES = 10
"""The average is brought up to date so many times within its memory, at least, however short the run is."""
SHORTEST_AVERAGED = 50
"""A shorter annealing ends at zero: it has too few weights for an average."""


class EndingName(enum.StrEnum):
    """The ending of a run, as an option names it."""

    ZERO = "zero"
    """The LR falls to zero."""
    AVERAGED = "averaged"
    """The LR falls to a floor, and the weights are averaged."""
    VALIDATED = "validated"
    """Averaged where the average can be validated against the last weights; otherwise the LR falls to zero."""


class EndingPlan(NamedTuple):
    """How committed steps end."""

    floor: float = 0.0
    """The part of the peak that the LR falls to."""
    memory_share: float | None = None
    """The part of the committed steps that the average of the weights remembers; None: none is kept."""

    @classmethod
    def of(cls, name: EndingName, config: JobConfig, floor: float = FLOOR, memory_share: float = MEMORY_SHARE) -> Self:
        """The ending that a job has under an option; with `floor` and `memory_share` if it has an average."""
        wanted = name is EndingName.AVERAGED or (name is EndingName.VALIDATED and config.has_validation)
        return cls(floor, memory_share) if wanted and config.has_average else cls()

    def profile(self, shape: Shape, lr: float, n_steps: int, warmup: int, peak_lr: float | None = None) -> Profile:
        """The LRs of committed steps: from `lr`, after a warm-up, to the floor; at `lr` if the shape does not move.

        Args:
            shape: how the LR falls.
            lr: where it falls from.
            n_steps: warm-up included.
            warmup: steps in which it rises.
            peak_lr: the highest LR of the steps before, of a run that goes on; the floor is a part of the peak of all.
        """
        end_lr = min(self.floor * max(lr, peak_lr or 0.0), lr) if shape.way.moves else lr
        return Profile(shape, lr, end_lr, n_steps, warmup=warmup)

    def of_annealing(
        self, n_steps: int, lr: float, peak_lr: float | None, memory_share: float = ANNEALING_MEMORY_SHARE
    ) -> EndingPlan:
        """The ending of an annealing, in a job that ends like this: at zero if it is short, or begins at the floor.

        Args:
            n_steps: how many.
            lr: where it falls from.
            peak_lr: the highest LR of the steps before; None: there are none.
            memory_share: the part of these steps that an average remembers.
        """
        long = n_steps >= SHORTEST_AVERAGED
        averages = self.memory_share is not None and long and lr > self.floor * (peak_lr or lr)
        return self._replace(memory_share=memory_share) if averages else TO_ZERO

    @property
    def words(self) -> str:
        """Where the LR falls to, as it follows "from 0.1" in a sentence."""
        return f"to {self.floor:.3g} of the peak" if self.floor else "to zero"

    def average(self, n_steps: int) -> Average | None:
        """The average of the weights that is kept over so many committed steps."""
        if self.memory_share is None:
            return None
        memory = max(self.memory_share * n_steps, 1.0)
        return Average(memory_steps=memory, every=max(min(EVERY, int(memory / FEWEST_UPDATES)), 1))


TO_ZERO = EndingPlan()
"""The LR falls to zero."""


def check(name: EndingName, config: JobConfig) -> None:
    """Refuses an ending that a job can't have. Raises: InvalidInputError."""
    if name is EndingName.AVERAGED and not config.has_average:
        raise InvalidInputError.of(
            "policy_options.ending",
            f"{name}, but this client can't average its weights, in its framework or with its optimizer; give "
            f"{EndingName.VALIDATED} or {EndingName.ZERO}",
        )
