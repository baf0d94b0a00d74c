"""A run whose end is not known: one search, then a plateau that can be cooled down at any time.

The search is that of policy `budget`: probes that are whole runs in small, judged by the loss after their decay. What
is committed is a plateau (`core.stages.plateau`), whose LR suits a run that is cooled down over its last fifth,
whenever that is. Its stages double in length. At the end of a stage the LR is looked at again (`core.search.look`): a
few short branches show whether it is far off; what they show less clearly changes nothing.

The run ends when somebody asks for an annealing; where the steps are known after all, with a cooldown over the last of
them; where a time is given (`total_time_s`), with a decay that reaches zero when it is over (`core.stages.time_line`);
and, if that is asked for, when stages stop to gain anything (`patience`).

Notation: n, the steps of a probe that move the weights; s, the committed steps so far.
"""

from __future__ import annotations

import dataclasses

from lrpilot.wire.rewarming import peak_of_rest

from tuner_server.core.evidence import restart, shift
from tuner_server.core.evidence.gains import Gains
from tuner_server.core.lrs import same_lr
from tuner_server.core.messages import ChangeKind, Decision, Directive, Outcome, Phase, PlanChange, Report
from tuner_server.core.policies.base import Asking, Policy, Progress, Step
from tuner_server.core.policies.open_ended_course import Course, OpenEndedState
from tuner_server.core.policies.open_ended_looks import LONGEST_BRANCH, Looks
from tuner_server.core.policies.open_ended_options import OpenEndedOptions
from tuner_server.core.search.head_start import FIRST_CANDIDATES
from tuner_server.core.search.opening import Opening
from tuner_server.core.search.prior import Optimum
from tuner_server.core.search.users_lr import toward_users
from tuner_server.core.stages import committed, ending, final_decay, probe, time_line
from tuner_server.core.stages.decayed_probe import MIN_PROBE, probe_correction
from tuner_server.core.stages.plan_change import because

FEWEST_STEPS = 500
"""A shorter run has no search: it would cost more than it gains."""
LARGEST_SEARCH_SHARE = 0.2
"""A search that threatens to take more of a run whose end is known, in steps or in time, ends."""


