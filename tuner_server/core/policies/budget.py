"""One short search, then one decay over what is left of the budget.

Each probe is a whole run in small: a short warm-up, then the LR decays linearly to zero, on the same minibatches for
all candidates, and it is judged by the loss after that. What is compared is progress, not the noise level of an LR. The
best peak LR of the small run, corrected for length, is that of the rest of the budget. This avoids the short-horizon
bias of probes at a constant LR (Wu et al. 2018, "Understanding short-horizon bias in stochastic meta-optimization").

Notation: n, the steps of a probe that move the weights; x, the natural log of a peak LR; d, the spacing of the first
candidates in x; gamma, the exponent with which the best peak LR falls with length.

The search in x: from the middle of the range, steps of d in the direction that improves until the best candidate has
a worse one on either side; then `refinements` candidates between these by a Gaussian process and log expected
improvement. It may leave the range by a factor of `widening`. The LR that is committed has the lowest expected loss,
times (n / remaining)^gamma.

Where earlier jobs of the family left a prior, the search begins with a head start (`core.search.head_start`).

A job with several members tries several candidates at the same time, round by round (`core.search.population`). They
are judged by held-out batches, since a validation is not the same on all members. There is no head start then.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from tuner_server.core.errors import InvalidInputError
from tuner_server.core.lrs import same_lr
from tuner_server.core.messages import Candidate, Decision, Directive, Outcome, Phase, Report
from tuner_server.core.policies.base import Asking, Policy, PolicyState, Progress, Step
from tuner_server.core.policies.budget_options import BudgetOptions
from tuner_server.core.search import population
from tuner_server.core.search.acquisition import LogExpectedImprovement, LowerConfidenceBound
from tuner_server.core.search.bracket import bracket, limits, outward, spacing
from tuner_server.core.search.head_start import FINE_BRACKET, FIRST_CANDIDATES, HeadStart
from tuner_server.core.search.observations import ask
from tuner_server.core.search.prior import Optimum
from tuner_server.core.search.users_lr import toward_users
from tuner_server.core.stages import final_decay, probe, restart
from tuner_server.core.stages.decayed_probe import HELD_OUT, length_correction
from tuner_server.core.stages.lessons import Lessons

FEWEST_STEPS = 500
"""A shorter run has no search: it would cost more than it gains."""
LARGEST_SEARCH_SHARE = 0.2
"""A search that threatens to take more of the budget ends."""


class BudgetState(Lessons, PolicyState):
    """Between two directives."""

    bracketed_after: int | None = None
    """How many candidates it took until the best had a worse one on either side."""
    head_start: HeadStart | None = None
    """None: there was no prior that this search could use."""
    optimum: Optimum | None = None
    """What the search found; None before its end, and where it was cut too short to tell."""
    refined: int = 0
    """How many candidates of a population's rounds were refinements."""
    ahead: tuple[Decision, ...] = ()
    """The decisions for the candidates that are tried at the same time as the present one, and reported after it."""

    @property
    def misled(self) -> bool:
        """Whether there was a prior, and it was no good."""
        return self.head_start is not None and self.head_start.misled(self.candidates)

    @property
    def bracketing(self) -> tuple[Candidate, ...]:
        """The candidates between which the search looks."""
        return self.candidates if self.head_start is None else tuple(self.head_start.bracketing(self.candidates))

    @property
    def lost(self) -> bool:
        """Whether all that was tried diverged."""
        return all(candidate.diverged for candidate in self.candidates)


