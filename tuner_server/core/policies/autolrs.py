"""AutoLRS as published.

Jin et al., "AutoLRS: Automatic learning-rate schedule by Bayesian optimization on the fly", ICLR 2021.

The run is cut into stages. Each begins with a search: `candidates` LRs, one after the other, are tried for tau' steps
from the same weights; a forecaster extrapolates each probe's losses to tau steps; a Gaussian process over log LR with
the lower confidence bound picks the next one. The LR with the lowest forecast is then trained with for tau steps. tau
doubles from stage to stage up to its maximum. Every constant of the method is an option; the defaults are the
published code's. What makes policy `budget` robust is an option too, each piece by itself, so that the pieces can be
compared one at a time.

Notation: tau, the committed steps of a stage; tau', the steps of a probe.
"""

from __future__ import annotations

import math
import statistics

import numpy as np
import pydantic
from lrpilot.wire.profile import Profile, Shape

from tuner_server.core.config import LrBounds
from tuner_server.core.errors import InvalidInputError
from tuner_server.core.forecast import (
    ExponentialForecaster,
    Forecaster,
    LastValueForecaster,
    Objective,
    PowerLawForecaster,
)
from tuner_server.core.messages import (
    LOSS_WINDOW,
    Bar,
    Candidate,
    Decision,
    Directive,
    Extrapolation,
    Outcome,
    Phase,
    Report,
    Setback,
    best_candidate,
)
from tuner_server.core.policies.autolrs_options import AutoLrsOptions
from tuner_server.core.policies.base import Asking, Policy, PolicyState, Progress, Step
from tuner_server.core.search.acquisition import LogExpectedImprovement, LowerConfidenceBound
from tuner_server.core.search.observations import asked, observations, posterior_curve
from tuner_server.core.search.suggest import Query
from tuner_server.core.stages import lr_range, promise
from tuner_server.core.stages.decayed_probe import HELD_OUT, end_loss, length_correction
from tuner_server.core.stages.divergence import (
    TRUSTED_RESTARTS,
    SoundLosses,
    check_restarts,
    doubt,
    learn,
    level_reached,
)
from tuner_server.core.stages.extrapolation import FittedProbe
from tuner_server.core.stages.report_points import evenly, report_every
from tuner_server.core.stages.rise import rose

LARGEST_HELD_OUT_SHARE = 4
"""The batches that a decayed probe holds out are part of tau', so that a search costs the same either way, and at most
this part of it."""
RETREAT = math.sqrt(10.0)
"""After a divergence in committed steps the upper bound goes this much below the LR that diverged."""


class AutoLrsState(PolicyState):
    """Between two directives."""

    stage: int = -1
    tau: int = 0
    tau_prime: int = 0
    last_stage: bool = False
    """Whether the committed steps take all that is left."""
    objective: Objective = Objective.TRAINING
    candidates: tuple[Candidate, ...] = ()
    """Of the open stage."""
    extrapolation: Extrapolation | None = None
    """What the best of them was judged by; None: there is none, or it was measured."""
    start_loss: float | None = None
    """Of the open stage."""
    ceiling: float | None = None
    """No LR above this is tried any more: one diverged in committed steps."""
    sound: SoundLosses | None = None
    """What the first stage taught: later on losses are lower, and a level from them alone too strict."""
    footing: promise.Footing | None = None
    """Where the probes of the first stage began."""
    tails: dict[int, float] = pydantic.Field(default_factory=dict)
    """Where the probes of the open stage ended, in training loss, by their directive's number."""
    restarts: int = 0
    """How often committed steps diverged or fell short since a stage was last completed."""
    setback: Setback | None = None
    """Why this stage begins anew; None once that was said."""


