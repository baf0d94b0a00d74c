"""The oracle table: every LR of a grid, trained from the same weights on the same batches.

A state is a point of a run at its workload's nominal LR, held constant. From each state, and for every LR of the
workload's grid, there are three trials: tau steps at a constant LR, tau steps that decay linearly to zero, and tau'
steps that do so. The decays have the warm-up of policy budget. Everything else in this package is computed from what
is stored here.

Notation: tau, the steps that a choice is made for; tau', the steps that it is made from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from lrpilot.backends.torch.rollback.snapshot import Snapshot
from lrpilot.data.replay import BatchBuffer
from lrpilot.wire.profile import Profile, Shape

from benchmarks.quality.schedules import WARMUP
from benchmarks.quality.training import set_lr, train_step
from benchmarks.quality.workloads import WORKLOADS, Batch, Session

TAU = 400
TAU_PRIME = 40
"""tau / 10, as in AutoLRS (Jin et al., ICLR 2021), and the shortest probe that its policy here allows."""
N_VALIDATIONS = 16
"""Validations in the first tau' steps of a constant trial, as AutoLRS has them."""


@dataclass(frozen=True)
class StateKey:
    """What identifies a state; `version` is the workload's, `step` where in the run it is."""

    workload: str
    version: int
    seed: int
    step: int
    tau: int = TAU
    tau_prime: int = TAU_PRIME


@dataclass(frozen=True)
class ConstantTrial:
    """tau steps at a constant LR.

    Attributes:
        losses: (tau,) training losses, loss i being that before update i; shorter if one was not finite.
        probe_validations: (N_VALIDATIONS,) validation losses at `probe_marks`; shorter likewise.
        final: Validation loss after tau steps; None if it, or a loss before, was not finite.
    """

    losses: tuple[float, ...]
    probe_validations: tuple[float, ...]
    final: float | None


@dataclass(frozen=True)
class StateTable:
    """All trials from one state; the tuples of trials are aligned with `lrs`.

    Attributes:
        key: Which state.
        lr_in_use: The LR of the run before it.
        first_loss: The run's first training loss.
        val_loss: Validation loss of the state itself.
        lrs: (k,) the grid, ascending.
        constant: (k,) trials of tau steps at a constant LR.
        decayed: (k,) validation losses after decays of tau steps; None for diverged.
        probes: (k,) the same after decays of tau' steps.
    """

    key: StateKey
    lr_in_use: float
    first_loss: float
    val_loss: float
    lrs: tuple[float, ...]
    constant: tuple[ConstantTrial, ...]
    decayed: tuple[float | None, ...]
    probes: tuple[float | None, ...]


def probe_marks(tau_prime: int) -> tuple[int, ...]:
    """Steps of the first tau' after which a constant trial is validated, evenly spaced, the last one being tau'."""
    count = min(N_VALIDATIONS, tau_prime)
    return tuple(round(tau_prime * (i + 1) / count) for i in range(count))


def decay(lr: float, n_steps: int) -> Profile:
    """The profile of policy budget: a warm-up, then linear to zero."""
    return Profile(Shape.LINEAR, lr, 0.0, n_steps, warmup=round(n_steps * WARMUP))


class Rollback:
    """A session at one state, to which every trial returns before it starts."""

    def __init__(self, session: Session, batches: BatchBuffer[Batch]) -> None:
        self._session = session
        self._batches = batches
        self._snapshot = Snapshot(session.model, [session.optimizer], {})
        self._snapshot.take()
        batches.mark()

    def restore(self) -> None:
        """Goes back to the state's weights, optimizer state, random state and batches."""
        self._snapshot.restore()
        self._batches.rewind()

    def run(self, profile: Profile, validate_at: Sequence[int]) -> tuple[list[float], list[float]]:
        """Trains over `profile` from the state.

        Returns:
            The training losses, and the validation losses after the steps `validate_at`; both end before the first
            loss that is not finite.
        """
        self.restore()
        losses: list[float] = []
        validations: list[float] = []
        for step in range(profile.length):
            set_lr(self._session.optimizer, profile.lr(step))
            loss = train_step(self._session, self._batches.draw())
            if not math.isfinite(loss):
                break
            losses.append(loss)
            if step + 1 in validate_at:
                validation = self._session.validate()
                if not math.isfinite(validation):
                    break
                validations.append(validation)
        return losses, validations

    def end_of(self, profile: Profile) -> float | None:
        """Validation loss after training over `profile` from the state; None if a loss was not finite."""
        _, validations = self.run(profile, (profile.length,))
        return validations[-1] if validations else None


def build(key: StateKey) -> StateTable:
    """Trains up to a state, then all trials from it.

    Raises:
        ValueError: the run at the nominal LR has diverged before the state.
    """
    workload = WORKLOADS[key.workload]
    session = workload.build(key.seed)
    torch.manual_seed(key.seed)
    lr_in_use = float(session.optimizer.param_groups[0]["lr"])
    batches = BatchBuffer(session.batches())
    before = [train_step(session, batches.draw()) for _ in range(key.step)]
    rollback = Rollback(session, batches)
    val_loss = session.validate()
    if not math.isfinite(math.fsum(before) + val_loss):
        raise ValueError(f"{key.workload}: the run at LR {lr_in_use} diverged before step {key.step}")
    constant = tuple(_constant_trial(rollback, lr, key) for lr in workload.lr_grid)
    first_loss = before[0] if before else constant[0].losses[0]
    return StateTable(
        key=key,
        lr_in_use=lr_in_use,
        first_loss=first_loss,
        val_loss=val_loss,
        lrs=workload.lr_grid,
        constant=constant,
        decayed=tuple(rollback.end_of(decay(lr, key.tau)) for lr in workload.lr_grid),
        probes=tuple(rollback.end_of(decay(lr, key.tau_prime)) for lr in workload.lr_grid),
    )


def _constant_trial(rollback: Rollback, lr: float, key: StateKey) -> ConstantTrial:
    marks = probe_marks(key.tau_prime)
    losses, validations = rollback.run(Profile.constant(lr, key.tau), (*marks, key.tau))
    finished = len(validations) > len(marks)
    return ConstantTrial(
        losses=tuple(losses),
        probe_validations=tuple(validations[: len(marks)]),
        final=validations[-1] if finished else None,
    )
