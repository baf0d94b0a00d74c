"""One short search, then one decay over what is left of the budget.

Each probe is a whole run in small: a short warm-up, then the LR decays linearly to zero, on the same minibatches for
all candidates, and it is judged by the loss after that. What is compared is progress, not the noise level of an LR. The
best peak LR of the small run, corrected for length, is that of the rest of the budget. This avoids the short-horizon
bias of probes at a constant LR (Wu et al. 2018, "Understanding short-horizon bias in stochastic meta-optimization").

Notation: n, the steps of a probe that move the weights; gamma, the exponent with which the best peak LR falls with
length.

Which LRs are tried is the business of `core.search.opening`. The LR that is committed has the lowest expected loss,
times (n / remaining)^gamma. A job with several members tries several LRs at the same time, each on a replica of the
model (`core.search.population`), judged by held-out batches: a validation is not the same on all members.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

from lrpilot.wire.profile import Shape
from lrpilot.wire.rewarming import peak_of_rest

from tuner_server.core.errors import InvalidInputError
from tuner_server.core.evidence import reached, restart, shift
from tuner_server.core.evidence.lessons import Lessons
from tuner_server.core.lrs import same_lr
from tuner_server.core.messages import ChangeKind, Decision, Directive, Phase, PlanChange, Report
from tuner_server.core.policies.base import Asking, Policy, PolicyState, Progress, Step
from tuner_server.core.policies.budget_options import BudgetOptions
from tuner_server.core.search import population
from tuner_server.core.search.head_start import FIRST_CANDIDATES
from tuner_server.core.search.opening import Opening, Trial
from tuner_server.core.search.prior import Optimum
from tuner_server.core.search.users_lr import toward_users
from tuner_server.core.search.veto import Veto
from tuner_server.core.stages import early_warning, ending, final_decay, probe
from tuner_server.core.stages.decayed_probe import HELD_OUT, MAX_PROBE, MIN_PROBE, probe_correction
from tuner_server.core.stages.plan_change import because

FEWEST_STEPS = 500
"""A shorter run has no search: it would cost more than it gains."""
WARMUP_AFTER_CHANGE = 0.1
"""Part of the committed steps in which the LR rises after other data or another model: with half of it some networks
died (docs/regret.md)."""
SECOND_PROBE_SHARE = 0.025
"""Steps of a probe after a change, as a part of those that are left; within the limits of the first search's."""
LARGEST_SEARCH_SHARE = 0.2
"""A search that threatens to take more of the budget ends."""


class BudgetState(population.PopulationState, Lessons, PolicyState):
    """Between two directives."""

    stage: int = 0
    """It counts the plans of the run."""
    veto: Veto | None = None
    """The look at lower LRs after a change; None: there is none, and the search at the start is meant."""


