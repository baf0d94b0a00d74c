"""What a search promises of the run that it leads to, and holds it to.

A network that a high LR destroyed has a finite loss, at the level where it began, so no rule of divergence sees it. But
a run that does as well as its own probe did has left that level behind long before. A committed run that, after its
warm-up, has not gained a good part of what its probe gained in a few steps is not the run that was promised. Nor is one
that gained it and lost it again, as a validation shows where a run overfits or forgets what was pretrained.

Notation: s, the loss before the first step; g, what the best probe gained, from there to the loss after its decay; f,
the part of g that committed steps must have gained at least. The median loss of a report must not be above the bar
s - f g + margin; nor two validations in a row above it, with s and g in validation loss and a smaller margin, as they
all see the same data. All of it moves with a shift of the losses, and scales with them.

How close sound runs come to a bar was measured: docs/decisions/0015-committed-steps-keep-a-promise.md.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from lrpilot.wire.messages.directive_steps import bar_of

from tuner_server.core.evidence.divergence import scatter
from tuner_server.core.messages import Bar, Outcome, Report, Setback, Validation, Value

STAIRS = ((0.05, 0.5), (0.1, 0.65), (0.25, 0.8))
"""f, from so large a part of the committed steps on; before the first, a warm-up may be under way."""
VALIDATION_PART = 0.65
"""f for validations, from the second of these parts on."""
LAST_TRAINING_LOOK = 0.4
"""From this part on training losses are not held to anything. A network that an LR destroys has died by then, near the
peak; a loss that rises later says that the data have changed (`stages.shift`), and nothing is to be rolled back."""
LAST_LOOK = 0.8
"""From this part on a run is left alone: what is left could not make up for what would be rolled back."""
FIRST_LOSSES = 10
"""Losses over which s is averaged. The lowest LR hardly moves the weights in so few steps."""
TAIL_SHARE = 1 / 4
"""This share of a probe's training losses, at its end, says where it ended."""
MARGIN_SDS = 2.0
"""Standard errors of s and of a report's losses that are added to a bar."""
VALIDATION_MARGIN_SDS = 0.25
"""Standard deviations of a step's training loss that are added to the bar for validations: a gain far below a batch's
noise promises nothing."""


class Footing(Value):
    """What the probes of a search tell of the loss: where it began, and how far the best of them came."""

    start_lr: float
    """The lowest LR that was tried; its first losses say where training begins."""
    start_loss: float
    """s"""
    sd: float
    """How far the training losses of single steps scatter."""
    start_validation: float | None = None
    """Before the first step; None: there is no validation, or the first probe ended before it could be learnt."""
    best_loss: float | None = None
    """What the best probe was judged by: its validation, or held-out training batches; None: all diverged."""
    best_tail: float | None = None
    """The mean of its last training losses."""
    best_validated: bool = False
    """Whether `best_loss` is a validation."""

    @property
    def start(self) -> float:
        """The loss before the first step, in the measure that probes are judged by."""
        return self.start_loss if self.start_validation is None else self.start_validation

    @property
    def validation_gain(self) -> float | None:
        """What the best probe gained by validation (g); None: there is none, or no probe gained anything by it."""
        if self.start_validation is None or self.best_loss is None or not self.best_validated:
            return None
        gain = self.start_validation - self.best_loss
        return gain if gain > 0 else None

    @property
    def gain(self) -> float | None:
        """g, in training loss; None: no probe gained anything that can be told.

        The smaller one of what the probe gained by its training losses and by what it was judged by. A validation may
        fall further than a training loss ever does (label smoothing, mixup, dropout, wrong labels, another unit).
        """
        if self.best_loss is None or self.best_tail is None:
            return None
        gain = self.start_loss - self.best_tail
        if not self.best_validated:
            gain = min(gain, self.start_loss - self.best_loss)
        elif self.start_validation is not None:
            gain = min(gain, self.start_validation - self.best_loss)
        return gain if gain > 0 else None


def learn(known: Footing | None, lr: float, report: Report, judged: float | None) -> Footing | None:
    """What is known after one more probe.

    Args:
        known: None before the first probe.
        lr: The probe's peak.
        report: On the probe.
        judged: The loss by which it counts; None: it diverged.
    """
    losses = np.asarray(report.losses)
    first = losses[:FIRST_LOSSES]
    if known is None or lr < known.start_lr:
        if not np.isfinite(first).all():
            return known
        finite = losses[np.isfinite(losses)]
        sd = scatter(finite) if len(finite) > 1 else 0.0
        start = {"start_lr": lr, "start_loss": float(first.mean()), "sd": sd}
        known = Footing(**start) if known is None else known.model_copy(update=start)
    before = [v.loss for v in report.validations if v.step == 0 and math.isfinite(v.loss)]
    if before:
        known = known.model_copy(update={"start_validation": before[0]})
    if judged is None or report.outcome is not Outcome.COMPLETED:
        return known
    if known.best_loss is None or judged < known.best_loss:
        best = {"best_loss": judged, "best_tail": tail(report.losses), "best_validated": bool(report.validations)}
        known = known.model_copy(update=best)
    return known


