"""A training run in a few lines of arithmetic, which carries out directives as a client does.

The loss falls towards a floor, fastest at `best_lr` (a bell over log LR), with noise that depends on the batch. Above
`edge_lr` it grows at every step until it is no number any more. Losses are float32, as they are on the wire.
"""

from __future__ import annotations

import dataclasses
import math
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from lrpilot.run.promise import is_above
from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.wire.divergence import DivergenceWatch
from lrpilot.wire.messages.directive_steps import bar_of
from lrpilot.wire.profile import Profile

from tuner_server.core.config import JobConfig, LrBounds
from tuner_server.core.job import machine
from tuner_server.core.job.machine import JobState
from tuner_server.core.messages import (
    Average,
    Bar,
    BatchSource,
    Decision,
    Directive,
    Ending,
    Outcome,
    Phase,
    Replacement,
    Report,
    Validation,
)
from tuner_server.core.messages import Weights as WhichWeights
from tuner_server.core.search.prior import Prior

START, FLOOR = 2.5, 0.1
RATE = 0.01
WIDTH = 1.5
GROWTH = 1.5
NOISE_PERIOD = 4096


def float32(x: float) -> float:
    """The nearest float32; infinity above the largest."""
    try:
        return float(struct.unpack("<f", struct.pack("<f", x))[0])
    except OverflowError:
        return math.inf


@dataclasses.dataclass(frozen=True, slots=True)
class Weights:
    """All of the model that a snapshot keeps; `n_lrs` counts the steps that are in it."""

    progress: float = 0.0
    heat: int = 0
    position: int = 0
    n_lrs: int = 0


class SimulatedTraining:
    """A training run. `lrs` are those of the steps that are in the model; `n_run` counts all that were ever run."""

    def __init__(
        self,
        seed: int = 0,
        *,
        best_lr: float = 0.05,
        edge_lr: float = 0.6,
        noise: float = 0.02,
        validates: bool = False,
        average_gain: float = 0.1,
    ) -> None:
        self.best_lr, self.edge_lr, self.validates, self.average_gain = best_lr, edge_lr, validates, average_gain
        self._noise: list[float] = (noise * np.random.default_rng(seed).standard_normal(NOISE_PERIOD)).tolist()
        self.weights = Weights()
        self.lrs: list[float] = []
        self.n_run = 0
        self._snapshot = self.weights
        self._last_validation: float | None = None
        """Since the snapshot."""

    def run(self, directive: Directive) -> Report:
        """Carries out a directive, or its next part."""
        self.prepare(directive)
        assert directive.profile is not None
        n_steps = min(directive.report_every or directive.n_steps, directive.n_steps)
        losses: list[float] = []
        validations = self._validation(directive, 0)
        watch = DivergenceWatch(math.inf if directive.give_up_above is None else directive.give_up_above)
        diverged = False
        while len(losses) < n_steps and not diverged:
            losses.append(self._step(directive.profile.lr(len(losses))))
            diverged = watch.sees(losses[-1])
            validations += self._validation(directive, len(losses))
        if diverged:
            outcome = Outcome.DIVERGED
        elif self._fell_short(directive.promise, losses, [validation.loss for validation in validations]):
            outcome = Outcome.FELL_SHORT
        else:
            outcome = Outcome.COMPLETED if n_steps == directive.n_steps else Outcome.PARTIAL
        return Report(
            directive_number=directive.number,
            outcome=outcome,
            losses=tuple(losses),
            validations=tuple(validations),
            wall_time_s=len(losses) / 128,
            measures={name: tuple(2 * loss for loss in losses) for name in directive.measures},
            ending=self._ending(directive.average) if outcome is Outcome.COMPLETED and directive.average else None,
        )

    def run_alone(self, directive: Directive, n_steps: int, lr: float) -> Report:
        """Does so many steps at an LR of its own instead of a directive, as a client does without its server."""
        self.prepare(directive)
        return Report(
            directive_number=directive.number,
            outcome=Outcome.REPLACED,
            losses=tuple(self._step(lr) for _ in range(n_steps)),
            replacement=Replacement(profile=Profile.constant(lr, n_steps)),
        )

    def prepare(self, directive: Directive) -> None:
        """What comes before the first step: restore, then snapshot. A stop has this alone."""
        if directive.restore:
            position = self.weights.position
            self.weights = self._snapshot
            if directive.batches is BatchSource.FRESH:
                self.weights = dataclasses.replace(self.weights, position=position)
            del self.lrs[self.weights.n_lrs :]
        if directive.snapshot:
            self._snapshot = self.weights
        if directive.restore or directive.snapshot:
            self._last_validation = None

    def loss(self) -> float:
        """The loss of the present weights, without noise."""
        if self.weights.heat > 200:
            return math.nan
        return (FLOOR + (START - FLOOR) * math.exp(-self.weights.progress)) * GROWTH**self.weights.heat

    def _step(self, lr: float) -> float:
        loss = float32(self.loss() * (1.0 + self._noise[self.weights.position % NOISE_PERIOD]))
        distance = math.log(max(lr, 1e-12) / self.best_lr) / WIDTH
        self.weights = Weights(
            progress=self.weights.progress + RATE * math.exp(-0.5 * distance**2),
            heat=self.weights.heat + 1 if lr > self.edge_lr else 0,
            position=self.weights.position + 1,
            n_lrs=self.weights.n_lrs + 1,
        )
        self.lrs.append(lr)
        self.n_run += 1
        return loss

    def _validation(self, directive: Directive, step: int) -> list[Validation]:
        due = self.validates and step in directive.validate_at
        return [Validation(step=step, loss=float32(1.1 * self.loss()))] if due else []

    def _ending(self, average: Average) -> Ending:
        """The average of the weights has a loss that is lower by a part, `average_gain`."""
        adopted = WhichWeights.AVERAGE if self.average_gain > 0 else WhichWeights.LAST
        last, mean = 1.1 * self.loss(), 1.1 * self.loss() * (1 - self.average_gain)
        losses = {"last": last, "average": mean} if self.validates else {}
        return Ending(adopted=adopted, memory_steps=average.memory_steps, **losses)

    def _fell_short(self, promise: Sequence[Bar], losses: Sequence[float], validations: Sequence[float]) -> bool:
        """Whether the first part of a directive is above the bar that counts for it."""
        bar = bar_of(promise, 0)
        short = bar is not None and is_above(pb.Bar(**bar.model_dump()), losses, validations, self._last_validation)
        self._last_validation = next(reversed(validations), self._last_validation)
        return short