class OpenEnded(Policy[OpenEndedOptions, OpenEndedState]):
    """The default for jobs whose end is not known in steps."""

    name = "open_ended"
    options_type = OpenEndedOptions
    state_type = OpenEndedState
    keeps_time = True

    def check(self) -> None:
        """Refuses an ending that the job can't have. Raises: InvalidInputError."""
        ending.check(self.options.ending, self.config)

    @property
    def _course(self) -> Course:
        return Course(self.config, self.options)

    @property
    def _looks(self) -> Looks:
        return Looks(self._course)

    @property
    def _probes(self) -> probe.ProbePlan:
        return self._course.probes(self.options.probe_length(self.config.total_steps))

    @property
    def searches(self) -> bool:
        """Whether the run is long enough for a search to pay, as far as that is known."""
        return self.config.total_steps is None or self._worth_a_search(self.config.total_steps)

    def _worth_a_search(self, n_steps: int) -> bool:
        candidates = min(FIRST_CANDIDATES + self.options.refinements, self.options.max_candidates)
        return n_steps >= FEWEST_STEPS and candidates * self._probes.n_steps <= LARGEST_SEARCH_SHARE * n_steps

    def _affords_probes(self, count: int, state: OpenEndedState, progress: Progress) -> bool:
        """Whether the search's share of the run, where an end is known, holds so many more probes."""
        n_steps = count * self._probes.n_steps
        if progress.total_steps is not None:
            return progress.search_steps + n_steps <= LARGEST_SEARCH_SHARE * progress.total_steps
        if self.config.total_time_s is None or state.seconds_per_step is None:
            return True
        seconds = progress.wall_time_s + n_steps * state.seconds_per_step
        return seconds <= LARGEST_SEARCH_SHARE * self.config.total_time_s

    def start(self, progress: Progress) -> Asking[OpenEndedState]:
        """The first candidate, or, in a run too short to search, the schedule at once."""
        state = OpenEndedState()
        if self.searches:
            return (yield from self._next(state, progress))
        reason = f"{committed.TOO_FEW} steps for a search: the LR that was set"
        return self._at_set_lr(state, reason, progress)

    def advance(
        self, state: OpenEndedState, directive: Directive, report: Report, progress: Progress
    ) -> Asking[OpenEndedState]:
        """The next candidate or branch, the next stage, or the plateau at a lower LR after a setback."""
        state = state.model_copy(update={"seconds_per_step": time_line.pace(state.seconds_per_step, report)})
        if directive.phase is Phase.PROBE and state.veto is not None:
            return self._looks.after(state, state.veto, directive, report, progress)
        if directive.phase is Phase.PROBE:
            candidate = self._probes.judged(directive, report, progress.first_loss)
            state = state.taught(candidate.lr, report, candidate.forecast)
            state = state.model_copy(update={"candidates": (*state.candidates, candidate)})
            return (yield from self._next(state, progress))
        if report.outcome.rolls_back:
            return self._after_setback(state, directive, report, progress)
        state = _ended(state, report, progress)
        if state.line is None and not state.cooling:
            state = state.model_copy(update={"stage": state.stage + 1})
        if self._looks.due(state, progress):
            return self._looks.begin(
                state, progress, "a look at the plateau", self._looks.length(progress, state.looked_at)
            )
        step = self._go_on(state, _onward(state), progress)
        # A piece of the way to the end of a time is decided with the first one.
        return step if state.line is None else dataclasses.replace(step, decision=None)

    def rejoin(self, state: OpenEndedState, progress: Progress) -> Asking[OpenEndedState]:
        """Goes on; where nothing was found yet, with the best candidate so far, a search, or the LR that was set."""
        state = state.model_copy(update={"veto": None})
        if state.plateau is not None:
            return self._go_on(state, "joined again", progress)
        if not state.lost:
            return (yield from self._commit(state, progress))
        left = progress.remaining_steps
        if (left is None or self._worth_a_search(left)) and self._affords_probes(1, state, progress):
            again = {"candidates": (), "bracketed_after": None, "head_start": None}
            return (yield from self._next(state.model_copy(update=again), progress))
        reason = f"joined again with {left} steps left, {committed.TOO_FEW} to search: the LR that was set"
        return self._at_set_lr(state, reason, progress)

    def replan(self, state: OpenEndedState, change: PlanChange, progress: Progress) -> Asking[OpenEndedState]:
        """The plateau goes on, or is cooled down; after other data, batches or weights its LR is looked at."""
        state = state.model_copy(update={"veto": None})
        if change.kind is ChangeKind.ANNEAL:
            return self._anneal(state, change, progress)
        if state.plateau is None or progress.present_lr is None:
            if state.search_ended or not self.searches:
                return self._at_set_lr(state, f"{because(change)}: the LR that was set", progress)
            return (yield from self.rejoin(state, progress))
        if change.kind is ChangeKind.EXTEND and state.cooling:
            return self._cool_anew(state, change, progress)
        if change.kind is ChangeKind.REPLAN:
            return self._begun_anew(state, change, progress)
        state = state.model_copy(update={"cooling": False})
        return self._go_on(state, because(change), progress)

    def noticed(
        self, state: OpenEndedState, directive: Directive, report: Report, progress: Progress
    ) -> PlanChange | None:
        """The end of a run whose time is nearly over, or whose stages gain nothing any more."""
        shift = self._shifted(state, directive, report, progress)
        if shift is not None or progress.total_steps is not None:
            return shift
        total_s, patience = self.config.total_time_s, self.options.patience
        if total_s is not None:
            left = total_s - progress.wall_time_s - report.wall_time_s
            if not time_line.is_last(left, total_s):
                return None
            n_steps = time_line.steps_in(left, time_line.pace(state.seconds_per_step, report))
            if n_steps:
                return PlanChange(kind=ChangeKind.ANNEAL, anneal_steps=n_steps, reason="the time is nearly over")
            run_steps = progress.committed_steps + progress.search_steps + report.n_steps
            return PlanChange(kind=ChangeKind.EXTEND, total_steps=run_steps, reason="the time is over")
        if patience is None or report.outcome is not Outcome.COMPLETED:
            return None
        without = state.gains.after(report).without
        if without < patience:
            return None
        n_steps = self._course.cooldown_after(progress.committed_steps + report.n_steps)
        reason = f"{without} stages in a row gained nothing"
        return PlanChange(kind=ChangeKind.ANNEAL, anneal_steps=n_steps, reason=reason)

    def _shifted(
        self, state: OpenEndedState, directive: Directive, report: Report, progress: Progress
    ) -> PlanChange | None:
        """A look, where the losses have left what they were (`stages.shift`)."""
        early = progress.reported_steps < shift.SETTLED * directive.n_steps
        if state.search_ended or state.line is not None or early:
            return None
        return shift.noticed(state, report, progress.best_since_change, progress.first_loss)

    def without_search(self, state: OpenEndedState, progress: Progress, reason: str) -> Step[OpenEndedState]:
        """The LR that was set; a lower one after committed steps that were rolled back."""
        return self._at_set_lr(state.model_copy(update={"veto": None}), f"{reason}; the LR that was set", progress)

    @classmethod
    def optimum(cls, state: OpenEndedState) -> Optimum | None:
        """The best LR of a probe, as the search expects it at its end."""
        return state.optimum

    def _opening(self, progress: Progress) -> Opening:
        return Opening.of(self.options, self._probes.moving_steps, self.config, progress.bounds, progress.prior)

    def _next(self, state: OpenEndedState, progress: Progress) -> Asking[OpenEndedState]:
        """The next candidate; the plateau after the last one."""
        opening = self._opening(progress)
        state, trial = yield from opening.next(state, lambda count: self._affords_probes(count, state, progress))
        if trial is None and not state.candidates:
            return self._at_set_lr(state, f"{committed.TOO_FEW} steps for a search: the LR that was set", progress)
        if trial is None:
            return (yield from self._commit(state, progress))
        probes = self._probes
        directive = probes.directive(
            trial.lr,
            stage=state.stage,
            validate_at=probes.validations(validates=self.config.has_validation, first=not state.candidates),
            give_up_above=state.give_up_above(self.options.divergence_factor, trial.lr),
            reason=f"candidate {len(state.candidates) + 1}: {trial.reason}",
        )
        decision = trial.decision(state.stage).model_copy(update={"candidates": state.candidates})
        return Step(state, directive, decision)

    def _commit(self, state: OpenEndedState, progress: Progress) -> Asking[OpenEndedState]:
        """The plateau whose LR follows from the one with the lowest expected loss."""
        ceiling = state.ceiling if state.restarts else None
        if state.lost:
            lr = restart.lr_after_setbacks(min(c.lr for c in state.candidates) / restart.RETREAT, state.ceiling)
            reason = f"every probe diverged: well below the lowest LR that was tried{lr.note}"
            decision = Decision(
                stage=state.stage, lr=lr.lr, reason=reason, candidates=state.candidates, lowered_by=lr.lowered_by
            )
            return self._course.go_on(self._course.at(state, decision.lr, progress), progress, decision)
        if state.fruitless:
            decision = final_decay.for_want_of_a_gain(state, self.config, state.stage)
            return self._course.go_on(self._course.at(state, decision.lr, progress), progress, decision)
        state, best = yield from self._opening(progress).best(state)
        correction = self._correction(state, progress)
        n, factor = self._probes.moving_steps, self._plateau_factor(progress)
        wanted = toward_users(best.lr * correction, self.config.base_lr) * factor
        drawn_to = None if same_lr(wanted, best.lr * correction * factor) else self.config.base_lr
        reason = f"best over {n} steps: {best.lr:.3g}, times {correction * factor:.2f} for what follows"
        if drawn_to is not None:
            reason += f", drawn towards the {drawn_to:.3g} that was set"
        lr = restart.lr_after_setbacks(wanted, ceiling)
        decision = Decision(
            stage=state.stage,
            lr=lr.lr,
            reason=reason + lr.note,
            candidates=state.candidates,
            posterior=best.posterior,
            forecast=best.expected_loss,
            forecast_sd=best.expected_sd,
            optimum=best.lr,
            correction=correction * factor,
            drawn_to=drawn_to,
            lowered_by=lr.lowered_by,
            asked=best.asked,
        )
        return self._course.go_on(self._course.at(state, decision.lr, progress), progress, decision)

    def _correction(self, state: OpenEndedState, progress: Progress) -> float:
        """For length: to that of the first stage, or to all the steps that the time suffices for."""
        n_steps, left = self.options.first_stage, self._course.left_s(progress)
        if left is not None:
            n_steps = max(time_line.steps_in(left, state.seconds_per_step), self._probes.moving_steps)
        n, exponent = self._probes.moving_steps, self.options.length_exponent
        return probe_correction(n, n_steps, exponent, self.config.first_updates)

    def _plateau_factor(self, progress: Progress) -> float:
        """For the shape: that of a plateau; a run that ends by time decays along a line, as a probe does."""
        return 1.0 if self._course.left_s(progress) is not None else self.options.plateau_factor

    def _at_set_lr(self, state: OpenEndedState, reason: str, progress: Progress) -> Step[OpenEndedState]:
        """The LR that was set, or a lower one after setbacks: on a plateau, or to zero where the end is known."""
        lr = restart.lr_after_setbacks(self.config.base_lr, state.ceiling)
        decision = Decision(stage=state.stage, lr=lr.lr, reason=reason + lr.note, lowered_by=lr.lowered_by)
        state = self._course.at(state.model_copy(update={"candidates": ()}), lr.lr, progress)
        if progress.remaining_steps is not None:
            return self._course.cool(state, progress, lr.lr, decision)
        return self._course.go_on(state, progress, decision)

    def _go_on(self, state: OpenEndedState, reason: str, progress: Progress) -> Step[OpenEndedState]:
        """The LR that the run has, below one that failed."""
        lr = restart.lr_after_setbacks(self._course.running_lr(state, progress), state.ceiling)
        if lr.lowered_by is not None:
            state = self._course.at(state, lr.lr, progress)
        decision = Decision(stage=state.stage, lr=lr.lr, reason=reason + lr.note, lowered_by=lr.lowered_by)
        return self._course.go_on(state, progress, decision)

    def _after_setback(
        self, state: OpenEndedState, directive: Directive, report: Report, progress: Progress
    ) -> Step[OpenEndedState]:
        """Tries the rolled back steps again at a lower LR. Raises: DivergenceError: it never helps."""
        setback = restart.setback(directive, report, progress.reported_steps)
        state = state.set_back(setback)
        optimum = state.optimum and state.optimum.model_copy(update={"good_end": False})
        lr = setback.lr / restart.RETREAT
        state = self._course.at(state.model_copy(update={"optimum": optimum}), lr, progress)
        what = "diverged at" if setback.loss is None else "lost half of what was gained at"
        decision = Decision(
            stage=state.stage,
            lr=lr,
            reason=f"{what} {setback.lr:.3g}: a lower LR from here on",
            setback=setback,
            lowered_by=restart.RETREAT,
        )
        return self._course.go_on(state, progress, decision)

    def _anneal(self, state: OpenEndedState, change: PlanChange, progress: Progress) -> Step[OpenEndedState]:
        """Goes to the ending from where the run is, over the steps that were asked for."""
        lr = progress.present_lr
        if not lr:  # before the first step, or after a decay to zero
            lr = self.config.base_lr if state.plateau is None else self._course.running_lr(state, progress)
        words = self._course.ending(lr, progress).words
        reason = f"{because(change)}: from {lr:.3g} {words} in {progress.remaining_steps} steps"
        return self._course.cool(state, progress, lr, Decision(stage=state.stage, lr=lr, reason=reason))

    def _cool_anew(self, state: OpenEndedState, change: PlanChange, progress: Progress) -> Step[OpenEndedState]:
        """Goes to the ending over a longer rest than the cooldown was to have, from an LR that it rises to again."""
        present, remaining = progress.present_lr, progress.remaining_steps
        assert present is not None
        assert remaining is not None
        peak = self._course.running_lr(state, progress) / self.options.plateau_factor
        wanted = peak_of_rest(peak, present, progress.committed_steps, remaining)
        lr = restart.lr_after_setbacks(wanted, state.ceiling)
        words = self._course.ending(lr.lr, progress).words
        reason = f"{because(change)}: {words} over the {remaining} steps that are left{lr.note}"
        decision = Decision(stage=state.stage, lr=lr.lr, reason=reason, lowered_by=lr.lowered_by)
        return self._course.cool(state, progress, lr.lr, decision)

    def _begun_anew(self, state: OpenEndedState, change: PlanChange, progress: Progress) -> Step[OpenEndedState]:
        """The plateau as at its beginning, after the data or the model have changed, if a look shows that it is borne.

        Only the LR follows other batches of the same data.
        """
        batches = change.batch_factor is not None
        lr = self._course.running_lr(state, progress) if batches else progress.peak_lr
        assert lr is not None
        allowed = restart.lr_after_setbacks(lr * change.lr_factor, state.ceiling)
        state = self._course.at(state, allowed.lr, progress, anew=not batches)
        state = state.model_copy(update={"stage": state.stage + 1, "changed": True, "gains": Gains()})
        n = min(max(self._looks.length(progress, 0), MIN_PROBE), LONGEST_BRANCH)
        if batches or not self._looks.possible(state, n, progress):
            return self._go_on(state, because(change) + allowed.note, progress)
        # Losses before and after the change can't be compared: the branches teach anew where they lie.
        return self._looks.begin(
            state.model_copy(update={"sound": None, "footing": None}), progress, because(change), n
        )


def _onward(state: OpenEndedState) -> str:
    """Why sound steps are followed by those that they are followed by."""
    return "the LR of a run that is as long again" if state.line is None else "on the way to zero when the time is over"


def _ended(state: OpenEndedState, report: Report, progress: Progress) -> OpenEndedState:
    """The state after committed steps that came to their end; below the loss of a fresh model a distress is over."""
    first, last = progress.first_loss, progress.last_loss
    sound = first is not None and last is not None and last < first
    restarts = 0 if sound else state.restarts
    return state.model_copy(update={"restarts": restarts, "changed": False, "gains": state.gains.after(report)})
