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

import pydantic
from lrpilot.wire.profile import Profile, Shape

from tuner_server.core.config import LrBounds
from tuner_server.core.errors import InvalidInputError
from tuner_server.core.evidence import promise, restart
from tuner_server.core.evidence.extrapolation import fit_probe
from tuner_server.core.evidence.lessons import Lessons
from tuner_server.core.evidence.rise import rose
from tuner_server.core.forecast import FORECASTERS, Objective
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
from tuner_server.core.search.observations import ask
from tuner_server.core.stages import committed, lr_range, probe
from tuner_server.core.stages.decayed_probe import HELD_OUT, length_correction
from tuner_server.core.stages.report_points import evenly, report_every

LARGEST_HELD_OUT_SHARE = 1 / 4
"""The batches that a decayed probe holds out are part of tau', so that a search costs the same either way, and at most
this share of it."""


class AutoLrsState(Lessons, PolicyState):
    """Between two directives.

    The candidates are those of the open stage. No LR above the ceiling is tried, either. What probes teach of losses is
    what those of the first stage did: later on losses are lower, and a level from them alone too strict. Restarts are
    those since a stage was last completed.
    """

    stage: int = -1
    tau: int = 0
    tau_prime: int = 0
    last_stage: bool = False
    """Whether the committed steps take all that is left."""
    objective: Objective = Objective.TRAINING
    extrapolation: Extrapolation | None = None
    """What the best candidate was judged by; None: there is none, or it was measured."""
    start_loss: float | None = None
    """The loss with which the open stage began."""
    tails: dict[int, float] = pydantic.Field(default_factory=dict)
    """Where the probes of the open stage ended, in training loss, by their directive's number."""
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
        return Step(state, directive, Decision(stage=directive.stage, lr=lr, reason=directive.reason))

    def advance(
        self, state: AutoLrsState, directive: Directive, report: Report, progress: Progress
    ) -> Asking[AutoLrsState]:
        """The next probe, the committed steps after the last one, or the next stage after those."""
        if directive.phase is Phase.PROBE:
            return (yield from self._after_probe(state, directive, report, progress))
        if not report.outcome.rolls_back:
            return (yield from self._open_stage(state.model_copy(update={"restarts": 0}), progress))
        setback = restart.setback(directive, report, progress.reported_steps)
        state = state.set_back(setback).model_copy(update={"setback": setback})
        return (yield from self._open_stage(state, progress))

    def rejoin(self, state: AutoLrsState, progress: Progress) -> Asking[AutoLrsState]:
        """A new stage; where too little is left for one, the rest at the LR that was set, or below one that failed."""
        remaining = progress.remaining_steps
        if remaining is None or remaining >= self._cost(*self.options.first_stage(self.config.total_steps)):
            return (yield from self._open_stage(state, progress))
        lr = restart.lr_after_setbacks(self.config.base_lr, state.ceiling)
        reason = f"joined again with {remaining} steps left, too few for a search: the LR that was set{lr.note}"
        decision = Decision(stage=state.stage, lr=lr.lr, reason=reason, lowered_by=lr.lowered_by)
        return Step(state, self._train(state, lr.lr, remaining, reason, last=True), decision)

    def without_search(self, state: AutoLrsState, progress: Progress, reason: str) -> Step[AutoLrsState]:
        """The LR that was set, or one below what diverged: to the end, decaying; without an end, for a stage."""
        lr = restart.lr_after_setbacks(self.config.base_lr, state.ceiling).lr
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
        return LrBounds(min=min(bounds.min, state.ceiling / restart.RETREAT), max=state.ceiling)

    def _plan(self, state: AutoLrsState) -> probe.ProbePlan:
        """Each probe of the open stage: tau' steps; some of a decayed one are held out where they have to judge it."""
        held_out = 0
        if self.options.decayed_probes and state.objective is Objective.TRAINING:
            held_out = min(HELD_OUT, int(state.tau_prime * LARGEST_HELD_OUT_SHARE))
        moving, decays = state.tau_prime - held_out, self.options.decayed_probes
        return probe.ProbePlan(moving, held_out, decays=decays, batches=self.options.batches)

    def _probe(self, state: AutoLrsState, progress: Progress) -> Asking[AutoLrsState]:
        """Tries the LR with the highest acquisition."""
        lcb = self.options.acquisition == "lcb"
        acquisition = LowerConfidenceBound(self.options.kappa) if lcb else LogExpectedImprovement()
        bounds, seed = self._bounds(state, progress).log, self.config.seed + state.stage
        found = yield from ask(state.candidates, bounds, acquisition, seed=seed)
        reason = f"candidate {len(state.candidates) + 1} of {self.options.candidates}"
        validations = 1 if self.options.decayed_probes else self.options.validations
        validated = state.objective is Objective.VALIDATION
        directive = self._plan(state).directive(
            found.lr,
            stage=state.stage,
            validate_at=evenly(state.tau_prime, validations) if validated else (),
            give_up_above=self._give_up_above(state, found.lr),
            reason=reason,
        )
        decision = Decision(
            stage=state.stage,
            lr=found.lr,
            reason=reason,
            candidates=state.candidates,
            posterior=found.posterior,
            setback=state.setback,
            asked=found.asked,
        )
        return Step(state.model_copy(update={"setback": None}), directive, decision)

    def _after_probe(
        self, state: AutoLrsState, directive: Directive, report: Report, progress: Progress
    ) -> Asking[AutoLrsState]:
        """Judges a probe: by its end if it decayed, else by where its losses lead at its LR."""
        assert directive.profile is not None
        if state.stage == 0 or state.sound is None:
            # A forecast is no loss that a probe has come to, so none is the best of them.
            state = state.taught(directive.profile.start_lr, report, None)
        if report.outcome is Outcome.COMPLETED:
            tails = {**state.tails, directive.number: promise.tail(report.losses)}
            state = state.model_copy(update={"tails": tails})
        if report.outcome is Outcome.DIVERGED:
            candidate = probe.diverged(directive, report, state.start_loss)
        elif self.options.decayed_probes:
            candidate = probe.measured(directive, report, self._plan(state).held_out)
        else:
            validated, forecaster = state.objective is Objective.VALIDATION, FORECASTERS[self.options.forecaster]
            risen = _rose(report, progress)
            fitted = fit_probe(forecaster(state.objective), report, state.tau, validated=validated, risen=risen)
            candidate = probe.extrapolated(directive, fitted.forecast)
            if best_candidate((*state.candidates, candidate)) is candidate:
                state = state.model_copy(update={"extrapolation": fitted.extrapolation()})
        state = state.model_copy(update={"candidates": (*state.candidates, candidate)})
        if len(state.candidates) < self.options.candidates:
            return (yield from self._probe(state, progress))
        return self._commit(state, progress)

    def _commit(self, state: AutoLrsState, progress: Progress) -> Step[AutoLrsState]:
        """Trains with the LR of the lowest forecast; with one below all that were tried when every probe diverged."""
        remaining = progress.remaining_steps
        n_steps = state.tau if remaining is None or not state.last_stage else remaining
        winner, correction = best_candidate(state.candidates), None
        if winner is not None:
            lr = winner.lr
            if state.last_stage and self.options.length_exponent > 0:
                moving = self._plan(state).moving_steps
                correction = length_correction(moving, n_steps, self.options.length_exponent)
                lr *= correction
            reason = f"the lowest forecast of {len(state.candidates)} candidates: {winner.forecast:.4g}"
            if correction is not None and correction < 1.0:
                reason += f"; its LR times {correction:.2f} for a decay over {n_steps}"
        else:
            lowest, below = self._bounds(state, progress).min, _below(state.candidates)
            lr = min(lowest, below)
            where = "the lowest LR of the range" if lr == lowest else "well below the lowest LR that was tried"
            reason = f"every probe diverged: {where}"
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
        reason = "too few steps are left for a search"
        decision = Decision(stage=state.stage, lr=lr, reason=reason, setback=state.setback)
        directive = self._train(state, lr, n_steps, reason, last=True)
        return Step(state.model_copy(update={"setback": None}), directive, decision)

    def _train(self, state: AutoLrsState, lr: float, n_steps: int, reason: str, *, last: bool) -> Directive:
        """Committed steps at one LR; the last ones may decay."""
        decays = last and (self.options.final_decay or state.search_ended)
        return committed.directive(
            Profile.to_zero(Shape.LINEAR if decays else Shape.CONSTANT, lr, n_steps),
            stage=state.stage,
            batches=self.options.batches,
            n_validations=1 if self.config.has_validation else 0,
            give_up_above=self._give_up_above(state, lr),
            promise=self._promise(state, report_every(n_steps)),
            reason=reason + restart.doubt(state.restarts),
        )

    def _promise(self, state: AutoLrsState, report_steps: int) -> tuple[Bar, ...]:
        """A stage keeps half of what the run had gained before it; the first one, half of what its own probe gained.

        Its own probe is not always the one that gained most: a forecast may prefer a slower one.
        """
        footing, reached = state.footing, state.start_loss
        winner = best_candidate(state.candidates)
        if winner is not None and (state.stage == 0 or reached is None):
            reached = state.tails.get(winner.directive_number)
        trusted = state.restarts < restart.TRUSTED_RESTARTS and not state.search_ended
        if footing is None or reached is None or not trusted:
            return ()
        from_step = max(state.tau_prime, report_steps)
        return promise.half_kept(footing.start_loss, reached, footing.sd, from_step, report_steps)

    def _give_up_above(self, state: AutoLrsState, lr: float) -> float | None:
        return state.give_up_above(self.options.divergence_factor, lr, state.start_loss)


def _below(candidates: tuple[Candidate, ...]) -> float:
    """An LR well below all that were tried."""
    return min(candidate.lr for candidate in candidates) / restart.RETREAT


def _rose(report: Report, progress: Progress) -> bool:
    """Whether the losses of a probe rose above those of the steps before it; of a fresh model one loss is known."""
    if progress.last_loss is not None:
        return rose(report.losses, progress.last_loss, min(progress.committed_steps, LOSS_WINDOW))
    return progress.first_loss is not None and rose(report.losses, progress.first_loss, 1)
