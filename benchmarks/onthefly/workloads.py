"""Workloads of `benchmarks.quality` that change in the middle of a run, and what they begin as."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from benchmarks.onthefly import changes
from benchmarks.onthefly.frozen import TURNED, frozen
from benchmarks.quality.workloads import WORKLOADS as STILL
from benchmarks.quality.workloads import Session, Workload
from benchmarks.quality.workloads.base import half_decades

_VERSION = 1
"""The version of all that changes; raised when a change of it changes a loss."""
_NEW_STREAM = 500
"""What is added to the seed of the batches, so that those after a change were not drawn before it."""


@dataclass(frozen=True)
class ChangingWorkload:
    """A workload, and what becomes of it in the middle of a run.

    Attributes:
        name: Key in the registry. A workload that does not change has the name that it has in `benchmarks.quality`.
        version: Raised when anything changes that changes a loss, so that stored results go stale.
        before: What is trained up to the change.
        lrs: Peak LRs for the tuned schedules, half a decade apart.
        change: Changes the session of a run; None: nothing changes.
    """

    name: str
    version: int
    before: Workload
    lrs: tuple[float, ...]
    change: Callable[[Session], None] | None = None

    def go_on(self, session: Session) -> None:
        """Changes the session of a run in its middle. Its batches are ones that it has not had, change or not."""
        if self.change is not None:
            self.change(session)
        session.data_seed += _NEW_STREAM


def _still(workload: Workload, lrs: slice) -> ChangingWorkload:
    return ChangingWorkload(workload.name, workload.version, workload, workload.lr_grid[lrs])


def _changing(what: str, before: Workload, change: Callable[[Session], None], lrs: slice) -> ChangingWorkload:
    version = 100 * _VERSION + before.version
    return ChangingWorkload(f"{before.name.split(', ')[0]}, {what}", version, before, before.lr_grid[lrs], change)


# Four of seven LRs: the best ones of linear decay at 500 to 4,000 steps are at positions 3 and 4 on these workloads.
_MIDDLE = slice(2, 6)
# Where the second half wants a higher LR than the first.
_UPPER = slice(3, 7)

PLAIN = tuple(_still(STILL[name], _MIDDLE) for name in ("convnet", "mlp", "tinybatch"))
SHIFTED = (
    _changing("rotated", STILL["convnet"], changes.rotate, _MIDDLE),
    _changing("rotated", STILL["mlp"], changes.rotate, _MIDDLE),
    _changing("new alphabet", STILL["tinybatch"], changes.permute, _MIDDLE),
)
ENLARGED = tuple(
    _changing("larger batches", STILL[name], changes.enlarge_batches, _UPPER)
    for name in ("mlp", "inpainting", "tinybatch")
)
FROZEN = tuple(
    # A head alone takes higher LRs than a whole model, above the grid.
    replace(_still(frozen(workload), _UPPER), lrs=half_decades(workload.lr_grid[3], 5))
    for workload in (STILL["finetune"], STILL["lostpretraining"], TURNED)
)
UNFROZEN = tuple(
    _changing("unfrozen", still.before, changes.unfreeze, lrs)
    for still, lrs in zip(FROZEN, (_UPPER, _MIDDLE, _UPPER), strict=True)
)
_STARTS = tuple(_still(STILL[name], _MIDDLE) for name in ("inpainting",))
WORKLOADS: dict[str, ChangingWorkload] = {
    workload.name: workload for workload in (*PLAIN, *SHIFTED, *ENLARGED, *FROZEN, *UNFROZEN, *_STARTS)
}
