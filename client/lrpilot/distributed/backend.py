"""One of several ranks that train together: what is told about the run is told of all of them."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lrpilot.backends.base import Backend
from lrpilot.backends.measures import MAXIMA, SUMS
from lrpilot.distributed.packing import packed, unpacked
from lrpilot.distributed.together import together
from lrpilot.wire.divergence import first_divergence

if TYPE_CHECKING:
    from lrpilot.backends.weight_average import WeightAverage
    from lrpilot.distributed.ranks import Ranks

STEPS_BETWEEN_LOOKS = 4
"""Steps between two looks at least, for each of which all ranks wait for the latest one."""

log = logging.getLogger("lrpilot")


class DistributedBackend(Backend):
    """A backend whose losses are means over the ranks. What it remembers is the rank's own.

    `diverged`, `flush`, `flush_measures` and `validate` are collective: all ranks call them at the same steps, because
    all carry out the same directives. A loss that is no number on one rank is none in the mean, so all ranks see a
    divergence alike.

    In a probe that every rank tries by itself (`begin_apart`) losses are the rank's own, until the next `begin` or
    `restore`.
    """

    def __init__(self, backend: Backend, ranks: Ranks) -> None:
        """Speaks for this rank's `backend`."""
        self._own = backend
        self._ranks = ranks
        self._limit = math.inf
        self._n_losses = 0
        self._means: list[float] = []
        self._measures: list[str] = []
        self._apart = False

    @property
    def base_lrs(self) -> list[float]:
        """The rank's own, which are everybody's."""
        return self._own.base_lrs

    @property
    def has_validation(self) -> bool:
        """Whether the rank can validate; if one can, all must."""
        return self._own.has_validation

    @property
    def first_updates(self) -> Sequence[float]:
        """Those of this rank's optimizer."""
        return self._own.first_updates

    @property
    def loss_noise(self) -> float:
        """The rank's own, which is everybody's."""
        return self._own.loss_noise

    @property
    def loss_precedes_updates(self) -> bool:
        """The rank's own, which is everybody's."""
        return self._own.loss_precedes_updates

    @property
    def steps_between_looks(self) -> int:
        """As many on every rank, whatever device it has."""
        return STEPS_BETWEEN_LOOKS

    def suspects(self) -> list[str]:
        """The suspects on this rank."""
        return self._own.suspects()

    def lrs(self) -> list[float]:
        """The rank's own, which are everybody's."""
        return self._own.lrs()

    def set_lr(self, lr: float) -> None:
        """Sets the LR on this rank."""
        self._own.set_lr(lr)

    def scale_betas(self, batch_factor: float, *, only_check: bool = False) -> None:
        """Scales them on this rank."""
        self._own.scale_betas(batch_factor, only_check=only_check)

    def take(self, data: Sequence[object] = ()) -> None:
        """Remembers what lies on this rank: shards, where the model is sharded.

        Raises:
            Exception: it failed on a rank; it is raised on all.
        """
        together(self._ranks, lambda: self._own.take(data))

    def restore(self, *, committed: bool = False) -> None:
        """Restores what lies on this rank; from then on all ranks update the same weights."""
        self._hold_apart(False)
        self._own.restore(committed=committed)

    def validate(self) -> float | None:
        """The mean over the ranks; None if one of them sees a divergence."""
        try:
            loss = self._own.validate()
        except Exception:
            log.warning("lrpilot: rank %d can't validate", self._ranks.rank, exc_info=True)
            loss = None
        [mean] = self._ranks.mean([math.nan if loss is None else loss])
        return mean if math.isfinite(mean) else None

    def begin(self, n_steps: int, limit: float = math.inf, earlier: Iterable[float] = ()) -> None:
        """The limit is one for the means, which scatter less than the losses of a rank."""
        self._hold_apart(False)
        earlier = list(earlier)
        self._own.begin(n_steps, earlier=earlier)
        self._n_losses = len(earlier)
        self._limit = limit
        self._means = []

    def begin_apart(self, n_steps: int, limit: float) -> None:
        """Begins steps in which this rank updates weights of its own, and its losses have a limit of their own."""
        self._own.begin(n_steps, limit)
        self._hold_apart(True)
        self._n_losses = 0

    def append(self, loss: Any) -> bool:
        """The rank's own loss. An update is skipped on all ranks or on none: gradients are everybody's."""
        counts = self._own.append(loss)
        self._n_losses += counts
        return counts

    def diverged(self) -> bool:
        """Whether the means of settled losses show a divergence; apart, whether those of every rank do."""
        if self._apart:
            return self._ranks.mean([self._own.diverged()]) == [1.0]
        if self._n_losses > len(self._means):
            # As many as every rank has: one that was given numbers has its last losses, where others wait for a device.
            settled = self._read(self._own.settled)
            self._means += self._ranks.mean_of_first(settled[len(self._means) :])
        return first_divergence(self._means, self._limit) is not None

    def forget_skipped(self) -> list[int]:
        """The rank's own, which are everybody's: gradients are, and so is what overflows in them. Not collective."""
        skipped = self._own.forget_skipped()
        self._n_losses -= len(skipped)
        self._means = [mean for i, mean in enumerate(self._means) if i not in skipped]
        return skipped

    def peek(self) -> list[float]:
        """The rank's own losses; not collective."""
        return self._own.peek()

    def flush(self) -> list[float]:
        """The means over the ranks; apart, the rank's own, and not collective."""
        if self._apart:
            return self._own.flush()
        losses = self._read(self._own.peek)
        if len(losses) > len(self._means):
            self._means += self._ranks.mean(losses[len(self._means) :])
        means = self._means
        self._own.flush()
        self._means, self._n_losses = [], 0
        return means

    def flush_apart(self, n_steps: int) -> list[list[float]]:
        """The losses of every rank over so many steps, in order; collective. Lost ones are no numbers."""
        try:
            losses = self._own.flush()[-n_steps:]
        except Exception:
            log.warning("lrpilot: rank %d can't read its losses", self._ranks.rank, exc_info=True)
            losses = []
        return self._ranks.gather([math.nan] * (n_steps - len(losses)) + losses)

    def level(self) -> None:
        """Gives all ranks what rank 0 trains: after a rollback that was not complete on a rank; collective."""
        state = self._ranks.broadcast(packed(self._own.trained()) if self._ranks.rank == 0 else b"")
        if self._ranks.rank > 0:
            self._own.load_trained(unpacked(state))

    @property
    def measures(self) -> tuple[str, ...]:
        """The rank's own, which are everybody's."""
        return self._own.measures

    def measure(self, n_steps: int, earlier: Mapping[str, Sequence[float]]) -> None:
        """Has this rank measure."""
        self._measures = sorted(earlier)
        self._own.measure(n_steps, earlier)

    def peek_measures(self) -> dict[str, list[float]]:
        """The rank's own; not collective."""
        return self._own.peek_measures()

    def flush_measures(self, n_steps: int) -> dict[str, list[float]]:
        """The means or maxima over the ranks (`lrpilot.backends.measures`); collective.

        What a rank can't measure none has.
        """
        try:
            own = self._own.flush_measures(n_steps)
        except Exception:
            log.warning("lrpilot: rank %d can't read its measures", self._ranks.rank, exc_info=True)
            own = {}
        none = [math.nan] * n_steps
        found: dict[str, list[float]] = {}
        for reduce, names in (
            (self._ranks.mean, [name for name in self._measures if name in SUMS]),
            (self._ranks.maximum, [name for name in self._measures if name in MAXIMA]),
            (self._ranks.quadratic_mean, [name for name in self._measures if name not in SUMS | MAXIMA]),
        ):
            reduced = reduce([value for name in names for value in own.get(name, none)]) if names else []
            found |= {name: reduced[i * n_steps : (i + 1) * n_steps] for i, name in enumerate(names)}
        return {name: found[name] for name in self._measures}

    def state_dict(self) -> dict[str, Any] | None:
        """The rank's own; not collective."""
        return self._own.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """What this rank remembered."""
        self._own.load_state_dict(state)

    @property
    def average(self) -> WeightAverage | None:
        """The rank's own: of shards, where the model is sharded."""
        return self._own.average

    def finish(self) -> None:
        """Ends the run on this rank."""
        self._hold_apart(False)
        self._own.finish()

    def close(self) -> None:
        """Lets go on this rank."""
        self._own.close()

    def _hold_apart(self, apart: bool) -> None:
        if apart != self._apart:
            self._own.hold_apart(apart)
            self._apart = apart

    def _read(self, losses: Callable[[], list[float]]) -> list[float]:
        """The losses of this rank. If it can't read them none is a number, and it meets the others all the same."""
        try:
            return losses()
        except Exception:
            log.warning("lrpilot: rank %d can't read its losses", self._ranks.rank, exc_info=True)
            return [math.nan] * self._n_losses
