"""What would come of the rest of a run under one schedule or another, by the annealing law of its losses so far."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence

import numpy as np
from lrpilot.wire.profile import Profile, Shape

from tuner_server.core.job.state import JobState
from tuner_server.core.laws.annealing_law import AnnealingLaw
from tuner_server.core.laws.curve import UnfittableError
from tuner_server.history.committed_run import CommittedRun, Piece
from tuner_server.history.thinning import FloatArray
from tuner_server.history.timeline import Timeline
from tuner_server.history.words import lr_way
from tuner_server.history.words.numbers import number, steps, with_error

ANNEALED_SHARE = 0.1
"""An annealing now is one over this part of the steps so far: most of what a cooldown gains, it gains in a tenth."""
POINTS = 60
"""Points of a curve that is forecast."""
EXPLAINED = 0.5
"""The share of the losses' variance that the law explains at least; below it, its figures tell nothing."""
CLEAR = 0.5
"""An error above this part of what the loss has fallen by tells nothing."""
LR_TOLERANCE = 1e-6
"""The part by which an LR may lie above the highest one seen, which is rounding."""


@dataclasses.dataclass(frozen=True, eq=False)
class Forecast:
    """The loss at the end of steps that may follow, as the law has it."""

    pieces: tuple[Piece, ...]
    """The steps that follow the run's own; all of it where they replace the run."""
    end_step: int
    """Committed steps at the end."""
    loss: float
    error: float
    """Its standard error; NaN: the LR falls, and what that brings could not be told."""
    positive: bool
    """Whether all losses were that the law was fitted to."""
    curve_steps: FloatArray
    curve: FloatArray
    """The losses on the way."""
    of_metric: bool = False
    """Whether they are minus a metric, which is shown with its own sign."""

    @property
    def n_steps(self) -> int:
        """The steps that are forecast."""
        return sum(piece.n_steps for piece in self.pieces)

    @property
    def words(self) -> str:
        """The steps, and how the LR moves in them."""
        profile = self.pieces[0].profile
        verb = lr_way.verb(profile).participle
        way = f"{verb} {number(profile.lr(0))}"
        if profile.shape.way.moves:
            way += f" to {number(profile.last_lr)} {profile.shape.way.words}"
        return f"{steps(self.n_steps)}, {way}"

    @property
    def told(self) -> bool:
        """Whether there is a loss, with an error."""
        return math.isfinite(self.error)

    @property
    def value(self) -> str:
        """The loss and its error, in words; of one below zero, where all were above it so far, the upper end only."""
        if not self.told:
            return "not known: the LR has not fallen yet"
        if self.positive and self.loss < 0:
            return f"below {number(self.error)}"
        return with_error(-self.loss if self.of_metric else self.loss, self.error)


@dataclasses.dataclass(frozen=True, eq=False)
class Outlook:
    """A run, the law that was fitted to it, and what it says of what is to come."""

    run: CommittedRun
    law: AnnealingLaw
    annealed: Forecast | None
    """An annealing to zero that begins now; None: the LR is zero."""
    planned: Forecast | None
    """The rest of what is planned; None: nothing is, or its LR rises above all that was seen."""

    @property
    def observed(self) -> str:
        """The loss that was fitted."""
        if self.run.of_metric:
            return "validation metric"
        return "validation loss" if self.run.of_validations else "training loss"

    def is_clear(self, one: Forecast) -> bool:
        """Whether a forecast's error is small beside what the loss has fallen by."""
        return one.told and one.error < CLEAR * self._seen

    @functools.cached_property
    def _seen(self) -> float:
        """The range of the losses that were fitted."""
        return float(np.ptp(self.run.curve().losses))

    @property
    def formula(self) -> str:
        """The law with its parameters."""
        law = self.law
        words = f"{number(law.level)} + {number(law.amplitude)} · S1^−{number(law.power)}"
        if law.annealing_known:
            words += f" − {number(law.gain)} · S2, momentum {law.momentum:g}"
        return f"minus ({words})" if self.run.of_metric else words

    @property
    def evidence(self) -> str:
        """What the law was fitted to, and how well it does."""
        what = "validations" if self.run.of_validations else "means of training losses"
        return f"{self.law.n_points} {what}, of whose variance the law explains {100 * self.law.r_squared:.3g}%"

    @property
    def words(self) -> str:
        """What annealing now would give, and what the rest of the plan, as sentences."""
        sentences = []
        if self.annealed is not None:
            sentences.append(
                f"Annealing now, over {steps(self.annealed.n_steps)}, would end at a {self.observed} of "
                f"{self.annealed.value}."
            )
        if self.planned is not None and self.is_clear(self.planned):
            sentences.append(f"The {steps(self.planned.n_steps)} that are planned would end at {self.planned.value}.")
        return " ".join(sentences)