def tail(losses: Sequence[float]) -> float:
    """The mean of the last training losses of a probe."""
    last = losses[-max(int(len(losses) * TAIL_SHARE), 1) :]
    return math.fsum(last) / len(last)


class Shortfall(NamedTuple):
    """What of a report is above the bar that it is held to."""

    loss: float
    """The median of its losses, or its last validation."""
    bar: float | None
    """None: nothing was promised of it."""
    validated: bool
    """Whether these are validations, and not training losses."""
    reached: float | None = None
    """What the run had reached itself, if the bar is held to that."""


def shortfall(
    promise: Sequence[Bar], begin: int, losses: Sequence[float], validations: Sequence[Validation]
) -> Shortfall:
    """Which bar a report broke, and by what.

    Args:
        promise: The bars of the directive.
        begin: The step of the directive with which the report begins.
        losses: Of its steps, one at least; they are above the bar, or the validations are.
        validations: Of its steps, in order.
    """
    median = statistics.median(losses)
    held_to = bar_of(promise, begin)
    if held_to is None:
        return Shortfall(median, None, validated=False)
    validated = median <= held_to.loss and bool(validations)
    if validated:
        return Shortfall(validations[-1].loss, _finite(held_to.validation), validated)
    return Shortfall(median, _finite(held_to.loss), validated, held_to.reached)


def fell_short(footing: Footing, lr: float, promise: Sequence[Bar], begin: int, report: Report) -> Setback:
    """The evidence against committed steps.

    Args:
        footing: What the search saw.
        lr: Their peak.
        promise: The bars of the directive.
        begin: The step of the directive with which the last report begins.
        report: That one, which is above the bar that it is held to.
    """
    short = shortfall(promise, begin, report.losses, report.validations)
    start_loss, gain = (
        (footing.start_validation, footing.validation_gain) if short.validated else (footing.start_loss, footing.gain)
    )
    if short.reached is not None:
        gain = footing.start_loss - short.reached
    return Setback(lr=lr, start_loss=start_loss, gain=gain, **short._asdict())


def _finite(bar: float) -> float | None:
    return bar if math.isfinite(bar) else None


def _margin(sd: float, report_steps: int) -> float:
    """What is added to a bar of training losses for the noise of s and of a report's losses."""
    return MARGIN_SDS * sd * math.sqrt(1 / FIRST_LOSSES + 1 / report_steps)


def half_kept(start: float, reached: float, sd: float, from_step: int, report_steps: int) -> tuple[Bar, ...]:
    """What the constant LR of a stage is held to: half of what was gained before it must stay.

    Args:
        start: The loss before the first step of the run.
        reached: The lowest that was reached from there.
        sd: How far the losses of single steps scatter.
        from_step: Of the stage; what comes before it is not looked at.
        report_steps: Steps of a report.
    """
    if not reached < start:
        return ()
    return (Bar(from_step=from_step, loss=(start + reached) / 2 + _margin(sd, report_steps)),)


def _validation_bar(footing: Footing) -> float:
    """What two validations in a row must not be above; infinity: nothing can be promised of them."""
    if footing.start_validation is None or footing.validation_gain is None:
        return math.inf
    return footing.start_validation - VALIDATION_PART * footing.validation_gain + VALIDATION_MARGIN_SDS * footing.sd


def bars(footing: Footing | None, n_steps: int, warmup: int, report_steps: int) -> tuple[Bar, ...]:
    """What committed steps are held to; empty: nothing can be promised.

    Args:
        footing: What the search saw.
        n_steps: Committed steps, warm-up included.
        warmup: Steps of the warm-up.
        report_steps: Steps of a report.
    """
    if footing is None or (footing.gain is None and footing.validation_gain is None):
        return ()
    margin = _margin(footing.sd, report_steps)
    stairs = []
    for i, (share, part) in enumerate(STAIRS):
        loss = math.inf if footing.gain is None else footing.start_loss - part * footing.gain + margin
        validation = _validation_bar(footing) if i else math.inf
        stairs.append(Bar(from_step=max(math.ceil(share * n_steps), warmup), loss=loss, validation=validation))
    validation = stairs[-1].validation
    last, end = (max(math.ceil(share * n_steps), warmup) for share in (LAST_TRAINING_LOOK, LAST_LOOK))
    return (*stairs, Bar(from_step=last, loss=math.inf, validation=validation), Bar(from_step=end, loss=math.inf))
