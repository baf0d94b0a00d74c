"""What the probes of a search teach, besides which LR is best: the fields of a policy's state that keep it."""

from __future__ import annotations

from typing import Self

from tuner_server.core.evidence import divergence, promise, reached, restart
from tuner_server.core.evidence.reached import Reached
from tuner_server.core.messages import Candidate, Directive, Report, Setback, Value


class Lessons(Value):
    """A base for the state of a policy that has probes."""

    candidates: tuple[Candidate, ...] = ()
    """Those of the search that is under way, or was the last one."""
    sound: divergence.SoundLosses | None = None
    """Where the losses of sound probes lie; None before the first one."""
    footing: promise.Footing | None = None
    """Where training begins, and how far the best probe came; None before the first probe that had losses."""
    restarts: int = 0
    """How often committed steps diverged or fell short."""
    ceiling: float | None = None
    """No LR above this is committed, unless a search since then has found it sound: steps at `RETREAT` times it were
    rolled back. None: none were."""

    rose: Setback | None = None
    """The latest setback at which the run had lost what it had reached itself; None: there was none."""
    reached: Reached | None = None
    """The lowest level of a stretch of the committed steps that are carried out; None: there was none so long."""

    @property
    def fruitless(self) -> bool:
        """Whether all probes ended above the loss that training began with: an LR of zero would have been better.

        Which of these LRs is best says nothing then but how little it moves the weights. Only validations can tell:
        they see the same data before a probe and after it.
        """
        footing = self.footing
        if footing is None or footing.start_validation is None or footing.best_loss is None:
            return False
        return footing.best_validated and footing.best_loss > footing.start_validation

    def taught(self, lr: float, report: Report, judged: float | None) -> Self:
        """The state after one more probe.

        Args:
            lr: its peak.
            report: on it.
            judged: the loss by which it counts; None: it diverged, or its loss is no measure of what a run comes to.
        """
        sound = divergence.learn(self.sound, lr, report)
        return self.model_copy(
            update={"sound": sound, "footing": promise.learn(self.footing, lr, report, judged)},
        )

    def set_back(self, setback: Setback) -> Self:
        """The state after committed steps were rolled back. Raises: DivergenceError: it was once too often."""
        ceiling = setback.lr / restart.RETREAT
        if self.ceiling is not None:
            ceiling = min(ceiling, self.ceiling)
        rose = self.rose if setback.reached is None else setback
        return self.model_copy(
            update={"restarts": restart.counted(self.restarts), "ceiling": ceiling, "rose": rose},
        )

    def held(self, directive: Directive, report: Report, until: int) -> tuple[Self, Directive] | None:
        """The state after a part of committed steps, and their directive, whose bars are held to what they reached.

        None: nothing is promised, or nothing was reached that its bars are not held to already.

        Args:
            directive: as it is carried out.
            report: on a part of it.
            until: bars from this step of it on stay as they are.
        """
        known = reached.after(self.reached, report.losses)
        if not directive.promise or self.footing is None or known == self.reached or known is None:
            return None
        bars = reached.held_to(directive.promise, known, self.footing.start_loss, until)
        return self.model_copy(update={"reached": known}), directive.model_copy(update={"promise": bars})

    def give_up_above(self, factor: float, lr: float, start_loss: float | None = None) -> float | None:
        """The level above which the losses of steps have diverged; None: only one that is no number has.

        Args:
            factor: the `divergence_factor` of the policy's options.
            lr: the peak of those steps.
            start_loss: the loss that they begin with. Probes that learn within their first steps have a typical loss
                far below where the run begins, so the first probe's counts too.
        """
        if self.sound is None or self.restarts >= restart.TRUSTED_RESTARTS:
            return None
        starts = (start_loss, None if self.footing is None else self.footing.start_loss)
        return self.sound.level(factor, lr, max((loss for loss in starts if loss is not None), default=None))