def forecast(run: CommittedRun, pieces: Sequence[Piece], *, from_start: bool = False) -> Forecast:
    """The loss at the end of some steps.

    Args:
        run: what is known.
        pieces: the steps that follow it.
        from_start: whether they replace it instead.

    Raises:
        UnfittableError: the run tells too little, or an LR is above all that it has seen.
    """
    law = run.law
    highest = max(piece.profile.highest_lr(piece.n_steps) or 0.0 for piece in pieces)
    if highest > law.highest_lr * (1 + LR_TOLERANCE):
        raise UnfittableError(
            f"LR {number(highest)} is above {number(law.highest_lr)}, the highest that the run has seen: the law knows "
            "nothing of divergence"
        )
    begin = 0 if from_start else run.n_steps
    n_steps = sum(piece.n_steps for piece in pieces)
    path = run.path(pieces, until=begin)
    shown = np.unique(np.linspace(begin, begin + n_steps - 1, POINTS).round())
    curve = law.losses(path, shown[shown > path.warmup])
    found = law.predict(path, begin + n_steps - 1)
    positive = bool(run.curve().losses.min() > 0)
    return Forecast(tuple(pieces), begin + n_steps, *found, positive, shown[shown > path.warmup], curve, run.of_metric)


def annealing_now(run: CommittedRun) -> Piece | None:
    """A line from the LR as it is to zero, over a tenth of the steps so far; None: the LR is zero."""
    n_steps = max(round(ANNEALED_SHARE * run.n_steps), 1)
    return Piece(Profile.to_zero(Shape.LINEAR, run.lr, n_steps), n_steps) if run.lr > 0 else None


def outlook(run: CommittedRun, planned: Piece | None) -> Outlook:
    """What annealing now, and the rest of the plan, would give.

    Args:
        run: what is known.
        planned: the steps that are planned to follow; None: none are.

    Raises:
        UnfittableError: the run tells too little.
    """
    law, now = run.law, annealing_now(run)
    if not law.r_squared >= EXPLAINED:
        explained = f"{100 * law.r_squared:.2g}%" if law.r_squared > 0 else "nothing"
        raise UnfittableError(
            f"the evidence is too thin: the law explains {explained} of the variance of {law.n_points} losses, which "
            f"takes {100 * EXPLAINED:g}%"
        )
    annealed = None if now is None else forecast(run, [now])
    try:
        rest = None if planned is None else forecast(run, [planned])
    except UnfittableError:
        rest = None
    return Outlook(run, law, annealed, rest)


def planned_rest(state: JobState) -> Piece | None:
    """The steps of a job that are planned, as far as its outstanding directive tells them; None: it tells none."""
    directive = state.directive
    if not (state.status.live and directive.phase.committed and directive.profile is not None and directive.n_steps):
        return None
    return Piece(directive.profile, directive.n_steps)


def outlook_of_job(state: JobState, found: Timeline) -> Outlook | None:
    """The outlook of a job that trains; None: it has ended, or is too short, or tells too little of it."""
    if not state.status.live:
        return None
    try:
        said = outlook(found.committed_run, planned_rest(state))
    except UnfittableError:
        return None
    return said if said.annealed is not None and said.is_clear(said.annealed) else None