class AutoLrs(Policy[AutoLrsOptions, AutoLrsState]):
    """The published method."""

    name = "autolrs"
    options_type = AutoLrsOptions
    state_type = AutoLrsState

    def check(self) -> None:
        """Refuses options that don't fit each other or the job. Raises: InvalidInputError."""
        total = self.config.total_steps
        self._check_pieces()
        tau, tau_prime = self.options.first_stage(total)
        if tau_prime >= tau:
            raise InvalidInputError.of(
                "policy_options.tau_prime",
                f"{tau_prime} is not below tau = {tau}; a tenth of it is usual",
            )
        if self.options.largest_tau(total) < tau:
            raise InvalidInputError.of("policy_options.tau_max", f"{self.options.tau_max} is below tau = {tau}")
        needed = self.options.warmup_steps + tau + self.options.candidates * tau_prime
        if self.config.lr_bounds is None:
            needed += lr_range.directive(self.config).n_steps
        if total is not None and total < needed:
            raise InvalidInputError.of(
                "total_steps",
                f"{total} is too few for one stage ({self.options.candidates} probes of {tau_prime} steps and "
                f"{tau} committed ones); give at least {needed}, or fewer candidates or a shorter tau",
            )

    def _check_pieces(self) -> None:
        """Refuses options that would do nothing beside the others. Raises: InvalidInputError."""
        options = self.options
        if options.decayed_probes and "forecaster" in options.model_fields_set:
            raise InvalidInputError.of(
                "policy_options.forecaster", "decayed_probes are judged by their end and have no forecaster"
            )
        if options.final_decay and self.config.total_steps is None:
            raise InvalidInputError.of("policy_options.final_decay", "without total_steps there is no last stage")
        if options.length_exponent > 0 and not options.final_decay:
            raise InvalidInputError.of(
                "policy_options.length_exponent", "only a final_decay is corrected for its length"
            )

    def start(self, progress: Progress) -> Asking[AutoLrsState]:
        """Warms up if that is asked for; else opens the first stage."""
        state = AutoLrsState()
        n_steps = self.options.warmup_steps
        if n_steps == 0:
            return (yield from self._open_stage(state, progress))
        lr = self.options.warmup_lr or self.config.base_lr
        directive = Directive(
            phase=Phase.WARM_UP,
            n_steps=n_steps,
            profile=Profile(Shape.LINEAR, lr / (n_steps + 1), lr, n_steps),
            report_every=report_every(n_steps),
            reason=f"linear warm-up to {lr:.3g}",
        )
        return Step(state, directive)

    def advance(
        self, state: AutoLrsState, directive: Directive, report: Report, progress: Progress
    ) -> Asking[AutoLrsState]:
        """The next probe, the committed steps after the last one, or the next stage after those."""
        if directive.phase is Phase.PROBE:
            return (yield from self._after_probe(state, directive, report, progress))
        if not report.outcome.rolls_back:
            return (yield from self._open_stage(state.model_copy(update={"restarts": 0}), progress))
        assert directive.profile is not None
        peak = max(directive.profile.start_lr, directive.profile.end_lr)
        setback = Setback(lr=peak)
        if report.outcome is Outcome.FELL_SHORT:
            bar, median = directive.promise[0].loss, statistics.median(report.losses)
            setback = Setback(lr=peak, loss=median, bar=bar)
        update = {"ceiling": peak / RETREAT, "restarts": state.restarts + 1, "setback": setback}
        state = state.model_copy(update=update)
        check_restarts(state.restarts)
        return (yield from self._open_stage(state, progress))

    def rejoin(self, state: AutoLrsState, progress: Progress) -> Asking[AutoLrsState]:
        """A new stage; where too little is left for one, the rest at the LR that was set."""
        remaining = progress.remaining_steps
        if remaining is None or remaining >= self._cost(*self.options.first_stage(self.config.total_steps)):
            return (yield from self._open_stage(state, progress))
        reason = f"joined again with {remaining} steps left, too few for a search: the LR that was set"
        return Step(state, self._train(state, self.config.base_lr, remaining, reason, last=True))

    def without_search(self, state: AutoLrsState, progress: Progress, reason: str) -> Step[AutoLrsState]:
        """The LR that was set, or one below what diverged: to the end, decaying; without an end, for a stage."""
        lr = min(self.config.base_lr, state.ceiling or math.inf)
        n_steps = progress.remaining_steps or self.options.largest_tau(None)
        reason += "; the LR that was set" if lr == self.config.base_lr else "; an LR below the one that failed"
        decision = Decision(stage=state.stage, lr=lr, reason=reason, setback=state.setback)
        state = state.model_copy(update={"candidates": (), "extrapolation": None, "tails": {}, "setback": None})
        last = progress.remaining_steps is not None
        return Step(state, self._train(state, lr, n_steps, reason, last=last), decision)

    def _open_stage(self, state: AutoLrsState, progress: Progress) -> Asking[AutoLrsState]:
        """Sizes the next stage by what is left, and sends its first probe."""
        if state.search_ended:
            state = state.model_copy(update={"stage": state.stage + 1})
            return self.without_search(state, progress, "no search any more")
        total, remaining = self.config.total_steps, progress.remaining_steps
        first_tau, first_tau_prime = self.options.first_stage(total)
        largest = self.options.largest_tau(total)
        validated = state.objective is Objective.VALIDATION or (self.config.has_validation and state.tau >= largest)
        tau = first_tau if state.tau == 0 else min(2 * state.tau, largest)
        tau_prime = max(1, round(tau * first_tau_prime / first_tau))
        smallest = self._cost(first_tau, first_tau_prime)
        last = remaining is not None and remaining < self._cost(tau, tau_prime) + smallest
        if remaining is not None and remaining < smallest:
            return self._train_on(state, remaining, progress)
        if remaining is not None and remaining < self._cost(tau, tau_prime):
            tau_prime = max(1, first_tau_prime * remaining // smallest)
            tau = remaining - self.options.candidates * tau_prime
        state = state.model_copy(
            update={
                "stage": state.stage + 1,
                "tau": tau,
                "tau_prime": tau_prime,
                "last_stage": last,
                "objective": Objective.VALIDATION if validated else Objective.TRAINING,
                "candidates": (),
                "extrapolation": None,
                "tails": {},
                "start_loss": progress.last_loss,
            }
        )
        return (yield from self._probe(state, progress))

    def _cost(self, tau: int, tau_prime: int) -> int:
        return tau + self.options.candidates * tau_prime

    def _bounds(self, state: AutoLrsState, progress: Progress) -> LrBounds:
        """The bounds below the ceiling; a range that lies above it moves down as a whole."""
        bounds = progress.bounds
        if state.ceiling is None or state.ceiling >= bounds.max:
            return bounds
        return LrBounds(min=min(bounds.min, state.ceiling / RETREAT), max=state.ceiling)

    def _probe(self, state: AutoLrsState, progress: Progress) -> Asking[AutoLrsState]:
        bounds = self._bounds(state, progress)
        index = len(state.candidates)
        lcb = self.options.acquisition == "lcb"
        query = Query(
            observations(state.candidates),
            bounds.log,
            LowerConfidenceBound(self.options.kappa) if lcb else LogExpectedImprovement(),
            seed=self.config.seed + state.stage,
        )
        found = yield query
        lr = math.exp(found.log_lr)
        reason = f"candidate {index + 1} of {self.options.candidates}"
        validations = 1 if self.options.decayed_probes else self.options.validations
        validated = state.objective is Objective.VALIDATION
        directive = Directive(
            phase=Phase.PROBE,
            stage=state.stage,
            n_steps=state.tau_prime,
            profile=_profile(lr, self._moving_steps(state), decays=self.options.decayed_probes),
            batches=self.options.batches,
            validate_at=evenly(state.tau_prime, validations) if validated else (),
            give_up_above=self._give_up_above(state, lr),
            reason=reason,
        )
        decision = Decision(
            stage=state.stage,
            lr=lr,
            reason=reason,
            candidates=state.candidates,
            posterior=posterior_curve(found.evidence),
            setback=state.setback,
            asked=asked(query),
        )
        return Step(state.model_copy(update={"setback": None}), directive, decision)

    def _moving_steps(self, state: AutoLrsState) -> int:
        """Steps of a probe that move the weights: all but those that are held out."""
        held_out = min(HELD_OUT, state.tau_prime // LARGEST_HELD_OUT_SHARE)
        judged_by_batches = self.options.decayed_probes and state.objective is Objective.TRAINING
        return state.tau_prime - held_out if judged_by_batches else state.tau_prime

    def _give_up_above(self, state: AutoLrsState, lr: float) -> float | None:
        if state.sound is None or state.restarts >= TRUSTED_RESTARTS:
            return None
        begins = (state.start_loss, None if state.footing is None else state.footing.start_loss)
        start = max((loss for loss in begins if loss is not None), default=None)
        return state.sound.level(self.options.divergence_factor, lr, start)

    def _after_probe(
        self, state: AutoLrsState, directive: Directive, report: Report, progress: Progress
    ) -> Asking[AutoLrsState]:
        assert directive.profile is not None
        number, lr = directive.number, directive.profile.start_lr
        if state.stage == 0 or state.sound is None:
            footing = promise.learn(state.footing, lr, report, None)
            state = state.model_copy(update={"sound": learn(state.sound, lr, report), "footing": footing})
        if report.outcome is Outcome.COMPLETED:
            state = state.model_copy(update={"tails": {**state.tails, number: promise.tail(report.losses)}})
        if report.outcome is Outcome.DIVERGED:
            candidate = Candidate(directive_number=number, lr=lr, at_least=level_reached(report, state.start_loss))
        elif self.options.decayed_probes:
            # A probe too short to hold out any has its last loss, one step before its end.
            loss = end_loss(report, max(state.tau_prime - self._moving_steps(state), 1))
            # No standard error, as in `budget`: what is left of the noise is for the surrogate to find out.
            candidate = Candidate(directive_number=number, lr=lr, forecast=loss, forecast_sd=0.0)
        else:
            fitted = self._fit(state, report, progress)
            forecast = fitted.forecast
            candidate = Candidate(
                directive_number=number,
                lr=lr,
                forecast=forecast.loss,
                forecast_sd=forecast.sd,
                raw_forecast=forecast.raw,
            )
            if best_candidate((*state.candidates, candidate)) is candidate:
                state = state.model_copy(update={"extrapolation": fitted.extrapolation()})
        state = state.model_copy(update={"candidates": (*state.candidates, candidate)})
        if len(state.candidates) < self.options.candidates:
            return (yield from self._probe(state, progress))
        return self._commit(state, progress)

    def _fit(self, state: AutoLrsState, report: Report, progress: Progress) -> FittedProbe:
        """The curve that leads to the loss after tau steps.

        A fall is not extrapolated if the loss rose before it. Then the last value counts, as far as it goes.
        """
        if state.objective is Objective.VALIDATION:
            losses = np.array([validation.loss for validation in report.validations])
            interval = state.tau_prime / len(losses)
        else:
            losses, interval = np.array(report.losses), 1.0
        fitted = FittedProbe.of(self.forecaster(state.objective), losses, state.tau, interval)
        if not _rose(report, progress):
            return fitted
        last = FittedProbe.of(LastValueForecaster(), losses, state.tau, interval)
        return last if fitted.forecast.loss < last.forecast.loss else fitted

    def forecaster(self, objective: Objective) -> Forecaster:
        """What extrapolates the probes' losses of that kind."""
        match self.options.forecaster:
            case "exponential":
                return ExponentialForecaster(objective)
            case "power_law":
                return PowerLawForecaster()
            case "last_value":
                return LastValueForecaster()

    def _commit(self, state: AutoLrsState, progress: Progress) -> Step[AutoLrsState]:
        """Trains with the LR of the lowest forecast; with the lowest LR when every probe diverged."""
        remaining = progress.remaining_steps
        n_steps = state.tau if remaining is None or not state.last_stage else remaining
        winner, correction = best_candidate(state.candidates), None
        if winner is not None:
            lr = winner.lr
            if state.last_stage and self.options.length_exponent > 0:
                correction = length_correction(self._moving_steps(state), n_steps, self.options.length_exponent)
                lr *= correction
            reason = f"the lowest forecast of {len(state.candidates)} candidates: {winner.forecast:.4g}"
            if correction is not None and correction < 1.0:
                reason += f"; its LR times {correction:.2f} for a decay over {n_steps}"
        else:
            lr = self._bounds(state, progress).min
            reason = "every probe diverged: the lowest LR of the range"
        decision = Decision(
            stage=state.stage,
            lr=lr,
            reason=reason,
            candidates=state.candidates,
            optimum=winner.lr if winner is not None and correction is not None else None,
            correction=correction,
            extrapolation=state.extrapolation,
        )
        directive = self._train(state, lr, n_steps, reason, last=state.last_stage)
        return Step(state.model_copy(update={"extrapolation": None}), directive, decision)

    def _train_on(self, state: AutoLrsState, n_steps: int, progress: Progress) -> Step[AutoLrsState]:
        """Spends a rest that is too short for a search: only a divergence leaves one."""
        lr = self._bounds(state, progress).max
        return Step(state, self._train(state, lr, n_steps, "too few steps are left for a search", last=True))

    def _train(self, state: AutoLrsState, lr: float, n_steps: int, reason: str, *, last: bool) -> Directive:
        every = report_every(n_steps)
        return Directive(
            phase=Phase.TRAIN,
            stage=state.stage,
            n_steps=n_steps,
            profile=_profile(lr, n_steps, decays=last and (self.options.final_decay or state.search_ended)),
            batches=self.options.batches,
            validate_at=(n_steps,) if self.config.has_validation else (),
            give_up_above=self._give_up_above(state, lr),
            report_every=every,
            promise=self._promise(state, every),
            reason=reason + doubt(state.restarts),
        )

    def _promise(self, state: AutoLrsState, report_steps: int) -> tuple[Bar, ...]:
        """A stage keeps half of what the run had gained before it; the first one, half of what its own probe gained.

        Not of what the best probe gained: a forecast may prefer a slower one.
        """
        footing, reached = state.footing, state.start_loss
        winner = best_candidate(state.candidates)
        if winner is not None and (state.stage == 0 or reached is None):
            reached = state.tails.get(winner.directive_number)
        if footing is None or reached is None or state.restarts >= TRUSTED_RESTARTS or state.search_ended:
            return ()
        from_step = max(state.tau_prime, report_steps)
        return promise.half_kept(footing.start_loss, reached, footing.sd, from_step, report_steps)


def _rose(report: Report, progress: Progress) -> bool:
    """Whether the losses of a probe rose above those of the steps before it; of a fresh model one loss is known."""
    if progress.last_loss is not None:
        return rose(report.losses, progress.last_loss, min(progress.committed_steps, LOSS_WINDOW))
    return progress.first_loss is not None and rose(report.losses, progress.first_loss, 1)


def _profile(lr: float, n_steps: int, *, decays: bool) -> Profile:
    return Profile(Shape.LINEAR, lr, 0.0, n_steps) if decays else Profile.constant(lr, n_steps)
