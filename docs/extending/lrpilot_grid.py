"""Policy `grid`: LRs at even distances are tried in small runs, and the best one decays over what is left.

Every LR of the grid is tried, so that the search can be read as a plain table; the LR that is committed may lie between
two of them, where the surrogate expects the lowest loss.
"""

from __future__ import annotations

import math

import pydantic

from tuner_server.core.errors import InvalidInputError
from tuner_server.core.evidence import restart
from tuner_server.core.evidence.divergence import DIVERGENCE_FACTOR
from tuner_server.core.evidence.lessons import Lessons
from tuner_server.core.messages import Decision, Directive, Outcome, Phase, Report
from tuner_server.core.policies.base import Asking, Options, Policy, PolicyState, Progress, Step
from tuner_server.core.search.acquisition import LowerConfidenceBound
from tuner_server.core.search.observations import ask
from tuner_server.core.search.prior import LENGTH_EXPONENT, Optimum
from tuner_server.core.stages import final_decay, probe
from tuner_server.core.stages.decayed_probe import HELD_OUT, length_correction

LARGEST_SEARCH_SHARE = 0.2
"""A grid that would take more of the run is not tried."""
PRIOR_SDS = 2.0
"""With a prior the grid covers so many of its standard deviations on either side."""


class GridOptions(Options):
    """The constants of the method."""

    candidates: int = pydantic.Field(default=5, ge=2, le=50)
    """LRs of the grid."""
    probe_steps: int = pydantic.Field(default=25, ge=4)
    """Steps of a probe that move the weights."""


class GridState(Lessons, PolicyState):
    """Between two directives: what probes came to, and what they taught, is all that there is to keep."""

    best: Optimum | None = None
    """What the whole grid found; None before its end."""


