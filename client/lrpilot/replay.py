"""A stream of batches that can go back.

Drawing a batch may use global random state: a shuffling loader draws a seed at the start of an epoch, augmentation in
the main process draws all the time. A replayed batch is not drawn again, so the random state that its draw left behind
is recorded with it and set instead. Whatever the model draws in between is then what it would have been.
"""

from __future__ import annotations

import collections
import copy
import dataclasses
import logging
import sys
from collections.abc import Iterable, Mapping
from typing import Any, Generic, TypeVar, cast

from lrpilot.epochs import Epochs
from lrpilot.rng import RandomState

logger = logging.getLogger(__name__)

Batch = TypeVar("Batch")


class BatchBuffer(Generic[Batch]):
    """Draws from a loader across epochs, and can replay what it has drawn since a mark.

    Batches are kept by reference and not copied: copies of what may be gigabytes would be paid by everyone. The
    containers of a batch (dicts, lists, tuples) are handed out anew each time, so `batch.pop("labels")` harms nothing.
    A loop that changes a batch's *tensors* in place gets the changed tensors when they are replayed; that is noticed
    and logged, once.
    """

    def __init__(self, iterable: Iterable[Batch]) -> None:
        """Makes an endless stream of a loader.

        Args:
            iterable: `iter` of it gives the batches of one epoch. An infinite one never ends its first.
        """
        self.loader = iterable
        """What the batches come from."""
        self._epochs = Epochs(iterable)
        self._recording = False
        # Drawn since the mark and passed; and drawn, then rewound over, and due again.
        self._behind: collections.deque[_Drawn[Batch]] = collections.deque()
        self._ahead: collections.deque[_Drawn[Batch]] = collections.deque()
        self._warned = False

    def mark(self) -> None:
        """Starts recording here, for `rewind`. What lies before is dropped."""
        self._behind.clear()
        self._recording = True

    def rewind(self) -> None:
        """Goes back to the mark, which stays.

        Raises:
            RuntimeError: nothing is marked.
        """
        if not self._recording:
            raise RuntimeError("batches: rewind() without mark()")
        self._ahead.extendleft(reversed(self._behind))
        self._behind.clear()

    def release(self) -> None:
        """Stops recording. What lies ahead is still replayed, and dropped as it is drawn."""
        self._behind.clear()
        self._recording = False

    def draw(self) -> Batch:
        """The next batch.

        Raises:
            ValueError: the loader gives no batch, or gives them only once.
        """
        if self._ahead:
            drawn = self._ahead.popleft()
            self._replay(drawn)
        elif self._recording:
            drawn = self._record()
        else:
            return self._epochs.draw()
        if self._recording:
            self._behind.append(drawn)
        return cast(Batch, _new_containers(drawn.batch))

    def state_dict(self) -> dict[str, Any]:
        """Where in the data this is, and the batches recorded."""
        return {
            "epochs": self._epochs.state_dict(),
            "recording": self._recording,
            "behind": [drawn.state_dict() for drawn in self._behind],
            "ahead": [drawn.state_dict() for drawn in self._ahead],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes to where another buffer was in the same data: see `Epochs.load_state_dict`.

        The global random state is left anyhow; the caller sets it.

        Raises:
            ValueError: the loader is of another kind, or has fewer batches than were drawn.
        """
        self._epochs.load_state_dict(state["epochs"])
        self._recording = state["recording"]
        self._behind = collections.deque(map(_Drawn.from_state_dict, state["behind"]))
        self._ahead = collections.deque(map(_Drawn.from_state_dict, state["ahead"]))

    def _record(self) -> _Drawn[Batch]:
        before = RandomState.capture()
        batch = self._epochs.draw()
        return _Drawn(batch, RandomState.capture().changed_since(before), _versions(batch))

    def _replay(self, drawn: _Drawn[Batch]) -> None:
        if drawn.random_state:
            drawn.random_state.restore()
        if not self._warned and _versions(drawn.batch) != drawn.versions:
            self._warned = True
            logger.warning(
                "batches: the training loop changes its batches in place; replayed ones are changed again, and "
                "training is not what it would be without probes. Work on a copy (x = x - mean, not x -= mean)."
            )


@dataclasses.dataclass(frozen=True, slots=True)
class _Drawn(Generic[Batch]):
    """A batch, the random states that drawing it changed, and the versions of its tensors then."""

    batch: Batch
    random_state: RandomState | None
    versions: list[int]

    def state_dict(self) -> dict[str, Any]:
        random_state = self.random_state.state_dict() if self.random_state else None
        return {"batch": self.batch, "random_state": random_state}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> _Drawn[Any]:
        random_state = state["random_state"]
        restored = None if random_state is None else RandomState.from_state_dict(random_state)
        return cls(state["batch"], restored, _versions(state["batch"]))


def _new_containers(batch: Any) -> Any:
    """The same leaves in new dicts, lists and tuples."""
    if isinstance(batch, dict | collections.UserDict):
        fresh = copy.copy(batch)  # Keeps the class; a tokenizer's is a UserDict.
        for key, value in batch.items():
            fresh[key] = _new_containers(value)
        return fresh
    if type(batch) in (list, tuple):
        return type(batch)(map(_new_containers, batch))
    if isinstance(batch, tuple) and hasattr(batch, "_make"):  # A namedtuple.
        return batch._make(map(_new_containers, batch))
    return batch


def _versions(batch: Any) -> list[int]:
    """The version counters of a batch's tensors; every change in place raises one."""
    torch = sys.modules.get("torch")
    if torch and isinstance(batch, torch.Tensor):
        return [] if batch.is_inference() else [batch._version]
    if isinstance(batch, dict | collections.UserDict):
        batch = batch.values()
    elif not isinstance(batch, list | tuple):
        return []
    return [version for child in batch for version in _versions(child)]
