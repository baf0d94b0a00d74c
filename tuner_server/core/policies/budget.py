"""One short search, then one decay over what is left of the budget.

Each probe is a whole run in small: a short warm-up, then the LR decays linearly to zero, on the same minibatches for
all candidates, and it is judged by the loss after that. What is compared is progress, not the noise level of an LR. The
best peak LR of the small run, corrected for length, is that of the rest of the budget. This avoids the short-horizon
bias of probes at a constant LR (Wu et al. 2018, "Understanding short-horizon bias in stochastic meta-optimization").

Notation: T, the total steps; n, the steps of a probe that move the weights; x, the natural log of a peak LR; d, the
spacing of the first candidates in x; gamma, the exponent with which the best peak LR falls with length.

The search in x: from the middle of the range, steps of d in the direction that improves until the best candidate has
a worse one on either side; then `refinements` candidates between these by a Gaussian process and log expected
improvement. It may leave the range by a factor of `widening`. The LR that is committed has the lowest expected loss,
times (n / remaining)^gamma.

Where earlier jobs of the family left a prior, the search begins with a head start (`core.search.head_start`).
"""

from __future__ import annotations

import math

import pydantic
from lrpilot.wire.profile import Profile, Shape

from tuner_server.core.errors import InvalidInputError
from tuner_server.core.messages import (
    BatchSource,
    Candidate,
    Decision,
    Directive,
    Outcome,
    Phase,
    Report,
    Setback,
)
from tuner_server.core.policies.base import Asking, Options, Policy, PolicyState, Progress, Step
from tuner_server.core.search.acquisition import LogExpectedImprovement, LowerConfidenceBound
from tuner_server.core.search.bracket import bracket, limits, outward, spacing
from tuner_server.core.search.head_start import FINE_BRACKET, FIRST_CANDIDATES, HeadStart
from tuner_server.core.search.observations import asked, expected, observations, posterior_curve
from tuner_server.core.search.prior import LENGTH_EXPONENT, Optimum
from tuner_server.core.search.suggest import Query
from tuner_server.core.search.users_lr import toward_users
from tuner_server.core.stages import divergence, promise
from tuner_server.core.stages.decayed_probe import HELD_OUT, end_loss, length_correction
from tuner_server.core.stages.report_points import evenly, report_every

PROBE_SHARE = 0.001
"""n is this part of T, within the limits below."""
MIN_PROBE, MAX_PROBE = 20, 65
"""n lies between these: statistics of batch normalisation say little after fewer steps, and more rank no better."""
LARGEST_PROBE_SHARE = 0.02
"""n is at most this part of T, so that six probes leave a short run most of its steps."""
FEWEST_STEPS = 500
"""A shorter run has no search: it would cost more than it gains."""
LARGEST_SEARCH_SHARE = 0.2
"""A search that threatens to take more of the budget ends."""
TOLD_APART = 0.02
"""LRs closer than this part of them are one to whoever reads a reason."""
PROMISES = 2
"""So many times committed steps are held to what the probes promised: at an LR lowered twice a sound run is as slow."""
CHECKPOINTS = 10
"""Validations over the committed steps: for those who watch, and to see whether they fall short."""
RETREAT = math.sqrt(10.0)
"""What the LR is divided by after committed steps that diverged or fell short."""