class Grid(Policy[GridOptions, GridState]):
    """The grid, for jobs whose end is known."""

    name = "grid"
    options_type = GridOptions
    state_type = GridState

    def check(self) -> None:
        """Refuses a job without an end. Raises: InvalidInputError."""
        if self.config.total_steps is None:
            raise InvalidInputError.of("total_steps", "policy grid needs it")

    @property
    def _probes(self) -> probe.ProbePlan:
        return probe.ProbePlan(self.options.probe_steps, held_out=0 if self.config.has_validation else HELD_OUT)

    @property
    def searches(self) -> bool:
        """Whether the run is long enough for the grid."""
        cost = self.options.candidates * self._probes.n_steps
        return self.config.total_steps is not None and cost <= LARGEST_SEARCH_SHARE * self.config.total_steps

    def start(self, progress: Progress) -> Asking[GridState]:
        """The lowest LR of the grid; in a run too short for it, the decay from the LR that was set."""
        if self.searches:
            return (yield from self._next(GridState(), progress))
        return self._set_lr(GridState(), progress, "too few steps for a grid")

    def advance(self, state: GridState, directive: Directive, report: Report, progress: Progress) -> Asking[GridState]:
        """The next LR of the grid; after committed steps that failed, the decay from a lower LR."""
        if directive.phase is not Phase.PROBE:
            return self._restart(state, directive, report, progress)
        if report.outcome is Outcome.DIVERGED:
            candidate = probe.diverged(directive, report, progress.first_loss)
        else:
            candidate = probe.measured(directive, report, self._probes.held_out)
        state = state.taught(candidate.lr, report, candidate.forecast)
        return (
            yield from self._next(state.model_copy(update={"candidates": (*state.candidates, candidate)}), progress)
        )

    def rejoin(self, state: GridState, progress: Progress) -> Asking[GridState]:
        """The best of what was tried so far; where that is nothing, the LR that was set."""
        if all(candidate.diverged for candidate in state.candidates):
            return self._set_lr(state, progress, "joined again before any LR was known to be sound")
        return (yield from self._commit(state, progress))

    def without_search(self, state: GridState, progress: Progress, reason: str) -> Step[GridState]:
        """The LR that was set."""
        return self._set_lr(state, progress, reason)

    @classmethod
    def optimum(cls, state: GridState) -> Optimum | None:
        """What later jobs of the family have as their prior."""
        return state.best

    def _next(self, state: GridState, progress: Progress) -> Asking[GridState]:
        """Tries the LR that is next, until all were."""
        tried = len(state.candidates)
        if tried == self.options.candidates:
            return (yield from self._commit(state, progress))
        low, high = self._range(progress)
        lr = math.exp(low + (high - low) * tried / (self.options.candidates - 1))
        n = self._probes.moving_steps
        reason = f"LR {tried + 1} of the grid of {self.options.candidates}"
        directive = self._probes.directive(
            lr,
            stage=0,
            validate_at=((n,) if tried else (0, n)) if self.config.has_validation else (),
            give_up_above=state.give_up_above(DIVERGENCE_FACTOR, lr),
            reason=reason,
        )
        return Step(state, directive, Decision(stage=0, lr=lr, reason=reason, candidates=state.candidates))

    def _range(self, progress: Progress) -> tuple[float, float]:
        """The logs of the lowest and the highest LR: the bounds, or what of them a prior leaves."""
        low, high = progress.bounds.log
        if progress.prior is None:
            return low, high
        x = min(max(progress.prior.at(self.options.probe_steps, LENGTH_EXPONENT), low), high)
        reach = PRIOR_SDS * progress.prior.sd
        return max(low, x - reach), min(high, x + reach)

    def _commit(self, state: GridState, progress: Progress) -> Asking[GridState]:
        """The LR with the lowest expected loss, corrected for the length of the rest."""
        if all(candidate.diverged for candidate in state.candidates):
            lr = state.candidates[0].lr / restart.RETREAT
            decision = Decision(stage=0, lr=lr, reason="every LR of the grid diverged", candidates=state.candidates)
            return self._train(state, decision, progress)
        found = yield from ask(
            state.candidates,
            self._range(progress),
            LowerConfidenceBound(kappa=0.0),
            seed=self.config.seed,
            min_separation=0.0,
        )
        n = self._probes.moving_steps
        correction = length_correction(n, progress.remaining_steps or n, LENGTH_EXPONENT)
        allowed = restart.lr_after_setbacks(found.lr * correction, state.ceiling)
        reason = f"the lowest loss of the grid, at {found.lr:.3g}, times {correction:.2f} for the longer run"
        decision = Decision(
            stage=0,
            lr=allowed.lr,
            reason=reason + allowed.note,
            candidates=state.candidates,
            posterior=found.posterior,
            asked=found.asked,
            forecast=found.expected_loss,
            forecast_sd=found.expected_sd,
            optimum=found.lr,
            correction=correction,
            lowered_by=allowed.lowered_by,
        )
        if len(state.candidates) == self.options.candidates:
            state = state.model_copy(update={"best": Optimum(log_lr=found.log_lr, probe_steps=n)})
        return self._train(state, decision, progress)

    def _restart(self, state: GridState, directive: Directive, report: Report, progress: Progress) -> Step[GridState]:
        """The decay from a lower LR than the one that failed. Raises: DivergenceError: it never helps."""
        state, decision = final_decay.after_setback(state, directive, report, progress.reported_steps)
        best = state.best and state.best.model_copy(update={"good_end": False})
        return self._train(state.model_copy(update={"best": best}), decision, progress)

    def _set_lr(self, state: GridState, progress: Progress, reason: str) -> Step[GridState]:
        reason = f"{reason}: the LR that was set"
        return self._train(state, final_decay.lr_that_was_set(state, self.config.base_lr, reason), progress)

    def _train(self, state: GridState, decision: Decision, progress: Progress) -> Step[GridState]:
        """All that is left, from the LR of a decision to zero, held to what the probes promised."""
        decay, ended = final_decay.FinalDecay(validates=self.config.has_validation), state.search_ended
        return Step(state, decay.directive(state, decision, progress.remaining_steps, search_ended=ended), decision)
