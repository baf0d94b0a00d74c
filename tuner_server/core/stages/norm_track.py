"""The gradient norms of committed steps, kept in few numbers: medians of blocks of steps, and where they lie."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Self

import numpy as np
from lrpilot.wire.profile import Profile

from tuner_server.core.laws.refinement import FloatArray
from tuner_server.core.messages import Number, Value

MOST_BLOCKS = 1000
"""Medians that are kept; where there are more, the two that lie nearest to one another become one."""
USUAL_BLOCKS = 500
"""Blocks of a run whose reports don't cut them."""


class NormTrack(Value):
    """The norms of the committed steps of a directive, past its warm-up."""

    at: tuple[Number, ...] = ()
    """Which part of the way lies behind in the middle of each block, ascending."""
    norms: tuple[Number, ...] = ()
    """The median of each block; one without a sound norm is missing."""

    def after(self, norms: Sequence[float], profile: Profile, begin: int) -> Self:
        """The track after further steps.

        Args:
            norms: of the steps, one each; what is no positive number does not count.
            profile: of the whole directive.
            begin: the step of the directive that they begin with.
        """
        way = profile.length - profile.warmup
        size = max(math.ceil(way / USUAL_BLOCKS), 1)
        at, medians = list(self.at), list(self.norms)
        for first in range(0, len(norms), size):
            block = norms[first : first + size]
            done = (profile.offset + begin + first + len(block) / 2 - profile.warmup) / way
            sound = [norm for norm in block if math.isfinite(norm) and norm > 0]
            if done > 0 and sound:
                at.append(done)
                medians.append(statistics.median(sound))
        while len(at) > MOST_BLOCKS:
            nearest = int(np.diff(at).argmin())
            for values in (at, medians):
                values[nearest : nearest + 2] = [statistics.fmean(values[nearest : nearest + 2])]
        return self.model_copy(update={"at": tuple(at), "norms": tuple(medians)})

    def curve(self, n: int) -> FloatArray:
        """The norms at `n` points, evenly over the way; what lies outside of what is known is as at its border."""
        found: FloatArray = np.interp(np.linspace(0.0, 1.0, n), self.at, self.norms)
        return found

    @property
    def reach(self) -> float:
        """The part of the way up to which norms are known."""
        return self.at[-1] if self.at else 0.0
