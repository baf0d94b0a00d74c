"""What is run of a random training: one tuned run without bounds, and linear decays around the LR that it found."""

from __future__ import annotations

import dataclasses
import itertools
import math

import torch
from lrpilot import Tuner

from benchmarks.quality.local import LocalTransport
from benchmarks.random_trainings.training import Drawn, Training, draw

WARMUP = 0.05
FACTORS = (0.1, 0.3, 1.0, 3.0)
"""Multiples of the LR that was found, for the sweep; it goes on where the best one lies at its edge."""
LOWEST, HIGHEST = (0.03,), (10.0, 30.0)
RUINED = 1.5
"""A tuned run has been ruined if it ends at more than so many times the loss of the best of the sweep."""


@dataclasses.dataclass(frozen=True)
class Found:
    """What a random training came to."""

    number: int
    lr: float
    """The highest LR that the tuned run committed."""
    loss: float | None
    """The loss that it ended at; None: no number."""
    search_share: float
    """The part of its steps that were probes, or rolled back."""
    sweep: dict[str, float | None]
    """The loss by multiple of `lr`; None: no number."""

    @property
    def best(self) -> float | None:
        """The lowest loss of the sweep; None: there is none."""
        return min((loss for loss in self.sweep.values() if loss is not None), default=None)

    @property
    def best_factor(self) -> float | None:
        """The multiple that it is at."""
        found = {factor: loss for factor, loss in self.sweep.items() if loss is not None}
        return float(min(found, key=lambda factor: found[factor])) if found else None

    @property
    def ratio(self) -> float | None:
        """The tuned run's loss over the best of the sweep; None: there is nothing to compare with."""
        if self.best is None:
            return None
        return math.inf if self.loss is None else self.loss / self.best


def find(number: int) -> Found:
    """Makes all runs of a training."""
    torch.set_num_threads(1)
    drawn = draw(number)
    lr, loss, search_share = tuned(drawn)
    sweep = {f"{factor:g}": decayed(drawn, factor * lr) for factor in FACTORS}
    found = Found(number, lr, loss, search_share, sweep)
    beyond: tuple[float, ...] = ()
    if found.best_factor == FACTORS[0]:
        beyond = LOWEST
    elif found.best_factor == FACTORS[-1]:
        beyond = HIGHEST
    return dataclasses.replace(found, sweep=sweep | {f"{f:g}": decayed(drawn, f * lr) for f in beyond})


def tuned(drawn: Drawn) -> tuple[float, float | None, float]:
    """Has the LR found, without bounds: the highest that was committed, the loss at the end, and the share searched."""
    training = Training(drawn)
    tuner = Tuner(
        training.model,
        training.optimizer,
        transport=LocalTransport(),
        total_steps=drawn.n_steps,
        validate=training.judge if drawn.validates else None,
        seed=drawn.number,
    )
    with tuner:
        for batch in tuner.batches(training):
            tuner.step(training.update(batch))
    peak = max(segment.profile.peak for segment in tuner.schedule.segments)
    return peak, _finite(training.judge()), tuner.search_steps / drawn.n_steps


def decayed(drawn: Drawn, lr: float) -> float | None:
    """Trains with a warm-up and a linear decay to zero; the loss at the end."""
    training, n, warmup = Training(drawn), drawn.n_steps, max(int(WARMUP * drawn.n_steps), 1)
    batches = itertools.chain.from_iterable(itertools.repeat(training))
    for step, batch in enumerate(itertools.islice(batches, n)):
        part = (step + 1) / warmup if step < warmup else (n - step) / (n - warmup)
        for group in training.optimizer.param_groups:
            group["lr"] = lr * part
        loss = training.update(batch)
        if step % 50 == 0 and not math.isfinite(loss.item()):
            return None
    return _finite(training.judge())


def _finite(loss: float) -> float | None:
    return loss if math.isfinite(loss) else None
