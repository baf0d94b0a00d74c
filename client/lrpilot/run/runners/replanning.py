"""What a training program tells of its plan while it runs: another end, other data, an annealing."""

from __future__ import annotations

from lrpilot.arguments import whole
from lrpilot.errors import ConfigError
from lrpilot.run.coasting import Coasting
from lrpilot.run.runners.checkpoint import ResumableRunner
from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.wire.limits import MAX_STEPS
from lrpilot.wire.messages.plan_changes import SCALINGS
from lrpilot.wire.plan_change import BatchScaling

MAX_REASON = 500
"""The most characters of a reason that are sent."""


class ReplannableRunner(ResumableRunner):
    """Carries out directives of a run whose plan may change on the way.

    A change takes effect at once; in a search, when that is over. Of several ranks all ask for it after the same step:
    what rank 0 alone asks for takes effect on all when they look at one another next, what others do is left out.
    """

    _closed: bool

    def extend(self, steps: int) -> None:
        """Lets the run go on for so many more steps than it was to have. It may be over already, but not closed.

        What is left is planned anew: a run that has cooled down is warmed up again, one that is still hot is not. After
        the end, go on with another `for batch in tuner.batches(loader)`.

        Args:
            steps: optimizer steps, search included, at least 1.

        Raises:
            ConfigError: no such number, the run has no end, or the tuner is closed.
            ServerError: a decision can't be had, and `strict` is set.
        """
        self._refuse_closed("extend")
        later = _count("steps", steps)
        if not self._plan.has_end:
            raise ConfigError("extend: the run has no end that could be moved; `anneal(steps)` gives it one")
        _check_length(later, self._plan.total_steps or 0)
        self._change(pb.PlanChange(kind=pb.PLAN_CHANGE_KIND_EXTEND, later_steps=later))

    def replan(
        self,
        reason: str = "",
        *,
        batch_size: int | None = None,
        batch_scaling: str = "sqrt",
        scale_betas: bool = False,
    ) -> None:
        """Says that the run goes on with other data, another batch size or another model: the LR follows.

        Call it before the first step with what is new; then draw from `batches()` of the new loader. After other data
        or another model two short probes check the LR, where enough steps are left; another batch size only scales it.

        Args:
            reason: what has changed, in a sentence for people.
            batch_size: the new one, if it has changed. The old one is that of the loader, or of an earlier call.
            batch_scaling: how the LR follows the batch size: "sqrt", "linear" or "none".
            scale_betas: whether Adam's betas and eps follow it, too (Malladi et al. 2022, arXiv 2205.10287).

        Raises:
            ConfigError: a value is wrong, the batch size until now is not known, the betas can't be scaled so far, or
                the tuner is closed or finished.
            ServerError: a decision can't be had, and `strict` is set.
        """
        self._refuse_closed("replan")
        if self._finished:
            raise ConfigError("replan: the run is over; `extend(steps)` lets it go on")
        scalings = [scaling.value for scaling in BatchScaling]
        if batch_scaling not in scalings:
            raise ConfigError(f"batch_scaling: {batch_scaling!r}; give one of {', '.join(scalings)}")
        change = pb.PlanChange(
            kind=pb.PLAN_CHANGE_KIND_REPLAN,
            reason=str(reason)[:MAX_REASON].replace("\0", "?").encode("utf-8", "replace").decode(),
            batch_scaling=SCALINGS[BatchScaling(batch_scaling)],
        )
        if batch_size is not None:
            self._follow_batch_size(change, batch_size, scale_betas=scale_betas)
        elif scale_betas:
            raise ConfigError("scale_betas: give the new batch_size, which they follow")
        self._change(change, scales_betas=scale_betas)

    def _follow_batch_size(self, change: pb.PlanChange, batch_size: int, *, scale_betas: bool) -> None:
        """Has a change tell of the new batch size. Raises: ConfigError: it can't be followed."""
        new, old = _count("batch_size", batch_size), self._plan.batch_size or self._position.batch_size
        if old is None:
            raise ConfigError(
                f"batch_size: {new}, but the loader until now does not say its own; give its `batch_size`"
            )
        change.batch_factor = new / old
        if scale_betas:
            self._backend.scale_betas(change.batch_factor, only_check=True)
        self._plan.batch_size = new

    def anneal(self, steps: int) -> None:
        """Lets the LR fall over so many steps, after which the run is over: it gives a finished model.

        It falls to zero; where a policy averages the weights at the end of a run, to its floor, and the better ones are
        adopted. Under 50 steps there is no average.

        Training can go on from before it with `undo_annealing`, or from its end with `extend`.

        Args:
            steps: optimizer steps, at least 1; a fifth of the run so far is usual.

        Raises:
            ConfigError: no such number, or the tuner is closed or finished.
            ServerError: a decision can't be had, and `strict` is set.
        """
        self._refuse_closed("anneal")
        if self._finished:
            raise ConfigError("anneal: the run is over; `extend(steps)` lets it go on")
        n_steps = _count("steps", steps)
        _check_length(n_steps, self._record.steps + self._lease.done)
        self._change(pb.PlanChange(kind=pb.PLAN_CHANGE_KIND_ANNEAL, anneal_steps=n_steps))

    def undo_annealing(self) -> None:
        """Goes back to before the annealing, and on from there as if it had not been; its steps count as search steps.

        Save the annealed model before. Then go on with another `for batch in tuner.batches(loader)`; the data go on
        where they are.

        Raises:
            ConfigError: there is no annealing that could be undone, or the tuner is closed.
            ServerError: a decision can't be had, and `strict` is set.
        """
        self._refuse_closed("undo_annealing")
        if not self._plan.annealing or isinstance(self._lease, Coasting) or not self._rollback.possible:
            raise ConfigError(
                "undo_annealing: there is no annealing, or no snapshot from before it; call it after `anneal(steps)`, "
                "before any other change"
            )
        self._change(pb.PlanChange(kind=pb.PLAN_CHANGE_KIND_UNDO_ANNEALING))

    def _refuse_closed(self, what: str) -> None:
        if self._closed:
            raise ConfigError(f"{what}: the tuner is closed; make another one, and load_state_dict")


def _count(name: str, value: int) -> int:
    """A number of steps or samples. Raises: ConfigError: it is none."""
    return whole(name, value, "a whole number from 1 on", high=MAX_STEPS)


def _check_length(steps: int, before: int) -> None:
    """Refuses a run that is too long. Raises: ConfigError."""
    if before + steps > MAX_STEPS:
        raise ConfigError(f"steps: {steps} more than {before}; a run has at most {MAX_STEPS} steps")
