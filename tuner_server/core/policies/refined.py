"""Policy `budget`, whose decay is refined on the way by what gradient norms ask for.

The search, the commit, restarts, promises, endings and changes of the plan are those of `budget`. Beside these the norm
of the gradient is measured at committed steps, and left to later jobs of the family. At some parts of the committed
steps the rest of the decay is made anew by the closed form of `core.laws.refinement`: with the norms that the newest
job of the family had from there on, as long as this job's own have gone the same way so far. Without such a job they
are thought to stay as they are, which means linear decay.

The paper refines after a run, for the next one (Defazio et al. 2023, arXiv 2310.07831). What is on the way is ours.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
from lrpilot.wire.profile import Profile, Shape

from tuner_server.core.errors import InvalidInputError
from tuner_server.core.laws import refinement
from tuner_server.core.laws.optimizer_kind import OptimizerKind
from tuner_server.core.messages import Decision, Directive, Report
from tuner_server.core.policies.base import Progress, Step
from tuner_server.core.policies.budget import Budget, BudgetState
from tuner_server.core.policies.refined_options import RefinedOptions
from tuner_server.core.search.prior import NormCurve, Optimum
from tuner_server.core.stages.ending import EndingPlan
from tuner_server.core.stages.norm_track import NormTrack

POINTS = 800
"""Points of the way at which shapes are compared: the closed form smooths a tenth of them."""
MOST_KNOTS = 200
"""Points of a refined shape."""
LEFT_NORMS = 100
"""Norms that a job leaves to later ones of its family."""
WHOLE = 0.85
"""Norms up to this part of the way stand for all: the last report of a job comes to no policy, and may be a seventh."""
ALIKE = 2.0
"""An earlier job's norms are believed while their ratio to this job's own has moved by no more than this factor."""
CLOSE = 1.05
"""Norms whose ratio has moved by less than this factor are told to follow closely."""
LEAST_CHANGE = 0.01
"""A shape that differs from the one in force by less than this part of the peak is no other one."""
ADAM_ALONE = "gradient_over_eps"
"""The measure that only optimizers like Adam have."""


class RefinedState(BudgetState):
    """Between two directives, or two parts of one."""

    track: NormTrack = NormTrack()
    """The norms of the committed steps that are under way."""
    measure: str = ""
    """The name of the norm that is measured."""


class _Guess(NamedTuple):
    """What the norms of the rest are thought to be."""

    norms: tuple[float, ...]
    """Evenly over the whole way; empty: they stay as they are."""
    why: str


class Refined(Budget):
    """For jobs of a family whose decay follows the gradient norms of the one before."""

    name = "refined"
    options_type = RefinedOptions
    state_type = RefinedState
    options: RefinedOptions

    def check(self) -> None:
        """Refuses what `budget` refuses, and an LR that does not decay. Raises: InvalidInputError."""
        super().check()
        if not self.options.decay.way.moves:
            message = "constant; policy refined changes how an LR decays: give linear or another shape that falls"
            raise InvalidInputError.of("policy_options.decay", message)

    @property
    def _kind(self) -> OptimizerKind:
        if self.options.optimizer is not None:
            return self.options.optimizer
        return OptimizerKind.ADAM if ADAM_ALONE in self.config.measures else OptimizerKind.SGD

    def _decided(
        self,
        state: BudgetState,
        decision: Decision,
        progress: Progress,
        annealing: EndingPlan | None = None,
        *,
        goes_on: bool = False,
    ) -> Step[BudgetState]:
        """The decay of `budget`, at whose steps the norms are measured from the first one on."""
        step = super()._decided(state, decision, progress, annealing, goes_on=goes_on)
        measure = self._kind.measure
        measures = (measure,) if measure in self.config.measures else ()
        update = {"track": NormTrack(), "measure": measure}
        return Step(
            step.state.model_copy(update=update),
            step.directive.model_copy(update={"measures": measures}),
            step.decision,
        )

    def reshape(
        self, state: BudgetState, directive: Directive, report: Report, progress: Progress
    ) -> Step[BudgetState] | None:
        """Holds the rest to what the run has reached, keeps the norms, and refines what follows where it is due."""
        held = super().reshape(state, directive, report, progress)
        if held is not None:
            state, directive = held.state, held.directive
        assert isinstance(state, RefinedState)
        if not directive.measures or directive.profile is None:
            return held
        begin, end = progress.reported_steps, progress.reported_steps + report.n_steps
        norms = report.measures.get(state.measure, ())
        state = state.model_copy(update={"track": state.track.after(norms, directive.profile, begin)})
        if not any(begin < part * directive.n_steps <= end for part in self.options.refine_at):
            return Step(state, directive)
        return self._refined(state, directive, directive.profile, progress, end)

    def _refined(
        self, state: RefinedState, directive: Directive, profile: Profile, progress: Progress, end: int
    ) -> Step[BudgetState]:
        """The directive with the rest of its decay refined, after `end` of its steps."""
        points = np.linspace(0.0, 1.0, POINTS)
        behind = int(
            np.searchsorted(points, (profile.offset + end - profile.warmup) / (profile.length - profile.warmup))
        )
        old = np.array([profile.shape.weight(done) for done in points.tolist()])
        guess = self._guess(state, progress, behind)
        new = refinement.refined_on_the_way(old, behind, self._kind, guess.norms)
        changed = int(np.abs(new - old).argmax())
        if behind >= POINTS or abs(new[changed] - old[changed]) < LEAST_CHANGE:
            return Step(state, directive)
        shape = Shape.points(refinement.knots(new, MOST_KNOTS, behind))
        reshaped = dataclasses.replace(profile, shape=shape)
        reason = (
            f"the decay was refined after {end} of {directive.n_steps} steps: {guess.why}; after {points[changed]:.0%} "
            f"of the way its LR is {new[changed] / old[changed]:.2f} times what it would have been"
        )
        decision = Decision(stage=directive.stage, lr=profile.peak, reason=reason)
        return Step(state, directive.model_copy(update={"profile": reshaped, "reason": reason}), decision)

    def _guess(self, state: RefinedState, progress: Progress, behind: int) -> _Guess:
        """What the norms of the rest are thought to be: those of an earlier job, or as they are."""
        earlier = None if progress.prior is None else progress.prior.norms
        stays = "its norms are thought to stay as they are, which means linear decay"
        if earlier is None or earlier.measure != state.measure:
            return _Guess((), stays)
        other = refinement.brought_to(np.array(earlier.norms), POINTS)
        drift = None
        if len(state.track.norms) >= refinement.FEWEST_NORMS:
            drift = refinement.drift(state.track.curve(POINTS)[:behind], other[:behind])
        if drift is None or drift > ALIKE:
            apart = (
                "are not known" if drift is None else f"have left those of an earlier job by a factor of {drift:.2g}"
            )
            return _Guess((), f"its own {state.measure} so far {apart}, so {stays}")
        onward = other[behind:]
        grown = float(np.median(onward[-len(onward) // 5 :]) / np.median(onward[: len(onward) // 5 + 1]))
        how = "closely" if drift < CLOSE else f"within a factor of {drift:.2g}"
        return _Guess(
            earlier.norms,
            f"{state.measure} of an earlier job, which this one's followed {how}, went on to {grown:.2g} times what it "
            "is here",
        )

    @classmethod
    def optimum(cls, state: BudgetState) -> Optimum | None:
        """What the search found, and the norms of the committed steps once they are there."""
        found = super().optimum(state)
        if found is None or not isinstance(state, RefinedState) or state.track.reach < WHOLE:
            return found
        smooth = refinement.smoothed(state.track.curve(POINTS))
        norms = tuple(refinement.brought_to(smooth, LEFT_NORMS).tolist())
        return found.model_copy(update={"norms": NormCurve(measure=state.measure, norms=norms)})
