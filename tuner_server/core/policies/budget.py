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

Where earlier jobs of the family left a prior, the search begins with a head start (`core.head_start`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import pydantic
from lrpilot.profile import Profile, Shape

from tuner_server.core import range_test
from tuner_server.core.acquisition import LogExpectedImprovement, LowerConfidenceBound
from tuner_server.core.config import LrBounds
from tuner_server.core.decayed import HELD_OUT, end_loss, length_correction
from tuner_server.core.divergence import TRUSTED_RESTARTS, SoundLosses, check_restarts, doubt, learn, level_reached
from tuner_server.core.errors import InvalidInputError
from tuner_server.core.evidence import observations, posterior_curve
from tuner_server.core.head_start import FINE_BRACKET, FIRST_CANDIDATES, HeadStart
from tuner_server.core.messages import (
    BatchSource,
    Candidate,
    Decision,
    Directive,
    Outcome,
    Phase,
    Report,
)
from tuner_server.core.parts import evenly, report_every
from tuner_server.core.policies.base import Asking, Options, Policy, PolicyState, Progress, Step
from tuner_server.core.prior import LENGTH_EXPONENT, Optimum
from tuner_server.core.suggest import Query

PROBE_SHARE = 0.0075
"""n as a part of T ..."""
MIN_PROBE, MAX_PROBE = 25, 65
"""... between these: shorter probes rank badly, longer ones hardly rank better (docs/quality.md)."""
MAX_SPACING = math.log(10.0)
"""d at most: a bowl of the loss is about a decade wide, so wider steps may jump over it."""
MIN_SPACING = math.log(2.0)
"""d at least: closer LRs differ by less than the noise, and a narrow range could not be left in so few steps."""
RANGE_SPACINGS = 3
"""d is this part of the range, between those limits."""
LEAST_STEP = 0.01
"""A step outward that the limits leave less than this part of d says nothing new."""
GROWTH = 2.0
"""Of steps outward, from a finer spacing than d."""
LARGEST_SEARCH_SHARE = 0.2
"""A search that would take more of the budget does not pay: there is none, and one that threatens to ends."""
CHECKPOINTS = 10
"""Validations over the committed steps, for those who watch; they decide nothing."""
RETREAT = math.sqrt(10.0)
"""What the LR is divided by after a divergence in committed steps."""


class BudgetOptions(Options):
    """The constants of the method. The defaults are measured ones, see docs/quality.md."""

    probe_steps: int | None = pydantic.Field(default=None, ge=4)
    """n; None: 0.75% of the total steps, but 25 to 65."""
    refinements: int = pydantic.Field(default=3, ge=0, le=50)
    """Candidates after the best one is bracketed."""
    max_candidates: int = pydantic.Field(default=8, ge=1, le=100)
    length_exponent: float = pydantic.Field(default=LENGTH_EXPONENT, ge=0, le=1)
    """gamma. 0.32 was reported over token horizons (Bjorck et al. 2024). On our workloads 0.1 to 0.15 is right on
    average; 0.2 guards against a probe's luck, since too high an LR hurts more than too low a one (docs/quality.md)."""
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
    divergence_factor: float = pydantic.Field(default=3.0, gt=1)
    """Losses so many times what is typical of a sound probe have diverged (`core.divergence`)."""

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
    sound: SoundLosses | None = None
    """None before the first sound probe."""
    restarts: int = 0
    """How often committed steps diverged."""

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
        share = round(self.config.total_steps * PROBE_SHARE)
        return self.options.probe_steps or min(max(share, MIN_PROBE), MAX_PROBE)

    @property
    def _held_out(self) -> int:
        return 0 if self.config.has_validation else HELD_OUT

    @property
    def searches(self) -> bool:
        """Whether the run is long enough for a search to pay."""
        assert self.config.total_steps is not None
        search = self._usual_search
        if self.config.lr_bounds is None:
            search += range_test.directive(self.config).n_steps
        return search <= LARGEST_SEARCH_SHARE * self.config.total_steps

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
            reason = f"{remaining} steps are too few to search: the LR that was set, decaying"
            return Step(BudgetState(), self._train(self.config.base_lr, remaining, None, reason))
        return (yield from self._next(BudgetState(), progress))

    def advance(
        self, state: BudgetState, directive: Directive, report: Report, progress: Progress
    ) -> Asking[BudgetState]:
        """The next candidate, or the decay; after a divergence in it, the decay from a lower LR."""
        assert directive.profile is not None
        peak = directive.profile.start_lr
        if directive.phase is not Phase.PROBE:
            return self._restart(state, peak, progress)
        state = state.model_copy(update={"sound": learn(state.sound, report)})
        candidate = self._judge(directive.number, peak, report, progress)
        state = state.model_copy(update={"candidates": (*state.candidates, candidate)})
        return (yield from self._next(state, progress))

    def _restart(self, state: BudgetState, peak: float, progress: Progress) -> Step[BudgetState]:
        """The decay from a lower LR than the one that diverged. Raises: DivergenceError: it never helps."""
        remaining = progress.remaining_steps
        assert remaining is not None
        restarts = state.restarts + 1
        check_restarts(restarts)
        optimum = state.optimum and state.optimum.model_copy(update={"good_end": False})
        state = state.model_copy(update={"restarts": restarts, "optimum": optimum})
        reason = f"diverged at {peak:.3g}: a lower LR over what is left{doubt(restarts)}"
        return Step(state, self._train(peak / RETREAT, remaining, self._limit(state), reason))

    def rejoin(self, state: BudgetState, progress: Progress) -> Asking[BudgetState]:
        """Commits the best candidate so far; without one, searches if enough is left, or decays from the LR set."""
        remaining = progress.remaining_steps
        assert remaining is not None
        if any(not candidate.diverged for candidate in state.candidates):
            return (yield from self._commit(state, progress))
        if self._usual_search <= LARGEST_SEARCH_SHARE * remaining and self._affords_probes(1, progress):
            return (yield from self._next(BudgetState(), progress))
        reason = f"joined again with {remaining} steps left, too few to search: the LR that was set, decaying"
        return Step(state, self._train(self.config.base_lr, remaining, self._limit(state), reason))

    def _judge(self, number: int, peak: float, report: Report, progress: Progress) -> Candidate:
        """A probe's loss after its decay: the validation, or the mean over batches that were held out."""
        if report.outcome is Outcome.DIVERGED:
            reached = level_reached(report, progress.first_loss)
            return Candidate(directive_number=number, lr=peak, at_least=reached)
        # No standard error: all candidates see the same batches, so what is left is for the surrogate to find out.
        return Candidate(directive_number=number, lr=peak, forecast=end_loss(report), forecast_sd=0.0)

    def _head_start(self, progress: Progress) -> HeadStart | None:
        """Where the prior has the search begin; None without one, or where it could not be checked."""
        if progress.prior is None or not self._affords_probes(2, progress):
            return None
        return HeadStart.of(
            progress.prior,
            expected=progress.prior.at(self.probe_steps, self.options.length_exponent),
            middle=math.log(progress.bounds.middle),
            limits=_limits(progress.bounds, self.options.widening),
            d=_spacing(progress.bounds),
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
        low, high = _bracket(state.bracketing, progress.bounds, self.options.widening)
        return high - low <= FINE_BRACKET

    def _next(self, state: BudgetState, progress: Progress) -> Asking[BudgetState]:
        if not state.candidates:
            state = state.model_copy(update={"head_start": self._head_start(progress)})
        done, head_start = len(state.candidates), state.head_start
        spent = done >= self._most_candidates(state) or not self._affords_probes(1, progress)
        if head_start is not None and not state.misled and not spent:
            ahead = head_start.next(state.candidates, _limits(progress.bounds, self.options.widening))
            if ahead is not None:
                reason = "what earlier jobs of the family found" if not done else "beside it, to check it"
                return self._probe(state, Decision(stage=0, lr=math.exp(ahead), reason=reason), progress)
        outward = _outward(state.bracketing, progress.bounds, self.options.widening)
        if outward is None and state.bracketed_after is None:
            state = state.model_copy(update={"bracketed_after": done})
        fine = outward is None and self._fine(state, progress)
        lost = done > 0 and outward is None and all(candidate.diverged for candidate in state.candidates)
        if lost or fine or spent:
            return (yield from self._commit(state, progress))
        if state.bracketed_after is None and outward is not None:
            beyond = "" if progress.bounds.min <= math.exp(outward) <= progress.bounds.max else ", beyond the range"
            return self._probe(
                state, Decision(stage=0, lr=math.exp(outward), reason=f"a step outward{beyond}"), progress
            )
        if state.bracketed_after is not None and done >= state.bracketed_after + self.options.refinements:
            return (yield from self._commit(state, progress))
        found = yield Query(
            observations(state.candidates),
            _bracket(state.bracketing, progress.bounds, self.options.widening),
            LogExpectedImprovement(),
            seed=self.config.seed,
        )
        decision = Decision(
            stage=0,
            lr=math.exp(found.log_lr),
            reason="the highest expected improvement between the best and its neighbours",
            posterior=posterior_curve(found.evidence),
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
            validate_at=(n,) if self.config.has_validation else (),
            give_up_above=self._limit(state),
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
            return Step(state, self._train(lr, remaining, self._limit(state), reason), decision)
        best = yield Query(
            observations(state.candidates),
            _bracket(state.bracketing, progress.bounds, self.options.widening),
            LowerConfidenceBound(kappa=0.0),
            seed=self.config.seed,
            min_separation=0.0,
        )
        if len(state.candidates) >= FIRST_CANDIDATES:
            optimum = Optimum(log_lr=best.log_lr, probe_steps=self.probe_steps)
            state = state.model_copy(update={"optimum": optimum})
        correction = length_correction(self.probe_steps, remaining, self.options.length_exponent)
        lr = math.exp(best.log_lr) * correction
        reason = (
            f"best over {self.probe_steps} steps: {math.exp(best.log_lr):.3g}, "
            f"times {correction:.2f} for a decay over {remaining}"
        )
        decision = Decision(
            stage=0,
            lr=lr,
            reason=reason,
            candidates=state.candidates,
            posterior=posterior_curve(best.evidence),
        )
        return Step(state, self._train(lr, remaining, self._limit(state), reason), decision)

    def _train(self, lr: float, n_steps: int, limit: float | None, reason: str) -> Directive:
        end = lr if self.options.decay is Shape.CONSTANT else 0.0
        return Directive(
            phase=Phase.TRAIN,
            stage=0,
            n_steps=n_steps,
            profile=Profile(self.options.decay, lr, end, n_steps, warmup=int(n_steps * self.options.warmup)),
            batches=self.options.batches,
            validate_at=evenly(n_steps, CHECKPOINTS) if self.config.has_validation else (),
            give_up_above=limit,
            report_every=report_every(n_steps),
            reason=reason,
        )

    def _limit(self, state: BudgetState) -> float | None:
        if state.sound is None or state.restarts >= TRUSTED_RESTARTS:
            return None
        return state.sound.level(self.options.divergence_factor)


def _spacing(bounds: LrBounds) -> float:
    low, high = bounds.log
    return min(max((high - low) / RANGE_SPACINGS, MIN_SPACING), MAX_SPACING)


def _limits(bounds: LrBounds, widening: float) -> tuple[float, float]:
    """The lowest and the highest x that may be tried."""
    low, high = bounds.log
    return low - math.log(widening), high + math.log(widening)


def _neighbours(candidates: Sequence[Candidate]) -> tuple[float, float | None, float | None]:
    """The x of the best candidate, and of the next lower and the next higher one that was tried."""
    xs = sorted(math.log(candidate.lr) for candidate in candidates)
    at = xs.index(math.log(min(candidates, key=lambda candidate: candidate.loss).lr))
    return xs[at], xs[at - 1] if at else None, xs[at + 1] if at + 1 < len(xs) else None


def _outward(candidates: Sequence[Candidate], bounds: LrBounds, widening: float) -> float | None:
    """The next x on the way to a bracket; None: there is one, or the search may go no further."""
    if not candidates:
        return math.log(bounds.middle)
    d, (lowest, highest) = _spacing(bounds), _limits(bounds, widening)
    least = LEAST_STEP * d
    if all(candidate.diverged for candidate in candidates):
        tried = min(math.log(candidate.lr) for candidate in candidates)
        return max(tried - d, lowest) if tried - lowest > least else None
    best, below, above = _neighbours(candidates)
    if above is None and highest - best > least:
        return min(best + _step(d, best, below), highest)
    if below is None and best - lowest > least:
        return max(best - _step(d, best, above), lowest)
    return None


def _step(d: float, best: float, behind: float | None) -> float:
    """How far outward, given the neighbour behind: after the finer spacing of a head start, steps grow up to d."""
    return d if behind is None else min(d, GROWTH * abs(best - behind))


def _bracket(candidates: Sequence[Candidate], bounds: LrBounds, widening: float) -> tuple[float, float]:
    """Between the neighbours of the best candidate; where it has none, as far as a step outward may go."""
    best, below, above = _neighbours(candidates)
    d, (lowest, highest) = _spacing(bounds), _limits(bounds, widening)
    return max(best - d, lowest) if below is None else below, min(best + d, highest) if above is None else above
