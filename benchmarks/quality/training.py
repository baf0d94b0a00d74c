"""One training run under a rule for its LR, and the record of how it went."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from benchmarks.quality.workloads import Batch, Session

# Validations in a run: enough to draw its curve.
N_VALIDATIONS = 40


class LrRule(Protocol):
    """Decides the LR of every step."""

    def lr(self, step: int) -> float:
        """LR of step 0 <= `step` < n_steps."""
        ...

    def observe(self, val_loss: float) -> None:
        """Takes note of a validation loss."""
        ...


@dataclass
class Curve:
    """How one run went.

    Attributes:
        final_val_loss: What the end of the run is judged by (`Session.judge`); infinity if the run diverged.
        diverged: A loss became NaN or infinite, and the run was stopped there.
        val_steps: Steps before each validation.
        val_losses: Validation losses, aligned with `val_steps`.
        train_losses: Mean training loss since the validation before, aligned with `val_steps`.
        wall_s: Wall time in seconds, validations included.
        search_steps: Steps that were rolled back, of a contestant that tunes.
        peak_lr: The highest LR that such a contestant committed.
        lrs: Its LRs at the time of each validation, aligned with `val_steps`; empty where they were not recorded.
        validation_s: How much of `wall_s` went into validations and judging; 0 in runs stored before it was timed.
        peak_bytes: The most memory of its device that the run held; None where it was not measured.
    """

    final_val_loss: float = math.inf
    diverged: bool = False
    val_steps: list[int] = field(default_factory=list)
    val_losses: list[float] = field(default_factory=list)
    train_losses: list[float] = field(default_factory=list)
    wall_s: float = 0.0
    search_steps: int = 0
    peak_lr: float | None = None
    lrs: list[float] = field(default_factory=list)
    validation_s: float = 0.0
    peak_bytes: int | None = None

    def after_search(self, n_steps: int, peak_lr: float) -> Curve:
        """The curve of a run that a search of `n_steps` steps came before, which chose `peak_lr`."""
        val_steps = [step + n_steps for step in self.val_steps]
        return replace(self, search_steps=n_steps, peak_lr=peak_lr, val_steps=val_steps)


def set_lr(optimizer: Optimizer, lr: float) -> None:
    """Sets the LR of every parameter group; the workloads' groups share one."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def nominal_lr(session: Session) -> float:
    """The LR that the run's optimizer carries."""
    return float(session.optimizer.param_groups[0]["lr"])


def weight_decay(optimizer: Optimizer) -> float:
    """The weight decay of the first parameter group; the workloads' groups share one."""
    return float(optimizer.param_groups[0]["weight_decay"])


def update(session: Session, batch: Batch) -> Tensor:
    """One optimizer update; the training loss before it, as a scalar."""
    loss = session.loss(batch)
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
    if session.max_norm is not None:
        nn.utils.clip_grad_norm_(session.model.parameters(), session.max_norm)
    session.optimizer.step()
    session.optimizer.zero_grad()
    return loss


def train_step(session: Session, batch: Batch) -> float:
    """One optimizer update; the training loss before it, as a number."""
    return update(session, batch).item()


def _intervals(n_steps: int) -> Iterator[range]:
    """Splits the steps into `N_VALIDATIONS` intervals that differ by one step at most."""
    ends = [n_steps * i // N_VALIDATIONS for i in range(N_VALIDATIONS + 1)]
    return (range(start, end) for start, end in pairwise(ends) if end > start)


def _weights_as_they_are(_session: Session) -> AbstractContextManager[None]:
    return nullcontext()


def train(
    session: Session,
    n_steps: int,
    rule: LrRule,
    weights: Callable[[Session], AbstractContextManager[None]] = _weights_as_they_are,
    trained: Callable[[float], None] | None = None,
) -> Curve:
    """Trains for `n_steps` optimizer steps, validating at evenly spaced steps and at the end.

    `weights` puts those weights in place that are to be validated and judged, such as an average, while its context
    is open. `trained` is given the training loss of every step after its update, and may change model and optimizer;
    without it losses stay on their device until the next validation, as in a loop that reads none of them.
    """
    started = time.perf_counter()
    curve = Curve()
    batches = session.batches()
    for interval in _intervals(n_steps):
        total = _train_interval(session, interval, rule, batches, trained)
        val_loss = final = math.nan
        if math.isfinite(total):
            with weights(session):
                val_loss = session.validate()
                final = session.judge() if interval.stop == n_steps else val_loss
        if not math.isfinite(val_loss + final):
            curve.diverged = True
            break
        rule.observe(val_loss)
        curve.val_steps.append(interval.stop)
        curve.val_losses.append(val_loss)
        curve.train_losses.append(total / len(interval))
    else:
        curve.final_val_loss = final
    curve.wall_s = time.perf_counter() - started
    curve.validation_s = session.validation_s
    return curve


def _train_interval(
    session: Session,
    steps: range,
    rule: LrRule,
    batches: Iterator[Batch],
    trained: Callable[[float], None] | None,
) -> float:
    """The sum of the losses of some steps; not finite where the run diverged."""
    losses = []
    total = 0.0
    for step in steps:
        set_lr(session.optimizer, rule.lr(step))
        loss = update(session, next(batches)).detach()
        if trained is None:
            losses.append(loss)
            continue
        own = loss.item()
        total += own
        if not math.isfinite(total):
            return total
        trained(own)
    return total if trained else sum(torch.stack(losses).tolist())
