"""Rules that pick the peak of a run's rest, and what they cost.

Notation: x, the natural log of a peak; P, the peak that was tuned before; R, the steps of the rest; s, those before it.
The reference of a state is P, times the root of the batch's growth; of a plateau, the LR that it has.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
from scipy.interpolate import PchipInterpolator

from benchmarks.regret.later.changes import BATCH_FACTOR
from benchmarks.regret.later.states import PROBE_STEPS, Kind, State
from benchmarks.regret.rules import CAP, regret_between
from tuner_server.core.forecast import FloatArray

LENGTH_EXPONENT = 0.2
"""The power with which policy budget has the best peak fall with length."""
STEP = math.log(10) / 2
"""Between two candidates of a veto, in x."""
DOWN = 3
"""How many such steps a veto goes at most."""
MARGIN = 0.2
"""By how much a probe must be worse, before a veto believes it, than the loss before it or a lower peak's probe."""
PROBE_SHARE = 0.025
"""Steps of a veto's probe, as a share of the rest."""
WIDTH = 0.1
"""What a step of one in x away from the reference costs in log loss, squared: the prior of a drawn pick."""
SAME_TASK = (Kind.COOLED, Kind.BRIEF, Kind.HOT, Kind.PLATEAU)
"""Kinds in which nothing changes but the end."""
_GRID = 121
"""Values of x at which curves are searched."""


@dataclass(frozen=True)
class Pick:
    """A choice.

    Attributes:
        x: Of the rest's peak; None keeps the old schedule.
        steps: What its probes cost.
    """

    x: float | None
    steps: int = 0


Rule = Callable[[State], Pick]


def losses(values: Sequence[float | None]) -> FloatArray:
    """Losses as an array; infinity for diverged."""
    return np.array([math.inf if value is None else value for value in values])


def reference(state: State) -> float:
    """The x that a state's run is known by."""
    if state.key.kind is Kind.PLATEAU:
        return math.log(state.running)
    return math.log(state.peak) + (math.log(BATCH_FACTOR) / 2 if state.key.kind is Kind.BATCH else 0.0)


def regret(state: State, x: float | None) -> float:
    """Regret of a peak, or of the old schedule (None), which may have come to its end: then of no further step."""
    if x is None and state.key.kind is Kind.PLATEAU:
        x = reference(state)
    ends = losses(state.ends)
    if x is None:
        kept = state.val_loss if state.kept is None else state.kept
        return min(kept / float(ends.min()) - 1.0, CAP)
    return regret_between(state.lrs, ends, x, str(state.key))


def old_schedule(_state: State) -> Pick:
    """Changes nothing."""
    return Pick(None)


def original(state: State) -> Pick:
    """Rises to the reference again."""
    return Pick(reference(state))


def for_length(state: State, power: float) -> Pick:
    """The reference, times what the rest is shorter than the plan that it is of, to a power."""
    known = state.key.done if state.key.kind is Kind.PLATEAU else state.key.planned
    return Pick(reference(state) + power * math.log(known / state.key.rest))


def by_share(state: State, power: float) -> Pick:
    """The reference, times the rest's share of the whole run to a power; 1: on the line from P to the new end."""
    share = state.key.rest / (state.key.rest + state.key.done)
    return Pick(reference(state) + power * math.log(share))


class Curve:
    """What probes of one kind say of log loss over x: a monotone cubic through them, level beyond their ends."""

    def __init__(self, state: State, judged: str, n: int) -> None:
        """Reads the field `judged` of the probes of n steps."""
        ends = losses([getattr(probe, judged) for probe in state.probes[n]])
        finite = ends[np.isfinite(ends)]
        # A diverged probe is worse than any other; how much worse matters to nobody.
        self.lost = not len(finite)
        worst = 1.0 if self.lost else 3.0 * float(finite.max())
        self.xs = np.log(state.lrs)
        self._log_loss = PchipInterpolator(self.xs, np.log(np.minimum(ends, worst)))

    def at(self, x: FloatArray | float) -> FloatArray:
        """Log loss."""
        return np.asarray(self._log_loss(np.clip(x, self.xs[0], self.xs[-1])), dtype=np.float64)

    def lowest(self, reference: float = 0.0, width: float = 0.0) -> float:
        """The x of the lowest log loss, plus `width` times the squared distance from `reference`."""
        xs = np.linspace(self.xs[0], self.xs[-1], _GRID)
        return float(xs[int(np.argmin(self.at(xs) + width * (xs - reference) ** 2))])


def searched(state: State, judged: str, n: int) -> Pick:
    """The lowest point of all the grid's probes: a search from new, without a prior."""
    return Pick(Curve(state, judged, n).lowest(), n * len(state.lrs))


