"""The oracle table of later states: peaks for the rest of a run, from the weights that the run has there.

The run before a state decays linearly, as planned, from a peak P that was tuned on another seed. Then something
changes, and a rest of R steps lies ahead, for which a peak is to be chosen. For every peak of a grid around P there are
from each state, on the same batches:

- the rest as it would be run: a short warm-up, then linear to zero; its final validation loss is the truth;
- decayed probes of few steps;
- a probe at a constant LR, judged by its last weights and by the mean of its later half of weights.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from lrpilot.data.replay import BatchBuffer
from lrpilot.wire.profile import Profile, Shape

from benchmarks.quality.schedules import WARMUP, WSD_DECAY
from benchmarks.quality.training import set_lr, train_step
from benchmarks.quality.workloads import WORKLOADS, Batch, Session
from benchmarks.regret.later import changes
from benchmarks.regret.later.averages import MeanOfWeights
from benchmarks.regret.later.peaks import tuned_peak
from benchmarks.regret.oracle import Rollback, decay

PROBE_STEPS = (25, 50, 100)
"""Lengths of probes."""
FACTORS = tuple(10 ** (i / 4) for i in (-4, -2, -1, 0, 1, 2, 3))
"""Peaks of the rest, relative to P."""
PLATEAU_FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""LRs of the rest of a plateau, relative to that before."""


class Kind(enum.StrEnum):
    """What has happened at the state."""

    INPUTS = "inputs"
    """Half of the run is over; the inputs change."""
    LATE = "late"
    """Three quarters of the run are over; the inputs change."""
    TARGETS = "targets"
    """Half of the run is over; the targets change."""
    BATCH = "batch"
    """Half of the run is over; the batch becomes larger."""
    COOLED = "cooled"
    """The run has decayed to zero and is extended by its length."""
    BRIEF = "brief"
    """The run has decayed to zero and is extended by a quarter of its length."""
    HOT = "hot"
    """Half of the run is over; it is made twice as long."""
    THAWED = "thawed"
    """Half of the run is over, in which the last layer was trained alone; from now on all are."""
    PLATEAU = "plateau"
    """The run has no end and stays at P / 2; it is doubled, and the last fifth of that decays to zero."""


@dataclass(frozen=True)
class Key:
    """What identifies a state; `version` is the workload's, `rest` the steps ahead, R."""

    kind: Kind
    workload: str
    version: int
    seed: int
    rest: int

    @property
    def planned(self) -> int:
        """Steps of the run that P was tuned for."""
        match self.kind:
            case Kind.COOLED:
                return self.rest
            case Kind.BRIEF | Kind.LATE:
                return 4 * self.rest
            case Kind.HOT:
                return 2 * self.rest // 3
        return 2 * self.rest

    @property
    def done(self) -> int:
        """Steps before the state."""
        match self.kind:
            case Kind.COOLED | Kind.PLATEAU:
                return self.rest
            case Kind.BRIEF:
                return self.planned
            case Kind.LATE:
                return 3 * self.rest
        return self.planned // 2


@dataclass(frozen=True)
class Probe:
    """Few steps from a state, at one LR; a loss is None if it, or one before, was not finite.

    Attributes:
        decayed: Validation loss after a decay to zero.
        last: Validation loss of the last weights of as many steps at a constant LR.
        mean: Validation loss of the mean of the weights of their later half.
    """

    decayed: float | None
    last: float | None
    mean: float | None


@dataclass(frozen=True)
class State:
    """All trials from one state; tuples are aligned with `lrs`.

    Attributes:
        key: Which state.
        peak: P.
        running: The LR of the step before the state.
        val_loss: Validation loss of the state itself, on what comes after the change.
        kept: Validation loss after the rest on the old schedule; None if it diverged or ended before.
        lrs: (k,) the grid of peaks, ascending.
        ends: (k,) validation losses after the rest.
        probes: (k,) by length.
    """

    key: Key
    peak: float
    running: float
    val_loss: float
    kept: float | None
    lrs: tuple[float, ...]
    ends: tuple[float | None, ...]
    probes: dict[int, tuple[Probe, ...]] = field(hash=False)


def grid(key: Key, peak: float) -> tuple[float, ...]:
    """The peaks to try: around P; higher for a larger batch, lower for layers that were not trained before."""
    if key.kind is Kind.PLATEAU:
        return tuple(peak / 2 * factor for factor in PLATEAU_FACTORS)
    moved = {Kind.BATCH: math.sqrt(10), Kind.THAWED: 1 / math.sqrt(10)}.get(key.kind, 1.0)
    return tuple(peak * moved * factor for factor in FACTORS)