class Budget(Policy[BudgetOptions, BudgetState]):
    """The default for jobs whose end is known."""

    name = "budget"
    takes_members = True
    options_type = BudgetOptions
    state_type = BudgetState

    def check(self) -> None:
        """Refuses a job without an end. Raises: InvalidInputError."""
        if self.config.total_steps is None:
            raise InvalidInputError.of("total_steps", "policy budget needs it; without an end there is autolrs")

    @property
    def _total(self) -> int:
        assert self.config.total_steps is not None
        return self.config.total_steps

    @property
    def _probes(self) -> probe.ProbePlan:
        """Each probe: n steps, then some held-out batches unless a validation judges it."""
        n = self.options.probe_length(self._total)
        return probe.ProbePlan(
            moving_steps=n,
            held_out=0 if self._validates_probes else min(HELD_OUT, n // 2),
            decays=self.options.decayed_probes,
            warmup=self.options.warmup,
            batches=self.options.batches,
        )

    @property
    def _validates_probes(self) -> bool:
        """Whether a validation judges the probes."""
        return self.config.has_validation and self.config.members == 1

    @property
    def searches(self) -> bool:
        """Whether the run is long enough for a search to pay."""
        return self._worth_a_search(self._total)

    def _worth_a_search(self, n_steps: int) -> bool:
        """Whether a search whose range is well chosen takes no more of so many steps than it may."""
        candidates = min(FIRST_CANDIDATES + self.options.refinements, self.options.max_candidates)
        probes = math.ceil(candidates / population.at_once(self.config.members))
        return n_steps >= FEWEST_STEPS and probes * self._probes.n_steps <= LARGEST_SEARCH_SHARE * n_steps

    def _affords_probes(self, count: int, progress: Progress) -> bool:
        """Whether the search's share of the budget holds so many more probes."""
        return progress.search_steps + count * self._probes.n_steps <= LARGEST_SEARCH_SHARE * self._total

    def start(self, progress: Progress) -> Asking[BudgetState]:
        """The first candidate, or, in a run too short to search, the schedule at once."""
        if self.searches:
            return (yield from self._next(BudgetState(), progress))
        reason = (
            f"no search in a run of {progress.remaining_steps} steps, which are too few for one: the LR that was set, "
            "decaying"
        )
        return self._at_set_lr(BudgetState(), reason, progress)

    def advance(
        self, state: BudgetState, directive: Directive, report: Report, progress: Progress
    ) -> Asking[BudgetState]:
        """The next candidate, or the decay; if that diverges or falls short, the decay from a lower LR."""
        if directive.phase is not Phase.PROBE:
            return self._restart(state, directive, report, progress)
        if report.outcome is Outcome.DIVERGED:
            candidate = probe.diverged(directive, report, progress.first_loss)
        else:
            candidate = probe.measured(directive, report, self._probes.held_out)
        state = state.taught(candidate.lr, report, candidate.forecast)
        state = state.model_copy(update={"candidates": (*state.candidates, candidate)})
        if directive.alongside:
            return self._next_alongside(state, directive)
        return (yield from self._next(state, progress))

    def rejoin(self, state: BudgetState, progress: Progress) -> Asking[BudgetState]:
        """Commits the best candidate so far; without one, searches if enough is left, or decays from the LR set."""
        if not state.lost:
            return (yield from self._commit(state, progress))
        remaining = _remaining(progress)
        if self._worth_a_search(remaining) and self._affords_probes(1, progress):
            return (yield from self._next(BudgetState(ceiling=state.ceiling), progress))
        reason = f"joined again with {remaining} steps left, too few to search: the LR that was set, decaying"
        return self._at_set_lr(state, reason, progress)

    def without_search(self, state: BudgetState, progress: Progress, reason: str) -> Step[BudgetState]:
        """The decay from the LR that was set; from a lower one after committed steps that were rolled back."""
        return self._at_set_lr(state, f"{reason}; the LR that was set, decaying", progress)

    @classmethod
    def optimum(cls, state: BudgetState) -> Optimum | None:
        """The best LR of a probe, as the search expects it at its end."""
        return state.optimum

    def _next(self, state: BudgetState, progress: Progress) -> Asking[BudgetState]:
        """The next candidate: of the head start, a step outward, or a refinement; the decay after the last one."""
        if self.config.members > 1:
            return (yield from self._next_round(state, progress))
        if not state.candidates:
            state = state.model_copy(update={"head_start": self._head_start(progress)})
        done, head_start = len(state.candidates), state.head_start
        spent = done >= self._most_candidates(state) or not self._affords_probes(1, progress)
        if head_start is not None and not state.misled and not spent:
            ahead = head_start.next(state.candidates, limits(progress.bounds, self.options.widening))
            if ahead is not None:
                reason = "what earlier jobs of the family found" if not done else "beside it, to check it"
                return self._probe(state, Decision(stage=0, lr=math.exp(ahead), reason=reason))
        further = outward(state.bracketing, progress.bounds, self.options.widening)
        if further is None and state.bracketed_after is None:
            state = state.model_copy(update={"bracketed_after": done})
        if spent or (further is None and (state.lost or self._fine(state, progress))):
            return (yield from self._commit(state, progress))
        if state.bracketed_after is None and further is not None:
            beyond = "" if progress.bounds.min <= math.exp(further) <= progress.bounds.max else ", beyond the range"
            return self._probe(state, Decision(stage=0, lr=math.exp(further), reason=f"a step outward{beyond}"))
        if state.bracketed_after is not None and done >= state.bracketed_after + self.options.refinements:
            return (yield from self._commit(state, progress))
        between = bracket(state.bracketing, progress.bounds, self.options.widening)
        found = yield from ask(state.candidates, between, LogExpectedImprovement(), seed=self.config.seed)
        reason = "the highest expected improvement between the best and its neighbours"
        decision = Decision(stage=0, lr=found.lr, reason=reason, posterior=found.posterior, asked=found.asked)
        return self._probe(state, decision)

    def _next_round(self, state: BudgetState, progress: Progress) -> Asking[BudgetState]:
        """The next candidates, one for each member; the decay after the last round."""
        bounds, options, members = progress.bounds, self.options, self.config.members
        rounds_left = len(state.candidates) < population.most_rounds(options.max_candidates, members) * (
            population.at_once(members)
        )
        refined = outward(state.candidates, bounds, options.widening) is None and state.refined >= options.refinements
        proposals: list[population.Proposal] = []
        if rounds_left and not refined and self._affords_probes(1, progress):
            proposals = yield from population.next_round(
                state.candidates, bounds, options.widening, members, self.config.seed
            )
        if not proposals:
            return (yield from self._commit(state, progress))
        return self._round(state, proposals)

    def _round(self, state: BudgetState, proposals: Sequence[population.Proposal]) -> Step[BudgetState]:
        """Tries several LRs at the same time."""
        at_once = f", {len(proposals)} at the same time" if len(proposals) > 1 else ""
        first, *others = [
            Decision(
                stage=0,
                lr=math.exp(proposal.log_lr),
                reason=proposal.reason + at_once,
                posterior=proposal.answer and proposal.answer.posterior,
                asked=proposal.answer and proposal.answer.asked,
            )
            for proposal in proposals
        ]
        n_refined = sum(proposal.answer is not None for proposal in proposals)
        step = self._probe(state, first)
        n = len(state.candidates) + 1
        alongside = tuple(self._probe_directive(state, other, n + i) for i, other in enumerate(others, 1))
        return Step(
            state.model_copy(update={"ahead": tuple(others), "refined": state.refined + n_refined}),
            step.directive.model_copy(update={"alongside": alongside}),
            step.decision,
        )

    def _next_alongside(self, state: BudgetState, directive: Directive) -> Step[BudgetState]:
        """The next one of the candidates that were tried at the same time."""
        decision, *ahead = state.ahead
        state = state.model_copy(update={"ahead": tuple(ahead)})
        return Step(state, directive.next_alongside(), decision.model_copy(update={"candidates": state.candidates}))

    def _head_start(self, progress: Progress) -> HeadStart | None:
        """Where the prior has the search begin; None without one, or where it could not be checked."""
        if progress.prior is None or not self._affords_probes(2, progress):
            return None
        return HeadStart.of(
            progress.prior,
            expected=progress.prior.at(self._probes.moving_steps, self.options.length_exponent),
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

    def _probe(self, state: BudgetState, decision: Decision) -> Step[BudgetState]:
        """Tries the LR of a decision."""
        directive = self._probe_directive(state, decision, len(state.candidates) + 1)
        return Step(state, directive, decision.model_copy(update={"candidates": state.candidates}))

    def _probe_directive(self, state: BudgetState, decision: Decision, number: int) -> Directive:
        """The probe of a decision's LR: validated at its end, and the first one before it begins, too.

        Args:
            state: What is known.
            decision: For this candidate.
            number: Which candidate it is, from 1.
        """
        n = self._probes.moving_steps
        validate_at = (n,) if state.candidates else (0, n)
        return self._probes.directive(
            decision.lr,
            stage=0,
            validate_at=validate_at if self._validates_probes else (),
            give_up_above=state.give_up_above(self.options.divergence_factor, decision.lr),
            reason=f"candidate {number}: {decision.reason}",
        )

    def _commit(self, state: BudgetState, progress: Progress) -> Asking[BudgetState]:
        """The LR with the lowest expected loss, corrected for the length of the rest."""
        if state.lost:
            below = min(candidate.lr for candidate in state.candidates) / restart.RETREAT
            lr = restart.lr_after_setbacks(below, state.ceiling)
            reason = f"every probe diverged: well below the lowest LR that was tried{lr.note}"
            decision = Decision(stage=0, lr=lr.lr, reason=reason, candidates=state.candidates, lowered_by=lr.lowered_by)
            return self._decided(state, decision, progress)
        between = bracket(state.bracketing, progress.bounds, self.options.widening)
        lowest = LowerConfidenceBound(kappa=0.0)
        best = yield from ask(state.candidates, between, lowest, seed=self.config.seed, min_separation=0.0)
        n, remaining = self._probes.moving_steps, _remaining(progress)
        if len(state.candidates) >= FIRST_CANDIDATES:
            state = state.model_copy(update={"optimum": Optimum(log_lr=best.log_lr, probe_steps=n)})
        correction = length_correction(n, remaining, self.options.length_exponent)
        wanted = toward_users(best.lr * correction, self.config.base_lr)
        reason = f"best over {n} steps: {best.lr:.3g}, times {correction:.2f} for a decay over {remaining}"
        drawn_to = None if same_lr(wanted, best.lr * correction) else self.config.base_lr
        if drawn_to is not None:
            reason += f", drawn towards the {drawn_to:.3g} that was set"
        # Joined again after setbacks: not back to an LR that has failed, unless the search came after it.
        lr = restart.lr_after_setbacks(wanted, state.ceiling if state.restarts else None)
        decision = Decision(
            stage=0,
            lr=lr.lr,
            reason=reason + lr.note,
            candidates=state.candidates,
            posterior=best.posterior,
            forecast=best.expected_loss,
            forecast_sd=best.expected_sd,
            optimum=best.lr,
            correction=correction,
            drawn_to=drawn_to,
            lowered_by=lr.lowered_by,
            asked=best.asked,
        )
        return self._decided(state, decision, progress)

    def _restart(
        self, state: BudgetState, directive: Directive, report: Report, progress: Progress
    ) -> Step[BudgetState]:
        """The decay from a lower LR than the one that failed. Raises: DivergenceError: it never helps."""
        state, decision = final_decay.after_setback(state, directive, report, progress.reported_steps)
        optimum = state.optimum and state.optimum.model_copy(update={"good_end": False})
        return self._decided(state.model_copy(update={"optimum": optimum}), decision, progress)

    def _at_set_lr(self, state: BudgetState, reason: str, progress: Progress) -> Step[BudgetState]:
        return self._decided(state, final_decay.lr_that_was_set(state, self.config.base_lr, reason), progress)

    def _decided(self, state: BudgetState, decision: Decision, progress: Progress) -> Step[BudgetState]:
        decay = final_decay.FinalDecay(
            validates=self.config.has_validation,
            batches=self.options.batches,
            shape=self.options.decay,
            warmup=self.options.warmup,
            divergence_factor=self.options.divergence_factor,
        )
        ended = state.search_ended
        return Step(state, decay.directive(state, decision, progress.remaining_steps, search_ended=ended), decision)


def _remaining(progress: Progress) -> int:
    assert progress.remaining_steps is not None
    return progress.remaining_steps