class BudgetOptions(Options):
    """The constants of the method. The defaults are measured ones, see docs/quality.md."""

    probe_steps: int | None = pydantic.Field(default=None, ge=4)
    """n; None: 0.1% of the total steps, but 20 to 65, and at most 2%."""
    refinements: int = pydantic.Field(default=3, ge=0, le=50)
    """Candidates after the best one is bracketed."""
    max_candidates: int = pydantic.Field(default=8, ge=1, le=100)
    length_exponent: float = pydantic.Field(default=LENGTH_EXPONENT, ge=0, le=1)
    """gamma. 0.32 was reported over token horizons (Bjorck et al. 2024); ours was measured (docs/quality.md)."""
    warmup: float = pydantic.Field(default=0.05, ge=0, lt=1)
    """Part of a probe, and of the committed steps, in which the LR rises linearly."""
    decayed_probes: bool = True
    """Whether a probe's LR decays to zero; if not, it is constant."""
    batches: BatchSource = BatchSource.REPLAYED
    """Whether the probes share their minibatches or go on in the data."""
    decay: Shape = Shape.LINEAR
    """Of the committed LR: linear, cosine or constant."""
    widening: float = pydantic.Field(default=10.0, ge=1)
    """How far the search may leave the range, as a factor."""
    divergence_factor: float = pydantic.Field(default=divergence.DIVERGENCE_FACTOR, gt=0)
    """Losses so many times as far above what is typical as sound probes came below it have diverged."""

    @pydantic.field_validator("decay")
    @classmethod
    def _reaches_zero(cls, decay: Shape) -> Shape:
        if decay is Shape.EXPONENTIAL:
            raise ValueError("an exponential never reaches zero; give linear, cosine or constant")
        return decay


class BudgetState(PolicyState):
    """Between two directives."""

    candidates: tuple[Candidate, ...] = ()
    bracketed_after: int | None = None
    """How many candidates it took until the best had a worse one on either side."""
    head_start: HeadStart | None = None
    """None: there was no prior that this search could use."""
    optimum: Optimum | None = None
    """What the search found; None before its end, and where it was cut too short to tell."""
    sound: divergence.SoundLosses | None = None
    """None before the first sound probe."""
    footing: promise.Footing | None = None
    """None before the first probe that had losses."""
    restarts: int = 0
    """How often committed steps diverged or fell short."""

    @property
    def misled(self) -> bool:
        """Whether there was a prior, and it was no good."""
        return self.head_start is not None and self.head_start.misled(self.candidates)

    @property
    def bracketing(self) -> tuple[Candidate, ...]:
        """The candidates between which the search looks."""
        return self.candidates if self.head_start is None else tuple(self.head_start.bracketing(self.candidates))


