"""What policy `open_ended` commits: stages of the plateau, the cooldown, or pieces of a decay that ends by time.

Notation: s, the committed steps so far; R, the steps that are left, where an end is known.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from lrpilot.wire.profile import Profile, Shape

from tuner_server.core.config import JobConfig
from tuner_server.core.evidence import promise
from tuner_server.core.evidence.gains import Gains
from tuner_server.core.evidence.lessons import Lessons
from tuner_server.core.evidence.restart import TRUSTED_RESTARTS, doubt
from tuner_server.core.lrs import same_lr
from tuner_server.core.messages import Average, Bar, Decision, Steps
from tuner_server.core.policies.base import PolicyState, Progress, Step
from tuner_server.core.policies.open_ended_options import OpenEndedOptions
from tuner_server.core.search.opening import OpeningState
from tuner_server.core.search.veto import Veto
from tuner_server.core.stages import committed, probe, rewarm, time_line
from tuner_server.core.stages.decayed_probe import HELD_OUT
from tuner_server.core.stages.ending import EndingPlan
from tuner_server.core.stages.plateau import RISE, Plateau
from tuner_server.core.stages.report_points import report_every

VALIDATIONS = 4
"""Validations of a stage, and of a cooldown."""
PROMISED_FROM = 0.25
"""Nothing is promised of this part of a stage, nor of this part of the time that is left when an LR is set."""
LONGEST_RISE = 5
"""What is left of a run, divided by this, is the most steps of a rise before the LR falls to zero."""
PIECES_KEPT = 4
"""In a run that ends by time, a snapshot is taken every so many pieces."""


class OpenEndedState(OpeningState, Lessons, PolicyState):
    """Between two directives. The candidates are those of the search, or of the look that was the last one."""

    stage: int = 0
    plateau: Plateau | None = None
    """None: nothing is committed yet."""
    veto: Veto | None = None
    """The look at lower LRs that is under way."""
    looked_at: Steps = 0
    """Committed steps when the last look began."""
    changed: bool = False
    """Whether the data or the model have changed since the last stage began: what was reached says nothing then."""
    cooling: bool = False
    """Whether the committed steps lead to the end."""
    gains: Gains = Gains()
    """What the stages have gained."""
    line: time_line.TimeLine | None = None
    """The decay of a run that ends by time."""
    pieces: int = 0
    """Pieces of that decay so far."""
    seconds_per_step: float | None = None
    """The pace of late; None: it is not known."""


@dataclasses.dataclass(frozen=True, slots=True)
class Course:
    """How the committed steps of one job go on.

    Attributes:
        config: the job's.
        options: the policy's.
    """

    config: JobConfig
    options: OpenEndedOptions

    def probes(self, n: int) -> probe.ProbePlan:
        """Probes of n steps that move the weights, then some held-out batches unless a validation judges them."""
        return probe.ProbePlan(
            moving_steps=n,
            held_out=0 if self.config.has_validation else min(HELD_OUT, n // 2),
            warmup=self.options.warmup,
            batches=self.options.batches,
        )

    def left_s(self, progress: Progress) -> float | None:
        """Seconds that are left; None: the run does not end by time, or an end in steps is known by now."""
        if self.config.total_time_s is None or progress.total_steps is not None:
            return None
        return self.config.total_time_s - progress.wall_time_s

    def cooldown_after(self, plateau_steps: int) -> int:
        """Steps of the cooldown that follows on so many steps, so that it has its share of all."""
        share = self.options.cooldown
        return max(round(plateau_steps * share / (1.0 - share)), 1)

    def plateau_left(self, progress: Progress) -> int | None:
        """Steps of the plateau that are left before the cooldown; None: no end is known."""
        remaining = progress.remaining_steps
        if remaining is None:
            return None
        return max(remaining - round(self.options.cooldown * (progress.committed_steps + remaining)), 0)

    def running_lr(self, state: OpenEndedState, progress: Progress) -> float:
        """The LR that the committed steps go on with, as the plateau or the line has it."""
        assert state.plateau is not None
        left = self.left_s(progress)
        if left is not None and state.line is not None:
            return state.line.lr_at(left)
        return state.plateau.lr_at(progress.committed_steps)

    def at(self, state: OpenEndedState, lr: float, progress: Progress, *, anew: bool = False) -> OpenEndedState:
        """The state in which they go on with another LR; `anew`: as a run that begins here."""
        step, left, plateau = progress.committed_steps, self.left_s(progress), state.plateau
        if plateau is None or anew:
            first_stage, exponent = self.options.first_stage, self.options.plateau_exponent
            plateau = Plateau(
                lr=lr,
                at_step=step,
                begins=0 if plateau is None else step,
                first_stage=first_stage,
                exponent=exponent,
            )
        line = None if left is None else time_line.TimeLine(lr=lr, left_s=left)
        return state.model_copy(update={"plateau": plateau.through(lr, step), "line": line})

    def go_on(self, state: OpenEndedState, progress: Progress, decision: Decision) -> Step[OpenEndedState]:
        """What follows: the next piece of the line, the next stage of the plateau, or the cooldown.

        Args:
            state: with a plateau.
            progress: where the job is.
            decision: why, with the evidence; its LR becomes that of the steps.
        """
        if (left := self.left_s(progress)) is not None:
            return self._piece(state, progress, decision, left)
        plateau_left = self.plateau_left(progress)
        if plateau_left == 0 or (state.cooling and plateau_left is not None):
            return self._cool_down(state, progress, decision)
        return self._stage(state, progress, decision, plateau_left)

    def cool(self, state: OpenEndedState, progress: Progress, lr: float, decision: Decision) -> Step[OpenEndedState]:
        """From an LR to the ending over all that is left; it rises to that first where it is above the present one."""
        remaining = progress.remaining_steps
        assert remaining is not None
        warmup = min(self._rise(lr, remaining, progress), remaining // LONGEST_RISE)
        plan = self.ending(lr, progress)
        profile = plan.profile(self.options.annealing, lr, remaining, warmup, progress.peak_lr)
        profile = rewarm.risen(profile, progress.present_lr)
        state = state.model_copy(update={"cooling": True})
        return self._train(state, profile, progress, decision, (), average=plan.average(remaining))

    def ending(self, lr: float, progress: Progress) -> EndingPlan:
        """How a run ends that is annealed from an LR over all that is left."""
        assert progress.remaining_steps is not None
        options = self.options
        plan = EndingPlan.of(options.ending, self.config, options.floor, options.average_memory)
        return plan.of_annealing(progress.remaining_steps, lr, progress.peak_lr, options.average_memory)

    def _rise(self, lr: float, n_steps: int, progress: Progress) -> int:
        """Steps of a rise to an LR: at the beginning the warm-up; none where the run is there, or above it."""
        if progress.present_lr is None:
            return int(n_steps * self.options.warmup)
        risen = progress.present_lr >= lr or same_lr(progress.present_lr, lr)
        return 0 if risen else min(RISE, n_steps - 1)

    def _cool_down(self, state: OpenEndedState, progress: Progress, decision: Decision) -> Step[OpenEndedState]:
        """The cooldown from the plateau; where less of it is left than all, from the LR that it has come to."""
        remaining, lr = progress.remaining_steps, self.running_lr(state, progress)
        assert remaining is not None
        whole = self.options.cooldown * (progress.committed_steps + remaining)
        return self.cool(state, progress, lr * self.options.annealing.weight(1.0 - remaining / whole), decision)

    def _stage(
        self, state: OpenEndedState, progress: Progress, decision: Decision, plateau_left: int | None
    ) -> Step[OpenEndedState]:
        step, plateau = progress.committed_steps, state.plateau
        assert plateau is not None
        n_steps = plateau.stage_length(step)
        if plateau_left is not None and plateau_left < n_steps + plateau.first_stage:
            n_steps = plateau_left
        warmup = self._rise(plateau.lr_at(step), n_steps, progress)
        profile = rewarm.risen(plateau.profile(step, n_steps, warmup), progress.present_lr)
        from_step = max(int(PROMISED_FROM * n_steps), warmup)
        first = progress.last_loss is None or step < plateau.first_stage
        promised = self._promise(state, None if first else progress.last_loss, from_step, report_every(n_steps))
        state = state.model_copy(update={"cooling": False})
        return self._train(state, profile, progress, decision, promised)

    def _piece(
        self, state: OpenEndedState, progress: Progress, decision: Decision, left: float
    ) -> Step[OpenEndedState]:
        """The next piece of the line; all of it, once little is left."""
        total, line, pace = self.config.total_time_s, state.line, state.seconds_per_step
        assert total is not None
        assert line is not None
        last, first = time_line.is_last(left, total), state.pieces == 0
        seconds = left if last else time_line.piece_s(left, total, first=first)
        n_steps = max(time_line.steps_in(seconds, pace), 1)
        lr = line.lr_at(left)
        end_lr = 0.0 if last else lr * (1.0 - min(seconds / left, 1.0))
        warmup = n_steps // 2
        if progress.present_lr is not None:
            warmup = min(self._rise(lr, n_steps, progress), warmup)
        profile = rewarm.risen(Profile(Shape.LINEAR, lr, end_lr, n_steps, warmup=warmup), progress.present_lr)
        promised: tuple[Bar, ...] = ()
        as_far_as_a_probe = progress.committed_steps >= self.options.probe_length(self.config.total_steps)
        if as_far_as_a_probe and left < (1.0 - PROMISED_FROM) * line.left_s:
            promised = self._promise(state, None, 0, n_steps)
        kept = state.pieces % PIECES_KEPT == 0
        state = state.model_copy(update={"pieces": state.pieces + 1})
        return self._train(state, profile, progress, decision, promised, snapshot=kept)

    def _promise(
        self, state: OpenEndedState, reached: float | None, from_step: int, report_steps: int
    ) -> tuple[Bar, ...]:
        """Half of what was gained before must stay; at the beginning, half of what the best probe gained."""
        footing = state.footing
        if footing is None or state.changed or state.search_ended or state.restarts >= TRUSTED_RESTARTS:
            return ()
        reached = footing.best_tail if reached is None else reached
        if reached is None:
            return ()
        return promise.half_kept(footing.start_loss, reached, footing.sd, from_step, report_steps)

    def _train(
        self,
        state: OpenEndedState,
        profile: Profile,
        progress: Progress,
        decision: Decision,
        promised: tuple[Bar, ...],
        *,
        snapshot: bool = True,
        average: Average | None = None,
    ) -> Step[OpenEndedState]:
        lr, n_steps = profile.peak, profile.length - profile.offset
        start_loss = None if state.changed else progress.last_loss
        directive = committed.directive(
            profile,
            stage=state.stage,
            batches=self.options.batches,
            n_validations=VALIDATIONS if self.config.has_validation and state.line is None else 0,
            give_up_above=state.give_up_above(self.options.divergence_factor, lr, start_loss),
            promise=promised,
            reason=decision.reason + doubt(state.restarts),
            average=average,
        )
        decision = decision.model_copy(update={"stage": state.stage, "lr": lr})
        update: dict[str, Any] = {"snapshot": snapshot}
        if state.line is not None and not state.cooling:
            update["report_every"] = n_steps  # the next piece needs the pace of the whole
        return Step(state, directive.model_copy(update=update), decision)