class Budget(Policy[BudgetOptions, BudgetState]):
    """The default for jobs whose end is known."""

    name = "budget"
    takes_members = True
    options_type = BudgetOptions
    state_type = BudgetState

    def check(self) -> None:
        """Refuses a job without an end, or an ending or warnings that it can't have. Raises: InvalidInputError."""
        ending.check(self.options.ending, self.config)
        early_warning.check(self.options.early_warnings, self.config)
        if self.config.total_steps is None:
            raise InvalidInputError.of("total_steps", "policy budget needs it; without an end there is open_ended")

    @property
    def _total(self) -> int:
        assert self.config.total_steps is not None
        return self.config.total_steps

    @property
    def _probes(self) -> probe.ProbePlan:
        """Each probe of the search at the start."""
        return self._probes_of(self.options.probe_length(self._total), apart=self.config.members > 1)

    def _plan_of(self, state: BudgetState) -> probe.ProbePlan:
        """Each probe of the search that is under way."""
        return self._probes if state.veto is None else self._probes_of(state.veto.probe_steps, apart=False)

    def _probes_of(self, n: int, *, apart: bool) -> probe.ProbePlan:
        """Each probe: n steps, then some held-out batches unless a validation judges it."""
        return probe.ProbePlan(
            moving_steps=n,
            held_out=0 if self.config.has_validation and not apart else min(HELD_OUT, n // 2),
            decays=self.options.decayed_probes,
            warmup=self.options.warmup,
            batches=self.options.batches,
            apart=apart,
            warnings=early_warning.early_warnings(self.options.early_warnings),
        )

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
            return (yield from self._next(self.state_type(), progress))
        reason = (
            f"no search in a run of {progress.remaining_steps} steps, which are too few for one: the LR that was set, "
            "decaying"
        )
        return self._at_set_lr(self.state_type(), reason, progress)

    def advance(
        self, state: BudgetState, directive: Directive, report: Report, progress: Progress
    ) -> Asking[BudgetState]:
        """The next candidate, or the decay; if that diverges or falls short, the decay from a lower LR."""
        if directive.phase is not Phase.PROBE:
            return self._restart(state, directive, report, progress)
        candidate = self._plan_of(state).judged(directive, report, progress.first_loss)
        state = state.taught(candidate.lr, report, candidate.forecast)
        state = state.model_copy(update={"candidates": (*state.candidates, candidate)})
        if state.veto is not None:
            return self._look_further(state, state.veto, progress)
        if directive.alongside:
            return self._next_alongside(state, directive)
        return (yield from self._next(state, progress))

    def rejoin(self, state: BudgetState, progress: Progress) -> Asking[BudgetState]:
        """Commits the best candidate so far; without one, searches if enough is left, or decays from the LR set."""
        remaining = _remaining(progress)
        if state.stage and progress.present_lr is not None:
            lr = progress.present_lr or peak_of_rest(progress.peak_lr or 0.0, 0.0, progress.committed_steps, remaining)
            reason = f"joined again: from {lr:.3g} to zero over what is left"
            return self._go_on(state.model_copy(update={"veto": None}), lr, reason, progress)
        if not state.lost:
            return (yield from self._commit(state, progress))
        if self._worth_a_search(remaining) and self._affords_probes(1, progress):
            return (yield from self._next(self.state_type(ceiling=state.ceiling), progress))
        reason = f"joined again with {remaining} steps left, too few to search: the LR that was set, decaying"
        return self._at_set_lr(state, reason, progress)

    def replan(self, state: BudgetState, change: PlanChange, progress: Progress) -> Asking[BudgetState]:
        """The decay over what is left in the new plan; after a change of the data or the model, a search before it."""
        state = state.model_copy(update={"stage": state.stage + 1, "veto": None})
        if progress.present_lr is None or not progress.peak_lr:  # a shape may begin with LRs of zero
            return (yield from self._replan_from_start(state, change, progress))
        remaining, lr = _remaining(progress), progress.present_lr
        if change.kind is ChangeKind.REPLAN:
            return self._look_down(state, change, progress, progress.peak_lr * change.lr_factor)
        if change.kind is ChangeKind.EXTEND or lr <= 0:  # from zero there is no annealing
            lr = peak_of_rest(progress.peak_lr, lr, progress.committed_steps, remaining)
        annealing = None
        if change.kind is ChangeKind.ANNEAL:
            annealing = self._ending.of_annealing(remaining, lr, progress.peak_lr)
        plan = annealing or self._ending
        reason = f"{because(change)}: from {lr:.3g} {plan.words} over the {remaining} steps that are left"
        return self._go_on(state, lr, reason, progress, annealing)

    def noticed(
        self, state: BudgetState, directive: Directive, report: Report, progress: Progress
    ) -> PlanChange | None:
        """A search in other data, where the losses have left what they were (`stages.shift`)."""
        settled = progress.reported_steps >= max(self.options.warmup, shift.SETTLED) * directive.n_steps
        if state.search_ended or not settled:
            return None
        return shift.noticed(state, report, progress.best_since_change, progress.first_loss)

    def reshape(
        self, state: BudgetState, directive: Directive, report: Report, progress: Progress
    ) -> Step[BudgetState] | None:
        """Holds the steps that follow to what the run has reached itself."""
        until = math.ceil(reached.LAST_LOOK * directive.n_steps)
        held = None if progress.reported_steps >= until else state.held(directive, report, until)
        return None if held is None else Step(*held)

    def _replan_from_start(self, state: BudgetState, change: PlanChange, progress: Progress) -> Asking[BudgetState]:
        """What follows on a change before the first committed step."""
        searches = self._worth_a_search(_remaining(progress)) and self._affords_probes(1, progress)
        if change.kind is ChangeKind.REPLAN and searches and not state.search_ended:
            return (yield from self._next(self.state_type(ceiling=state.ceiling, stage=state.stage), progress))
        if not state.candidates or state.search_ended:
            return self._at_set_lr(state, f"{because(change)}: the LR that was set, decaying", progress)
        return (yield from self._commit(state, progress))

    def _look_down(
        self, state: BudgetState, change: PlanChange, progress: Progress, wanted: float
    ) -> Step[BudgetState]:
        """Begins to look whether an LR is bearable after a change, or takes it where too little is left to look."""
        remaining = _remaining(progress)
        n = min(max(round(remaining * SECOND_PROBE_SHARE), MIN_PROBE), MAX_PROBE)
        reason = (
            f"{because(change)}: to {wanted:.3g}, and {self._ending.words} over the {remaining} steps that are left"
        )
        if change.batch_factor is not None:
            return self._go_on(state, wanted, reason, progress)
        gained = 0.0
        if progress.first_loss is not None and progress.last_loss is not None:
            gained = max(progress.first_loss - progress.last_loss, 0.0)
        veto = Veto(wanted=wanted, probe_steps=n, gained=gained, because=because(change))
        lessons = {"candidates": (), "sound": None, "footing": None, "restarts": 0, "rose": None, "head_start": None}
        if state.search_ended or remaining < FEWEST_STEPS:
            return self._go_on(state.model_copy(update={"veto": veto, **lessons}), wanted, reason, progress)
        return self._look_further(state.model_copy(update={"veto": veto, **lessons}), veto, progress)

    def _look_further(self, state: BudgetState, veto: Veto, progress: Progress) -> Step[BudgetState]:
        """The next candidate of a look down, or the decay from the highest LR that was not refused."""
        start = None if state.footing is None else state.footing.start
        lr = veto.next(state.candidates, start)
        if lr is not None:
            beside = "what the run had" if not state.candidates else "a lower one beside it"
            return self._probe(state, Decision(stage=state.stage, lr=lr, reason=f"{veto.because}: {beside}"))
        chosen = veto.chosen(state.candidates, start)
        reason = f"{veto.because}: {chosen:.3g} is the highest of {len(state.candidates)} that bears it"
        return self._go_on(state, chosen, reason, progress)

    def _go_on(
        self,
        state: BudgetState,
        lr: float,
        reason: str,
        progress: Progress,
        annealing: ending.EndingPlan | None = None,
    ) -> Step[BudgetState]:
        """The decay from where the run is, up to an LR and down again; as an annealing, with that end."""
        allowed = restart.lr_after_setbacks(lr, state.ceiling)
        decision = Decision(
            stage=state.stage,
            lr=allowed.lr,
            reason=reason + allowed.note,
            candidates=state.candidates if state.veto is not None else (),
            lowered_by=allowed.lowered_by,
        )
        return self._decided(state, decision, progress, annealing, goes_on=True)

    def without_search(self, state: BudgetState, progress: Progress, reason: str) -> Step[BudgetState]:
        """The decay from the LR that was set; from a lower one after committed steps that were rolled back."""
        return self._at_set_lr(state, f"{reason}; the LR that was set, decaying", progress)

    @classmethod
    def optimum(cls, state: BudgetState) -> Optimum | None:
        """The best LR of a probe, as the search expects it at its end."""
        return state.optimum

    def _opening(self, progress: Progress) -> Opening:
        return Opening.of(self.options, self._probes.moving_steps, self.config, progress.bounds, progress.prior)

    def _next(self, state: BudgetState, progress: Progress) -> Asking[BudgetState]:
        """The next candidate; the decay after the last one."""
        opening, members = self._opening(progress), self.config.members
        affords = functools.partial(self._affords_probes, progress=progress)
        if members > 1:
            state, trials = yield from population.next_round(opening, state, affords, members)
            if not trials:
                return (yield from self._commit(state, progress))
            return self._round(state, trials)
        state, trial = yield from opening.next(state, affords)
        if trial is None:
            return (yield from self._commit(state, progress))
        return self._probe(state, trial.decision(state.stage))

    def _round(self, state: BudgetState, trials: Sequence[Trial]) -> Step[BudgetState]:
        """Tries several LRs at the same time."""
        first, *others = [trial.decision(state.stage) for trial in trials]
        step = self._probe(state, first)
        told = tuple(self._probe_directive(state, other, i) for i, other in enumerate(others, 1))
        directive = step.directive.model_copy(update={"alongside": told})
        return Step(state.model_copy(update={"ahead": tuple(others)}), directive, step.decision)

    def _next_alongside(self, state: BudgetState, directive: Directive) -> Step[BudgetState]:
        """The next one of the candidates that were tried at the same time."""
        decision, *ahead = state.ahead
        state = state.model_copy(update={"ahead": tuple(ahead)})
        return Step(state, directive.next_alongside(), decision.model_copy(update={"candidates": state.candidates}))

    def _probe(self, state: BudgetState, decision: Decision) -> Step[BudgetState]:
        """Tries the LR of a decision."""
        directive = self._probe_directive(state, decision)
        return Step(state, directive, decision.model_copy(update={"candidates": state.candidates}))

    def _probe_directive(self, state: BudgetState, decision: Decision, after: int = 0) -> Directive:
        """The probe of a decision's LR: validated at its end, and the first one before it begins, too.

        Args:
            state: What is known.
            decision: For this candidate.
            after: How many candidates of the same round come before it.
        """
        plan = self._plan_of(state)
        return plan.directive(
            decision.lr,
            stage=state.stage,
            validate_at=plan.validations(validates=self.config.has_validation, first=not state.candidates),
            give_up_above=state.give_up_above(self.options.divergence_factor, decision.lr),
            reason=f"candidate {len(state.candidates) + after + 1}: {decision.reason}",
        )

    def _commit(self, state: BudgetState, progress: Progress) -> Asking[BudgetState]:
        """The LR with the lowest expected loss, corrected for the length of the rest."""
        if state.lost:
            below = min(candidate.lr for candidate in state.candidates) / restart.RETREAT
            lr = restart.lr_after_setbacks(below, state.ceiling)
            reason = f"every probe diverged: well below the lowest LR that was tried{lr.note}"
            decision = Decision(
                stage=state.stage, lr=lr.lr, reason=reason, candidates=state.candidates, lowered_by=lr.lowered_by
            )
            return self._decided(state, decision, progress)
        if state.fruitless:
            return self._decided(state, final_decay.for_want_of_a_gain(state, self.config, state.stage), progress)
        state, best = yield from self._opening(progress).best(state)
        n, remaining = self._probes.moving_steps, _remaining(progress)
        correction = probe_correction(n, remaining, self.options.length_exponent, self.config.first_updates)
        wanted = toward_users(best.lr * correction, self.config.base_lr)
        reason = f"best over {n} steps: {best.lr:.3g}, times {correction:.2f} for a decay over {remaining}"
        drawn_to = None if same_lr(wanted, best.lr * correction) else self.config.base_lr
        if drawn_to is not None:
            reason += f", drawn towards the {drawn_to:.3g} that was set"
        # Joined again after setbacks: not back to an LR that has failed, unless the search came after it.
        lr = restart.lr_after_setbacks(wanted, state.ceiling if state.restarts else None)
        decision = Decision(
            stage=state.stage,
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
        return self._decided(
            state, final_decay.lr_that_was_set(state, self.config.base_lr, reason, state.stage), progress
        )

    @property
    def _ending(self) -> ending.EndingPlan:
        options = self.options
        return ending.EndingPlan.of(options.ending, self.config, options.floor, options.average_memory)

    def _decided(
        self,
        state: BudgetState,
        decision: Decision,
        progress: Progress,
        annealing: ending.EndingPlan | None = None,
        *,
        goes_on: bool = False,
    ) -> Step[BudgetState]:
        # Of the shapes that a decay may have some never fall, and others rise first: no annealing is along them.
        decay = final_decay.FinalDecay(
            validates=self.config.has_validation,
            batches=self.options.batches,
            shape=self.options.decay if annealing is None else Shape.LINEAR,
            warmup=self.options.warmup if state.veto is None else max(self.options.warmup, WARMUP_AFTER_CHANGE),
            divergence_factor=self.options.divergence_factor,
            ending=annealing or self._ending,
        )
        directive = decay.directive(
            state,
            decision,
            progress.remaining_steps,
            search_ended=state.search_ended,
            present_lr=progress.present_lr if goes_on else None,
            peak_lr=progress.peak_lr if goes_on else None,
        )
        return Step(state.model_copy(update={"reached": None}), directive, decision)


def _remaining(progress: Progress) -> int:
    assert progress.remaining_steps is not None
    return progress.remaining_steps
