"""How policy `open_ended` looks at an LR in the middle of a run: is it borne, or is a lower one far better?"""

from __future__ import annotations

import dataclasses

from tuner_server.core.evidence import restart
from tuner_server.core.lrs import same_lr
from tuner_server.core.messages import Decision, Directive, Report
from tuner_server.core.policies.base import Progress, Step
from tuner_server.core.policies.open_ended_course import Course, OpenEndedState
from tuner_server.core.search.veto import Veto
from tuner_server.core.stages.decayed_probe import HELD_OUT, MIN_PROBE

BRANCHES = 2
"""Branches of a look that leaves the LR where it is."""
LONGEST_BRANCH = 100
"""Steps of a branch that move the weights, at most."""


@dataclasses.dataclass(frozen=True, slots=True)
class Looks:
    """The looks of one job.

    Attributes:
        course: how its committed steps go on.
    """

    course: Course

    def length(self, progress: Progress, since: int) -> int:
        """Steps of a branch that move the weights, if a look has its share of the steps since the last one."""
        share = int(self.course.options.look_share * (progress.committed_steps - since) / BRANCHES)
        return min(share - self.course.probes(2 * HELD_OUT).held_out, LONGEST_BRANCH)

    def possible(self, state: OpenEndedState, n: int, progress: Progress) -> bool:
        """Whether branches of n steps can be had, and leave most of a plateau whose end is known."""
        left = self.course.plateau_left(progress)
        room = left is None or 2 * BRANCHES * self.course.probes(n).n_steps <= left
        return room and not (state.search_ended or state.cooling or state.line is not None)

    def due(self, state: OpenEndedState, progress: Progress) -> bool:
        """Whether a stage that has ended is followed by one."""
        n = self.length(progress, state.looked_at)
        wanted = self.course.options.look_share > 0 and state.footing is not None
        return wanted and n >= MIN_PROBE and self.possible(state, n, progress)

    def begin(self, state: OpenEndedState, progress: Progress, reason: str, n: int) -> Step[OpenEndedState]:
        """Begins to look whether the LR in use is borne."""
        lr = self.course.running_lr(state, progress)
        veto = Veto(wanted=lr, probe_steps=n, gained=_gained(state, progress), because=reason)
        looking = {"veto": veto, "looked_at": progress.committed_steps, "candidates": ()}
        return self._branch(state.model_copy(update=looking), veto, lr, progress)

    def _branch(self, state: OpenEndedState, veto: Veto, lr: float, progress: Progress) -> Step[OpenEndedState]:
        """Tries an LR from where the run is."""
        branches, first = self.course.probes(veto.probe_steps), not state.candidates
        known = None if state.changed else progress.last_loss
        directive = branches.directive(
            lr,
            stage=state.stage,
            validate_at=branches.validations(validates=self.course.config.has_validation, first=first),
            give_up_above=state.give_up_above(self.course.options.divergence_factor, lr, known),
            reason=f"{veto.because}: {'the LR in use' if first else 'a lower one beside it'}",
        )
        decision = Decision(stage=state.stage, lr=lr, reason=directive.reason, candidates=state.candidates)
        return Step(state, directive, decision)

    def after(
        self, state: OpenEndedState, veto: Veto, directive: Directive, report: Report, progress: Progress
    ) -> Step[OpenEndedState]:
        """The next branch, or the highest LR that is borne."""
        known = None if state.changed else progress.last_loss
        branch = self.course.probes(veto.probe_steps).judged(directive, report, known)
        if state.changed:
            state = state.taught(branch.lr, report, branch.forecast)
        state = state.model_copy(update={"candidates": (*state.candidates, branch)})
        start = None
        if state.changed and state.footing is not None:
            start = state.footing.start
        lr = veto.next(state.candidates, start)
        if lr is not None:
            return self._branch(state, veto, lr, progress)
        allowed = restart.lr_after_setbacks(veto.chosen(state.candidates, start), state.ceiling)
        if not same_lr(allowed.lr, veto.wanted):
            state = self.course.at(state, allowed.lr, progress)
        reason = f"{veto.because}: {allowed.lr:.3g} is the highest of {len(state.candidates)} that it bears"
        decision = Decision(
            stage=state.stage,
            lr=allowed.lr,
            reason=reason + allowed.note,
            candidates=state.candidates,
            lowered_by=allowed.lowered_by,
        )
        return self.course.go_on(state.model_copy(update={"veto": None}), progress, decision)


def _gained(state: OpenEndedState, progress: Progress) -> float:
    """How far the losses of the run have fallen; of a run of which nothing is known, 0."""
    footing, first, last = state.footing, progress.first_loss, progress.last_loss
    gained = [0.0, first - last if first is not None and last is not None else 0.0]
    if footing is not None:
        gained += [footing.gain or 0.0, footing.validation_gain or 0.0]
    return max(gained)
