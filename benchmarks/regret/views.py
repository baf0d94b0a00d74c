"""What a state's table says: the outcomes that are aimed at, and what a tuner sees in the first tau' steps.

Notation: k LRs in the grid; tau and tau' as in `oracle`.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

import numpy as np
from lrpilot.wire.divergence import first_divergence

from benchmarks.regret.oracle import ConstantTrial, StateTable, probe_marks
from tuner_server.core.evidence.divergence import learn
from tuner_server.core.forecast import FloatArray, Objective
from tuner_server.core.messages import Outcome, Report
from tuner_server.core.policies.autolrs_options import AutoLrsOptions


class Goal(enum.Enum):
    """What a pick is judged by; the value is a title."""

    TRAINING = "training loss, constant LR"
    """Mean training loss of the last tau' of tau steps: the mean rids it of the noise of single batches."""
    VALIDATION = "validation loss, constant LR"
    """Validation loss after tau steps."""
    DECAYED = "validation loss, decayed LR"
    """Validation loss after a linear decay over tau steps."""


def outcomes(table: StateTable, goal: Goal) -> FloatArray:
    """The loss that each LR reaches, (k,); infinity for a diverged trial."""
    match goal:
        case Goal.TRAINING:
            losses = [_late_mean(trial, table) for trial in table.constant]
        case Goal.VALIDATION:
            losses = [trial.final for trial in table.constant]
        case Goal.DECAYED:
            losses = list(table.decayed)
    return np.array([math.inf if loss is None else loss for loss in losses])


def _late_mean(trial: ConstantTrial, table: StateTable) -> float | None:
    if len(trial.losses) < table.key.tau:
        return None
    return math.fsum(trial.losses[-table.key.tau_prime :]) / table.key.tau_prime


@dataclass(frozen=True, eq=False)
class Probe:
    """The first tau' steps of a constant trial, as a forecaster sees them.

    Attributes:
        losses: (n,) losses of every step, or the validations.
        horizon: The x, counted in `losses`, of what is to be forecast.
        objective: What kind of losses they are.
        truth: The loss at the horizon; infinity if the trial diverged before it.
    """

    losses: FloatArray
    horizon: float
    objective: Objective
    truth: float


def probes(table: StateTable, objective: Objective) -> list[Probe | None]:
    """The probes of all LRs, (k,); None where our policies would have given the probe up as diverged."""
    key = table.key
    if objective is Objective.TRAINING:
        # The middle of the window that the truth is the mean of.
        horizon = key.tau - (key.tau_prime + 1) / 2
        truths = outcomes(table, Goal.TRAINING)
    else:
        n_validations = len(probe_marks(key.tau_prime))
        horizon = key.tau / key.tau_prime * n_validations - 1
        truths = outcomes(table, Goal.VALIDATION)
    found: list[Probe | None] = []
    for trial, truth in zip(table.constant, truths, strict=True):
        seen = trial.losses[: key.tau_prime] if objective is Objective.TRAINING else trial.probe_validations
        sound = not _gave_up(table, trial)
        found.append(Probe(np.array(seen), horizon, objective, float(truth)) if sound else None)
    return found


def give_up_above(table: StateTable) -> float:
    """The loss at which our policies give a probe up, as those below it in the grid teach; infinity: there is none."""
    factor, start = AutoLrsOptions().divergence_factor, max(table.first_loss, table.val_loss)
    sound, level = None, math.inf
    for lr, trial in zip(table.lrs, table.constant, strict=True):
        seen = trial.losses[: table.key.tau_prime]
        if len(seen) < table.key.tau_prime or first_divergence(seen, level) is not None:
            continue
        sound = learn(sound, lr, Report(directive_number=1, outcome=Outcome.COMPLETED, losses=tuple(seen)))
        found = None if sound is None else sound.level(factor, table.lrs[0], start)
        level = math.inf if found is None else found
    return level


def _gave_up(table: StateTable, trial: ConstantTrial) -> bool:
    seen = trial.losses[: table.key.tau_prime]
    complete = len(seen) == table.key.tau_prime and len(trial.probe_validations) == len(
        probe_marks(table.key.tau_prime)
    )
    return not complete or first_divergence(seen, give_up_above(table)) is not None