class Budget(Policy[BudgetOptions, BudgetState]):
    """The default for jobs whose end is known."""

    name = "budget"
    options_type = BudgetOptions
    state_type = BudgetState

    def check(self) -> None:
        """Refuses a job without an end. Raises: InvalidInputError."""
        if self.config.total_steps is None:
            raise InvalidInputError.of("total_steps", "policy budget needs it; without an end there is autolrs")

    @property
    def probe_steps(self) -> int:
        """Steps of a probe that move the weights (n)."""
        assert self.config.total_steps is not None
        total = self.config.total_steps
        n = min(max(round(total * PROBE_SHARE), MIN_PROBE), MAX_PROBE, round(total * LARGEST_PROBE_SHARE))
        return self.options.probe_steps or max(n, 1)

    @property
    def _held_out(self) -> int:
        return 0 if self.config.has_validation else min(HELD_OUT, self.probe_steps // 2)

    @property
    def searches(self) -> bool:
        """Whether the run is long enough for a search to pay."""
        assert self.config.total_steps is not None
        return self._worth_a_search(self.config.total_steps)

    def _worth_a_search(self, n_steps: int) -> bool:
        return n_steps >= FEWEST_STEPS and self._usual_search <= LARGEST_SEARCH_SHARE * n_steps

    @property
    def _usual_search(self) -> int:
        """Steps of a search whose range is well chosen."""
        candidates = min(FIRST_CANDIDATES + self.options.refinements, self.options.max_candidates)
        return candidates * (self.probe_steps + self._held_out)

    def _affords_probes(self, count: int, progress: Progress) -> bool:
        """Whether the search's share of the budget holds so many more probes."""
        assert self.config.total_steps is not None
        search = progress.search_steps + count * (self.probe_steps + self._held_out)
        return search <= LARGEST_SEARCH_SHARE * self.config.total_steps

    def start(self, progress: Progress) -> Asking[BudgetState]:
        """The first candidate, or, in a run too short to search, the schedule at once."""
        remaining = progress.remaining_steps
        assert remaining is not None
        if not self.searches:
            reason = (
                f"no search in a run of {remaining} steps, which are too few for one: the LR that was set, decaying"
            )
            return Step(BudgetState(), self._train(self.config.base_lr, remaining, BudgetState(), reason))
        return (yield from self._next(BudgetState(), progress))

    def advance(
        self, state: BudgetState, directive: Directive, report: Report, progress: Progress
    ) -> Asking[BudgetState]:
        """The next candidate, or the decay; if that diverges or falls short, the decay from a lower LR."""
        assert directive.profile is not None
        peak = directive.profile.start_lr
        if directive.phase is not Phase.PROBE:
            setback = Setback(lr=peak)
            if report.outcome is Outcome.FELL_SHORT and state.footing is not None:
                begin = progress.reported_steps
                setback = promise.fell_short(state.footing, peak, directive.promise, begin, report)
            return self._restart(state, setback, progress)
        candidate = self._judge(directive.number, peak, report, progress)
        state = state.model_copy(
            update={
                "sound": divergence.learn(state.sound, peak, report),
                "footing": promise.learn(state.footing, peak, report, candidate.forecast),
                "candidates": (*state.candidates, candidate),
            }
        )
        return (yield from self._next(state, progress))

    def _restart(self, state: BudgetState, setback: Setback, progress: Progress) -> Step[BudgetState]:
        """The decay from a lower LR than the one that failed. Raises: DivergenceError: it never helps."""
        remaining = progress.remaining_steps
        assert remaining is not None
        restarts = state.restarts + 1
        divergence.check_restarts(restarts)
        optimum = state.optimum and state.optimum.model_copy(update={"good_end": False})
        state = state.model_copy(update={"restarts": restarts, "optimum": optimum})
        lr = setback.lr / RETREAT
        what = "diverged at" if setback.loss is None else "fell short of its own probe at"
        reason = f"{what} {setback.lr:.3g}: a lower LR over what is left{divergence.doubt(restarts)}"
        decision = Decision(stage=0, lr=lr, reason=reason, setback=setback, lowered_by=RETREAT)
        return Step(state, self._train(lr, remaining, state, reason), decision)

    def rejoin(self, state: BudgetState, progress: Progress) -> Asking[BudgetState]:
        """Commits the best candidate so far; without one, searches if enough is left, or decays from the LR set."""
        remaining = progress.remaining_steps
        assert remaining is not None
        if any(not candidate.diverged for candidate in state.candidates):
            return (yield from self._commit(state, progress))
        if self._worth_a_search(remaining) and self._affords_probes(1, progress):
            return (yield from self._next(BudgetState(), progress))
        reason = f"joined again with {remaining} steps left, too few to search: the LR that was set, decaying"
        return Step(state, self._train(self.config.base_lr, remaining, state, reason))

    def without_search(self, state: BudgetState, progress: Progress, reason: str) -> Step[BudgetState]:
        """The decay from the LR that was set; from a lower one after committed steps that were rolled back."""
        remaining = progress.remaining_steps
        assert remaining is not None
        lr, lowered_by = self.config.base_lr, _lowered_by(state)
        reason += "; the LR that was set, decaying"
        if lowered_by is not None:
            lr /= lowered_by
            reason += f", divided by {lowered_by:.3g} since committed steps were rolled back"
        decision = Decision(stage=0, lr=lr, reason=reason, lowered_by=lowered_by)
        return Step(state, self._train(lr, remaining, state, reason), decision)

    @classmethod
    def optimum(cls, state: BudgetState) -> Optimum | None:
        """The best LR of a probe, as the search expects it at its end."""
        return state.optimum

    def _judge(self, number: int, peak: float, report: Report, progress: Progress) -> Candidate:
        """A probe's loss after its decay: the validation, or the mean over batches that were held out."""
        if report.outcome is Outcome.DIVERGED:
            reached = divergence.level_reached(report, progress.first_loss)
            return Candidate(directive_number=number, lr=peak, at_least=reached)
        # No standard error: all candidates see the same batches, so what is left is for the surrogate to find out.
        return Candidate(directive_number=number, lr=peak, forecast=end_loss(report, self._held_out), forecast_sd=0.0)

    def _head_start(self, progress: Progress) -> HeadStart | None:
        """Where the prior has the search begin; None without one, or where it could not be checked."""
        if progress.prior is None or not self._affords_probes(2, progress):
            return None
        return HeadStart.of(
            progress.prior,
            expected=progress.prior.at(self.probe_steps, self.options.length_exponent),
            middle=math.log(progress.bounds.middle),
            limits=limits(progress.bounds, self.options.widening),
            d=spacing(progress.bounds),
        )

    def _most_candidates(self, state: BudgetState) -> int:
        most, head_start = self.options.max_candidates, state.head_start
        if head_start is None:
            return most
        return head_start.most_candidates(state.candidates, self.options.refinements, most)

    def _fine(self, state: BudgetState, progress: Progress) -> bool:
        """Whether a head start has led to a bracket that needs no refinement."""
        if state.head_start is None or state.misled:
            return False
        low, high = bracket(state.bracketing, progress.bounds, self.options.widening)
        return high - low <= FINE_BRACKET

    def _next(self, state: BudgetState, progress: Progress) -> Asking[BudgetState]:
        if not state.candidates:
            state = state.model_copy(update={"head_start": self._head_start(progress)})
        done, head_start = len(state.candidates), state.head_start
        spent = done >= self._most_candidates(state) or not self._affords_probes(1, progress)
        if head_start is not None and not state.misled and not spent:
            ahead = head_start.next(state.candidates, limits(progress.bounds, self.options.widening))
            if ahead is not None:
                reason = "what earlier jobs of the family found" if not done else "beside it, to check it"
                return self._probe(state, Decision(stage=0, lr=math.exp(ahead), reason=reason), progress)
        further = outward(state.bracketing, progress.bounds, self.options.widening)
        if further is None and state.bracketed_after is None:
            state = state.model_copy(update={"bracketed_after": done})
        fine = further is None and self._fine(state, progress)
        lost = done > 0 and further is None and all(candidate.diverged for candidate in state.candidates)
        if lost or fine or spent:
            return (yield from self._commit(state, progress))
        if state.bracketed_after is None and further is not None:
            beyond = "" if progress.bounds.min <= math.exp(further) <= progress.bounds.max else ", beyond the range"
            return self._probe(
                state, Decision(stage=0, lr=math.exp(further), reason=f"a step outward{beyond}"), progress
            )
        if state.bracketed_after is not None and done >= state.bracketed_after + self.options.refinements:
            return (yield from self._commit(state, progress))
        query = Query(
            observations(state.candidates),
            bracket(state.bracketing, progress.bounds, self.options.widening),
            LogExpectedImprovement(),
            seed=self.config.seed,
        )
        found = yield query
        decision = Decision(
            stage=0,
            lr=math.exp(found.log_lr),
            reason="the highest expected improvement between the best and its neighbours",
            posterior=posterior_curve(found.evidence),
            asked=asked(query),
        )
        return self._probe(state, decision, progress)

    def _probe(self, state: BudgetState, decision: Decision, progress: Progress) -> Step[BudgetState]:
        n = self.probe_steps
        shape = Shape.LINEAR if self.options.decayed_probes else Shape.CONSTANT
        end = 0.0 if self.options.decayed_probes else decision.lr
        directive = Directive(
            phase=Phase.PROBE,
            stage=0,
            n_steps=n + self._held_out,
            profile=Profile(shape, decision.lr, end, n, warmup=min(round(n * self.options.warmup), n - 1)),
            batches=self.options.batches,
            validate_at=self._validations(state),
            give_up_above=self._limit(state, decision.lr),
            reason=f"candidate {len(state.candidates) + 1}: {decision.reason}",
        )
        return Step(state, directive, decision.model_copy(update={"candidates": state.candidates}))

    def _commit(self, state: BudgetState, progress: Progress) -> Asking[BudgetState]:
        """The LR with the lowest expected loss, corrected for the length of the rest."""
        remaining = progress.remaining_steps
        assert remaining is not None
        if all(candidate.diverged for candidate in state.candidates):
            lr = min(candidate.lr for candidate in state.candidates) / RETREAT
            reason = "every probe diverged: well below the lowest LR that was tried"
            decision = Decision(stage=0, lr=lr, reason=reason, candidates=state.candidates)
            return Step(state, self._train(lr, remaining, state, reason), decision)
        query = Query(
            observations(state.candidates),
            bracket(state.bracketing, progress.bounds, self.options.widening),
            LowerConfidenceBound(kappa=0.0),
            seed=self.config.seed,
            min_separation=0.0,
        )
        best = yield query
        if len(state.candidates) >= FIRST_CANDIDATES:
            optimum = Optimum(log_lr=best.log_lr, probe_steps=self.probe_steps)
            state = state.model_copy(update={"optimum": optimum})
        found, reason = math.exp(best.log_lr), f"best over {self.probe_steps} steps: {math.exp(best.log_lr):.3g}"
        correction = length_correction(self.probe_steps, remaining, self.options.length_exponent)
        lr = toward_users(found * correction, self.config.base_lr)
        reason += f", times {correction:.2f} for a decay over {remaining}"
        drawn_to = self.config.base_lr if abs(lr / (found * correction) - 1) > TOLD_APART else None
        if drawn_to is not None:
            reason += f", drawn towards the {drawn_to:.3g} that was set"
        lowered_by = _lowered_by(state)
        if lowered_by is not None:  # joined again after setbacks: not back to an LR that has failed
            lr /= lowered_by
            reason += f", divided by {lowered_by:.3g} since committed steps were rolled back"
        forecast, forecast_sd = expected(best)
        decision = Decision(
            stage=0,
            lr=lr,
            reason=reason,
            candidates=state.candidates,
            posterior=posterior_curve(best.evidence),
            forecast=forecast,
            forecast_sd=forecast_sd,
            optimum=found,
            correction=correction,
            drawn_to=drawn_to,
            lowered_by=lowered_by,
            asked=asked(query),
        )
        return Step(state, self._train(lr, remaining, state, reason), decision)

    def _train(self, lr: float, n_steps: int, state: BudgetState, reason: str) -> Directive:
        end = lr if self.options.decay is Shape.CONSTANT else 0.0
        warmup, every = int(n_steps * self.options.warmup), report_every(n_steps)
        held = None if state.search_ended or state.restarts >= PROMISES else state.footing
        return Directive(
            phase=Phase.TRAIN,
            stage=0,
            n_steps=n_steps,
            profile=Profile(self.options.decay, lr, end, n_steps, warmup=warmup),
            batches=self.options.batches,
            validate_at=evenly(n_steps, CHECKPOINTS) if self.config.has_validation else (),
            give_up_above=self._limit(state, lr),
            report_every=every,
            promise=promise.bars(held, n_steps, warmup, every),
            reason=reason,
        )

    def _validations(self, state: BudgetState) -> tuple[int, ...]:
        """When a probe is validated: at its end, and the first one before it begins, too."""
        if not self.config.has_validation:
            return ()
        return (self.probe_steps,) if state.candidates else (0, self.probe_steps)

    def _limit(self, state: BudgetState, lr: float) -> float | None:
        if state.sound is None or state.restarts >= divergence.TRUSTED_RESTARTS:
            return None
        # Probes that learn within their first steps have a typical loss far below where the run begins.
        start = None if state.footing is None else state.footing.start_loss
        return state.sound.level(self.options.divergence_factor, lr, start)


def _lowered_by(state: BudgetState) -> float | None:
    """What an LR is divided by after setbacks; None: there were none."""
    return RETREAT**state.restarts if state.restarts else None