def before(key: Key, peak: float) -> Profile:
    """The plan of the run before the state."""
    if key.kind is Kind.PLATEAU:
        return Profile(Shape.CONSTANT, peak / 2, peak / 2, key.done, warmup=round(key.done * WARMUP))
    return decay(peak, key.planned)


def _changed(key: Key, session: Session) -> Session:
    session = changes.with_new_batches(session)
    match key.kind:
        case Kind.INPUTS | Kind.LATE:
            return changes.with_other_inputs(key.workload, session)
        case Kind.TARGETS:
            return changes.with_other_targets(key.workload, session)
        case Kind.BATCH:
            return changes.with_larger_batch(session)
        case Kind.THAWED:
            changes.thaw(session)
    return session


def rest(key: Key, lr: float) -> tuple[Profile, ...]:
    """The plan of the rest with a peak; that of a plateau has no warm-up and decays in its last part alone."""
    if key.kind is not Kind.PLATEAU:
        return (decay(lr, key.rest),)
    n = round(key.rest * WSD_DECAY)
    return Profile.constant(lr, key.rest - n), Profile(Shape.LINEAR, lr, 0.0, n)


def reach(key: Key, peak: float) -> Session:
    """Trains up to a state: the session after its change. Raises: ValueError: the run has diverged before."""
    session = WORKLOADS[key.workload].build(key.seed)
    torch.manual_seed(key.seed)
    if key.kind is Kind.THAWED:
        changes.freeze(session)
    if not _train(session, session.batches().__next__, before(key, peak), key.done):
        raise ValueError(f"{key.workload}: the run at peak {peak} diverged before step {key.done}")
    return _changed(key, session)


def build(key: Key, probe_steps: Sequence[int] = PROBE_STEPS) -> State:
    """Trains up to a state, then all trials from it, with probes of these lengths.

    Raises:
        ValueError: the run has diverged before the state.
    """
    peak = tuned_peak(key.workload, key.planned, frozen=key.kind is Kind.THAWED)
    session, plan = reach(key, peak), before(key, peak)
    trials, lrs = Trials(session), grid(key, peak)
    left = min(key.planned - key.done, key.rest)
    return State(
        key=key,
        peak=peak,
        running=plan.lr(key.done - 1),
        val_loss=session.validate(),
        kept=trials.end((plan.after(key.done),), left) if left and key.kind is not Kind.PLATEAU else None,
        lrs=lrs,
        ends=tuple(trials.end(rest(key, lr)) for lr in lrs),
        probes={n: tuple(trials.probe(lr, n) for lr in lrs) for n in probe_steps},
    )


class Trials:
    """Trials from a state, each of which begins at it."""

    def __init__(self, session: Session) -> None:
        """The state is where the session is."""
        self._session = session
        self._batches: BatchBuffer[Batch] = BatchBuffer(session.batches())
        self._rollback = Rollback(session, self._batches)

    def end(self, plan: tuple[Profile, ...], n_steps: int | None = None) -> float | None:
        """Validation loss after profiles one after the other; None if a loss was not finite.

        Args:
            plan: the profiles.
            n_steps: how much of each; all by default.
        """
        self._rollback.restore()
        for profile in plan:
            if not _train(self._session, self._batches.draw, profile, n_steps or profile.length):
                return None
        return _finite(self._session.validate())

    def probe(self, lr: float, n_steps: int) -> Probe:
        """Both probes of so many steps."""
        decayed = self.end((decay(lr, n_steps),))
        self._rollback.restore()
        average = MeanOfWeights(self._session)
        set_lr(self._session.optimizer, lr)
        for step in range(n_steps):
            batch = self._batches.draw()
            if not math.isfinite(train_step(self._session, batch)):
                return Probe(decayed, None, None)
            if step >= n_steps // 2:
                average.add(batch)
        return Probe(decayed, _finite(self._session.validate()), _finite(average.validate()))


def _train(session: Session, draw: Callable[[], Batch], profile: Profile, n_steps: int) -> bool:
    """Whether all losses over the first steps of a profile were finite; it ends at one that is not."""
    for step in range(n_steps):
        set_lr(session.optimizer, profile.lr(step))
        if not math.isfinite(train_step(session, draw())):
            return False
    return True


def _finite(loss: float) -> float | None:
    return loss if math.isfinite(loss) else None