class NoNumbers(SimulatedTraining):
    """Its every loss is NaN."""

    def _step(self, lr: float) -> float:
        super()._step(lr)
        return math.nan


class NoNumbersAfterAStep(SimulatedTraining):
    """Its every loss is NaN but for that of the weights that it begins with: whatever LR it makes a step at."""

    def _step(self, lr: float) -> float:
        untouched = not self.weights.n_lrs
        loss = super()._step(lr)
        return loss if untouched else math.nan


@dataclasses.dataclass(frozen=True, slots=True)
class Exchange:
    """A directive, the decision behind it, and what came of it (None: it is outstanding, or a stop)."""

    directive: Directive
    decision: Decision | None
    report: Report | None


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    """What a plain loop made of a job."""

    state: JobState
    exchanges: list[Exchange]

    @property
    def directives(self) -> list[Directive]:
        """In order."""
        return [exchange.directive for exchange in self.exchanges]

    def of(self, phase: Phase) -> list[Exchange]:
        """The exchanges of a phase."""
        return [exchange for exchange in self.exchanges if exchange.directive.phase is phase]


def drive(
    config: JobConfig,
    training: SimulatedTraining,
    *,
    max_directives: int = 10_000,
    alone_after: int | None = None,
    prior: Prior | None = None,
) -> Run:
    """Runs a job against a training with no server, to its end or for so many directives.

    After `alone_after` of them the training goes on by itself once, for ten steps, and is then back. `prior` is what
    its family tells.
    """
    transition = machine.create(config, prior)
    exchanges: list[Exchange] = []
    while transition.directive.phase is not Phase.STOP and len(exchanges) < max_directives:
        alone = len(exchanges) == alone_after
        report = training.run_alone(transition.directive, 10, 0.01) if alone else training.run(transition.directive)
        exchanges.append(Exchange(transition.directive, transition.decision, report))
        transition = machine.advance(transition.state, report)
    if transition.directive.phase is Phase.STOP:
        training.prepare(transition.directive)
    exchanges.append(Exchange(transition.directive, transition.decision, None))
    return Run(transition.state, exchanges)


def config(
    total_steps: int | None = 800, *, bounds: bool = True, has_validation: bool = False, **options: Any
) -> JobConfig:
    """A job with bounds that hold the simulated optimum; keywords are options of its policy, autolrs."""
    return JobConfig(
        policy="autolrs",
        policy_options=options,
        total_steps=total_steps,
        lr_bounds=LrBounds(min=1e-4, max=1.0) if bounds else None,
        base_lr=0.1,
        has_validation=has_validation,
    )


QUICK: dict[str, Any] = {"tau": 40, "tau_prime": 8, "tau_max": 80, "candidates": 3, "forecaster": "last_value"}
"""Options of a policy with short stages and a cheap forecaster, for tests of what is around it."""
