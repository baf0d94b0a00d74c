"""Probes that are whole runs in small: their LR decays to zero, and the loss after that is what counts."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tuner_server.core.laws.first_updates import factor
from tuner_server.core.messages import Report

HELD_OUT = 10
"""Steps at LR zero at the end of a probe without validation: their batches are ones that it has not trained on."""

PROBE_SHARE = 0.001
"""A probe is this part of its run, within the limits below."""
MIN_PROBE, MAX_PROBE = 20, 65
"""Its length lies between these: statistics of batch normalisation say little after fewer steps, and more rank no
better."""
LARGEST_PROBE_SHARE = 0.02
"""It is at most this part of its run, so that six probes leave a short one most of its steps."""


def probe_length(total_steps: int) -> int:
    """The steps of a probe that move the weights, in a run of so many."""
    n = min(max(round(total_steps * PROBE_SHARE), MIN_PROBE), MAX_PROBE, round(total_steps * LARGEST_PROBE_SHARE))
    return max(n, 1)


def end_loss(report: Report, held_out: int = HELD_OUT) -> float:
    """The loss after the decay: the validation, or the mean over the last `held_out` batches."""
    if report.validations:
        return report.validations[-1].loss
    losses = report.losses[-held_out:]
    return math.fsum(losses) / len(losses)


def length_correction(probe_steps: int, n_steps: int, exponent: float) -> float:
    """What the best peak LR of a probe is multiplied by for a decay over `n_steps`; at most 1.

    It falls with the length of a run by a power of it (Bjorck et al. 2024).
    """
    return min(math.pow(probe_steps / n_steps, exponent), 1.0)


def probe_correction(probe_steps: int, n_steps: int, exponent: float, first_updates: Sequence[float]) -> float:
    """What the best peak LR of a probe is multiplied by: for length, and for the first updates of the optimizer."""
    return length_correction(probe_steps, n_steps, exponent) * factor(first_updates, probe_steps, n_steps)
