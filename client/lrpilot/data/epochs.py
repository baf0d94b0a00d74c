"""A loader, epoch after epoch, as one endless stream whose position fits in a checkpoint.

A loader with `state_dict` and `load_state_dict` is resumed by these, any other by beginning its epoch again and
skipping what had been drawn. What decides an epoch's order is known at its start: the global random state, the state of
the loader's parts (their generators and counters), and the epoch's number for those that seed themselves from it.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Generic, TypeVar, cast

from lrpilot.data.loader_parts import threads_since
from lrpilot.data.loader_state import LoaderState, Moment
from lrpilot.objects.layout import instance_dict
from lrpilot.rng import RandomState

logger = logging.getLogger(__name__)

Batch = TypeVar("Batch")

_END: Any = object()

_PARTS = (
    "sampler",
    "batch_sampler",
    "batch_sampler.sampler",
    "batch_sampler.batch_sampler",  # Accelerate splits one batch sampler by another.
    "batch_sampler.batch_sampler.sampler",
    "dataset",
)
"""Where something, besides a loader itself, may want to hear of a new epoch."""


class Epochs(Generic[Batch]):
    """Draws from a loader without end.

    It is the loop over epochs, so it calls `set_epoch`, with 0 at first, on whatever part of the loader has it: a
    `DistributedSampler` gives the same order for ever if nobody does.
    """

    def __init__(self, loader: Iterable[Batch]) -> None:
        """Draws nothing yet.

        Args:
            loader: `iter` of it gives the batches of one epoch. An infinite one never ends its first.
        """
        self.own = LoaderState(loader)
        """The state of the loader's parts."""
        self._loader = loader
        self._iterator: Iterator[Batch] = iter(())
        self._begun = 0
        self._drawn = 0  # In the present epoch.
        self._start: _Start | None = None

    def draw(self) -> Batch:
        """The next batch, of the next epoch if there is none left in this one.

        Raises:
            ValueError: the loader gives no batch, or gives them only once.
        """
        batch = next(self._iterator, _END)
        if batch is _END:
            batch = self._begin()
        self._drawn += 1
        return cast(Batch, batch)

    def draw_recorded(self) -> tuple[Batch, Moment]:
        """Gives what `draw` gives, with what drawing changed in the state of the loader's parts."""
        before, begun = self.own.capture(), self._begun
        batch = self.draw()
        if self.own.has_thread:
            return batch, Moment({}, {})
        if self._begun == begun or self._start is None:
            return batch, self.own.capture().changed_since(before)
        return batch, self.own.capture_all().changed_since(cast(Moment, self._start.own))

    def state_dict(self) -> dict[str, Any]:
        """The position. Tensors and plain values, as far as the loader's own state is made of these."""
        begun = self._start is not None
        own = None if self.own.has_thread else self.own.of_another_process(self.own.capture_all()).state_dict()
        return {
            "begun": self._begun,
            "drawn": self._drawn,
            "start": self._start.state_dict(self.own) if self._start else None,
            "own": own,
            # Asked before its first epoch, a StatefulDataLoader would begin it.
            "loader": cast(Any, self._loader).state_dict() if begun and self.keeps_state else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes to where another process was in the same data.

        The global random state is left anyhow; the caller sets it. That of worker processes is PyTorch's: skipped
        batches bring it to where it was, unless the workers are persistent and this isn't their first epoch; a
        loader's own state usually leaves it out.

        Raises:
            ValueError: the loader is of another kind, or has fewer batches than were drawn.
        """
        self._begun, self._drawn = state["begun"], state["drawn"]
        if state["start"] is None:
            return
        own_state = state["loader"]
        if (own_state is not None) != self.keeps_state:
            raise ValueError(
                f"batches: this loader ({type(self._loader).__name__}) "
                f"{'keeps' if own_state is None else 'does not keep'} its own state (state_dict, load_state_dict), "
                "unlike that of the checkpoint: resume with the same kind of loader"
            )
        if own_state is None and self._begun > 1 and getattr(self._loader, "persistent_workers", False):
            # Workers that live on were started, which takes a random number, in the first epoch and not in this one.
            iter(self._loader)
        self._start = _Start.from_state_dict(state["start"])
        self._start.random_state.restore()
        self.own.apply(self._start.own, own_state=self.keeps_state)
        threads = threading.enumerate()
        _set_epoch(self._loader, self._begun - 1)
        if own_state is not None:
            cast(Any, self._loader).load_state_dict(own_state)
        # At once: what this draws from the global random state must be drawn before the caller sets that.
        self._iterator = iter(self._loader)
        if own_state is None:
            self._skip(self._drawn)
        self.own.look_again(has_thread=bool(threads_since(threads)))
        if state["own"] is not None and not self.own.has_thread:
            # Also what wasn't changed by draws.
            self.own.apply(state["own"], own_state=self.keeps_state)

    def drawn(self, epoch_length: int) -> int:
        """How many batches were drawn, over all epochs, of `epoch_length` batches each."""
        return max(self._begun - 1, 0) * epoch_length + self._drawn

    @property
    def shared(self) -> list[object]:
        """The loader and its parts: what a batch may refer to and does not own."""
        return [part for part in _parts(self._loader).values() if instance_dict(part) is not None]

    @property
    def keeps_state(self) -> bool:
        """Whether the loader knows its own position.

        Accelerate's loaders (the wrapped one is their `base_dataloader`) are skipped through. They have the methods
        always, work with some, and run one batch ahead of the loop: their state leaves out the random state of that,
        and after the last batch of an epoch begins the same epoch again.
        """
        if hasattr(self._loader, "base_dataloader"):
            return False
        return hasattr(self._loader, "state_dict") and hasattr(self._loader, "load_state_dict")

    def _begin(self) -> Batch:
        """The first batch of the next epoch."""
        self._start, self._drawn = _Start(RandomState.capture(), self.own.capture_all()), 0
        threads = threading.enumerate()
        _set_epoch(self._loader, self._begun)
        self._begun += 1
        self._iterator = iter(self._loader)
        batch = next(self._iterator, _END)
        if batch is _END:
            self._begun -= 1
            raise ValueError(self._exhausted())
        self.own.look_again(has_thread=bool(threads_since(threads)))
        return cast(Batch, batch)

    def _skip(self, n_batches: int) -> None:
        logger.info(
            "batches: skipping %d batches of epoch %d; a loader with state_dict and load_state_dict, such as "
            "torchdata's StatefulDataLoader, would spare this",
            n_batches,
            self._begun - 1,
        )
        for _ in range(n_batches):
            if next(self._iterator, _END) is _END:
                raise ValueError(
                    f"batches: the checkpoint was {n_batches} batches into an epoch, and this loader has fewer: "
                    "resume with the same data and batch size"
                )

    def _exhausted(self) -> str:
        kind = type(self._loader).__name__
        if self._begun == 0:
            return f"batches: the loader ({kind}) is empty"
        return (
            f"batches: the loader ({kind}) can be iterated only once, and its batches are used up; "
            "pass an object whose __iter__ starts a new epoch, such as a DataLoader"
        )


@dataclasses.dataclass(frozen=True, slots=True)
class _Start:
    """What an epoch begins with: the global random state, and the state of the loader's parts."""

    random_state: RandomState
    own: Moment | Mapping[str, Any]
    """The loader's state as a checkpoint has it, if it comes from one."""

    def state_dict(self, own: LoaderState) -> dict[str, Any]:
        told = own.of_another_process(self.own).state_dict() if isinstance(self.own, Moment) else self.own
        return {"random_state": self.random_state.state_dict(), "own": told}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> _Start:
        return cls(RandomState.from_state_dict(state["random_state"]), state["own"])


def _parts(loader: Any) -> dict[str, Any]:
    """The loader (under the name "") and its parts, each object once."""
    parts = {"": loader}
    for path in _PARTS:
        part = loader
        for name in path.split("."):
            part = getattr(part, name, None)
        if part is not None and all(part is not known for known in parts.values()):
            parts[path] = part
    return parts


def _set_epoch(loader: Any, number: int) -> None:
    for part in _parts(loader).values():
        if callable(set_epoch := getattr(part, "set_epoch", None)):
            set_epoch(number)