def extrapolated(state: State, judged: str, shorter: int, longer: int) -> Pick:
    """Searches at two lengths, and goes on from the shorter's pick past the longer's to R, in x over log length."""
    a, b = (Curve(state, judged, n).lowest() for n in (shorter, longer))
    x = b + (b - a) / math.log(longer / shorter) * math.log(state.key.rest / longer)
    return Pick(x, (shorter + longer) * len(state.lrs))


def drawn(state: State, judged: str, n: int, width: float = WIDTH) -> Pick:
    """A search whose log losses have a prior around the reference added."""
    return Pick(Curve(state, judged, n).lowest(reference(state), width), n * len(state.lrs))


def best_of_three(state: State, judged: str, n: int, margin: float) -> Pick:
    """The reference, unless a candidate a step above or below it is better by the margin."""
    curve, x = Curve(state, judged, n), reference(state)
    best = min((x - STEP, x, x + STEP), key=lambda at: float(curve.at(at)))
    clear = float(curve.at(x) - curve.at(best)) > math.log1p(margin)
    return Pick(best if clear else x, 3 * n)


def vetoed(state: State, judged: str, n: int | None = None, margin: float = MARGIN, power: float = 0.0) -> Pick:
    """The reference, for the length to a power, or the first step below it whose probe does not refute it.

    A probe refutes its peak if it ends above the loss before it by more than the margin, or above the next lower
    peak's probe. It costs the reference's probe, and one for every step that is tried.
    """
    n = veto_steps(state) if n is None else n
    curve, start = Curve(state, judged, n), for_length(state, power).x
    assert start is not None
    bound = math.log1p(margin)
    for down in range(DOWN):
        x = start - down * STEP
        own = float(curve.at(x))
        if own - math.log(state.val_loss) <= bound and own - float(curve.at(x - STEP)) <= bound:
            return Pick(x, n * (down + 2))
    return Pick(start - DOWN * STEP, n * (DOWN + 1))


def veto_steps(state: State) -> int:
    """Steps of a veto's probe: of the lengths there are, the one nearest to its share of the rest."""
    return min(PROBE_STEPS, key=lambda n: abs(n - PROBE_SHARE * state.key.rest))


def proposed(state: State) -> Pick:
    """On the line to the new end where nothing but that has changed; otherwise the reference, vetoed."""
    return by_share(state, 1.0) if state.key.kind in SAME_TASK else vetoed(state, "decayed")


PROPOSED = "proposed"
RULES: dict[str, Rule] = {
    "old schedule": old_schedule,
    "P": original,
    "P, for length": partial(for_length, power=LENGTH_EXPONENT),
    "P, on the line to the new end": partial(by_share, power=1.0),
    "P, root of the share": partial(by_share, power=0.5),
    **{f"decayed probes, {n} steps": partial(searched, judged="decayed", n=n) for n in PROBE_STEPS},
    **{f"last weights, {n} steps": partial(searched, judged="last", n=n) for n in PROBE_STEPS},
    **{f"mean weights, {n} steps": partial(searched, judged="mean", n=n) for n in PROBE_STEPS},
    "two lengths of decayed probes": partial(extrapolated, judged="decayed", shorter=25, longer=100),
    "decayed probes, 25 steps, and a prior": partial(drawn, judged="decayed", n=25),
    "best of three decayed probes, 25 steps": partial(best_of_three, judged="decayed", n=25, margin=0.0),
    "best of three, by a margin": partial(best_of_three, judged="decayed", n=25, margin=MARGIN),
    "P, vetoed": partial(vetoed, judged="decayed"),
    "P, vetoed by mean weights": partial(vetoed, judged="mean"),
    "P, for length, vetoed": partial(vetoed, judged="decayed", power=LENGTH_EXPONENT),
    PROPOSED: proposed,
}


class WithConstant(Protocol):
    """A rule with a constant."""

    def __call__(self, state: State, *, constant: float) -> Pick:
        """The pick with that constant."""
        ...


def _vetoed_by(state: State, *, judged: str, constant: float) -> Pick:
    return vetoed(state, judged, margin=constant)


def _drawn_by(state: State, *, constant: float) -> Pick:
    return drawn(state, "decayed", 25, constant)


def _by_power(state: State, *, constant: float) -> Pick:
    return by_share(state, constant)


_MARGINS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.5)
FAMILIES: dict[str, tuple[Sequence[float], WithConstant]] = {
    "P, vetoed": (_MARGINS, partial(_vetoed_by, judged="decayed")),
    "P, vetoed by mean weights": (_MARGINS, partial(_vetoed_by, judged="mean")),
    "decayed probes, 25 steps, and a prior": ((0.025, 0.05, 0.1, 0.2, 0.4, 0.8), _drawn_by),
    "P, by a power of the share": ((0.0, 0.25, 0.5, 0.75, 1.0), _by_power),
}
"""Rules with a constant, and its values: to be chosen on some workloads and judged on others."""
