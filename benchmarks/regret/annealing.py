"""The annealing law as a forecaster of where a decay ends.

L = L0 + A * S1^-alpha - C * S2 (Tissue et al. 2024, "Scaling law with learning rate annealing"): S1 is the sum of the
LRs of all steps, S2 the sum over steps i of the momentum m_i = lambda * m_(i-1) + (lr_(i-1) - lr_i). Falls only are
counted, so that the warm-up anneals nothing.

The published law is fitted to whole runs (`tuner_server.core.laws`). Here it has what a tuner could have: the
validations of a constant probe, where S2 is 0, give L0, A and alpha; the end of a decayed probe at the same LR gives C.
So it costs two probes an LR.
"""

from __future__ import annotations

import numpy as np
from lrpilot.wire.profile import Profile

from benchmarks.regret.oracle import StateTable, decay, probe_marks
from benchmarks.regret.views import probes
from tuner_server.core.forecast import Objective
from tuner_server.core.forecast.profile_likelihood import linear_fit
from tuner_server.core.laws.annealing_grid import POWERS
from tuner_server.core.laws.annealing_law import USUAL_MOMENTUM
from tuner_server.core.laws.lr_path import LrPath


def areas(profile: Profile) -> tuple[float, float]:
    """S1 and S2 over a profile."""
    path = LrPath(np.array([profile.lr(step) for step in range(profile.length)]))
    return float(path.area()[-1]), float(path.annealing_area(USUAL_MOMENTUM, falls_only=True)[-1])


def decay_ends(table: StateTable) -> list[float | None]:
    """The forecast validation loss after a decay over tau steps, for every LR (k,); None without sound probes."""
    before = table.lr_in_use * table.key.step
    forecasts: list[float | None] = []
    for lr, probe, end in zip(table.lrs, probes(table, Objective.VALIDATION), table.probes, strict=True):
        if probe is None or end is None:
            forecasts.append(None)
            continue
        seen = before + lr * np.array(probe_marks(table.key.tau_prime), dtype=np.float64)
        (short, annealed_short), (long, annealed_long) = (
            areas(decay(lr, n)) for n in (table.key.tau_prime, table.key.tau)
        )
        # S1 in units of the first one seen: the powers stay near 1.
        fits = linear_fit((seen / seen[0]) ** -POWERS[:, None], probe.losses)
        best = int(np.argmin(fits.sse))
        level, slope, alpha = float(fits.level[best]), float(fits.slope[best]), float(POWERS[best])
        at_short, at_long = (level + slope * ((before + s1) / seen[0]) ** -alpha for s1 in (short, long))
        gain = max(at_short - end, 0.0) / annealed_short
        forecasts.append(at_long - gain * annealed_long)
    return forecasts
