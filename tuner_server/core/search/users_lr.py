"""Draws the LR that is committed towards the one that the user set.

Most people start from an LR that served them before, and some from one that is off by a factor of thirty. So it is
worth much where the search agrees, and nothing where it does not. The prior is a mixture: with probability p the best
LR lies around the user's, with probability 1 - p anywhere. The search's own finding has an error, too.

Notation: x, the natural log of the LR that the search found; u, that of the user's; s, t and r, the standard deviations
of the search's error, of the best LR around a user's good one, and of the best LR otherwise.

    q = p N(x - u; s^2 + t^2) / (p N(x - u; s^2 + t^2) + (1 - p) N(x - u; s^2 + r^2))
    posterior mean of the best x, the broad part taken as flat:  x - q s^2 / (s^2 + t^2) (x - u)

The constants were chosen by simulation on seven workloads at 1,000 to 4,000 steps (docs/quality.md).
"""

from __future__ import annotations

import math

SEARCH_SD = 0.3
"""s: the search finds the best LR to within a factor of 1.35 or so, two times in three."""
USER_SD = 0.2
"""t: the best LR lies within a factor of 1.22 of a user's good one, two times in three."""
BROAD_SD = math.log(30.0)
"""r: otherwise it lies within a factor of 30, two times in three."""
TRUST = 0.3
"""p: the part of the users whose LR is good."""


def toward_users(lr: float, users_lr: float) -> float:
    """The LR that a search found, drawn towards the user's where they agree."""
    gap = math.log(lr) - math.log(users_lr)
    near, far = TRUST * _normal(gap, USER_SD), (1 - TRUST) * _normal(gap, BROAD_SD)
    agreement = near / (near + far) if near > 0 else 0.0
    return lr * math.exp(-agreement * SEARCH_SD**2 / (SEARCH_SD**2 + USER_SD**2) * gap)


def _normal(gap: float, sd: float) -> float:
    """The density of a gap, up to a factor, whose variance is that of the search's error and `sd` squared."""
    variance = SEARCH_SD**2 + sd**2
    return math.exp(-(gap**2) / (2 * variance)) / math.sqrt(variance)
