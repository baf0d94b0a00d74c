"""A stream of batches that can go back.

Drawing a batch may use random state: a shuffling loader draws a seed at the start of an epoch, augmentation in the main
process draws all the time. It may change the loader's parts too: a generator of a sampler's own, a counter. A replayed
batch is not drawn again, so what its draw left behind is recorded with it and set instead. Whatever the model draws in
between is then what it would have been.
"""

from __future__ import annotations

import collections
import dataclasses
import logging
from collections.abc import Iterable, Mapping
from typing import Any, Generic, TypeVar

from lrpilot.data.epochs import Epochs
from lrpilot.data.loader_state import Moment
from lrpilot.objects.batch_copy import BatchCopier, BatchCopy
from lrpilot.rng import RandomState

logger = logging.getLogger(__name__)

Batch = TypeVar("Batch")


class BatchBuffer(Generic[Batch]):
    """Draws from a loader across epochs, and can replay what it has drawn since a mark.

    While it records, it keeps a copy of every batch, taken as the batch is drawn, and hands out copies of that when it
    replays. So the loop may change its batches, and the loader may use their memory again. Nothing is copied otherwise.
    """

    def __init__(self, iterable: Iterable[Batch]) -> None:
        """Makes an endless stream of a loader.

        Args:
            iterable: `iter` of it gives the batches of one epoch. An infinite one never ends its first.
        """
        self.loader = iterable
        """What the batches come from."""
        self._epochs = Epochs(iterable)
        self._copier = BatchCopier(self._epochs.shared)
        self._recording = False
        self.replays = True
        """Whether batches can be had again; not those that a loader computes with what is trained."""
        self._marked: Moment | Mapping[str, Any] | None = None
        # Drawn since the mark and passed; and drawn, then rewound over, and due again.
        self._behind: collections.deque[_Drawn[Batch]] = collections.deque()
        self._ahead: collections.deque[_Drawn[Batch]] = collections.deque()

    def mark(self) -> None:
        """Starts recording here, for `rewind`. What lies before is dropped."""
        self._behind.clear()
        self._recording = self.replays
        self._marked = self._epochs.own.capture()

    def rewind(self) -> None:
        """Goes back to the mark, which stays.

        Raises:
            RuntimeError: nothing is marked.
        """
        if not self.replays:
            return
        if not self._recording:
            raise RuntimeError("batches: rewind() without mark()")
        if self._marked is not None:
            # What the loop changed goes back, and what draws changed is set again as they are replayed.
            self._epochs.own.apply(self._marked, own_state=self._epochs.keeps_state)
        self._ahead.extendleft(reversed(self._behind))
        self._behind.clear()

    def release(self) -> None:
        """Stops recording. What lies ahead is still replayed, and dropped as it is drawn."""
        self._behind.clear()
        self._recording = False
        self._marked = None

    def passed(self, epoch_length: int) -> int:
        """How many batches lie behind, over all epochs of `epoch_length` batches; those that are due again do not."""
        return self._epochs.drawn(epoch_length) - len(self._ahead)

    @property
    def roots(self) -> list[object]:
        """The loader's samplers, to be rolled back with the model: see `LoaderState.roots`."""
        return self._epochs.own.roots

    def draw(self) -> Batch:
        """The next batch.

        Raises:
            ValueError: the loader gives no batch, or gives them only once.
        """
        if self._ahead:
            return self._replay(self._ahead.popleft())
        if self._recording:
            return self._record()
        return self._epochs.draw()

    def undo(self) -> None:
        """Sets the loader's parts to what they were before the first draw, for one who draws from them by himself."""
        self._epochs.own.undo()

    def state_dict(self) -> dict[str, Any]:
        """Where in the data this is, and the batches recorded."""
        own, marked = self._epochs.own, self._marked
        now = own.capture_all()
        # The loader is past all that is recorded, and its parts must be too when it is asked for its state.
        for drawn in self._ahead:
            own.apply(drawn.own, own_state=self._epochs.keeps_state)
        epochs = self._epochs.state_dict()
        if self._ahead and not own.has_thread:
            now.restore()
        return {
            "epochs": epochs,
            "own": own.of_another_process(now).state_dict() if self._ahead else None,
            "recording": self._recording,
            "marked": own.of_another_process(marked, now).state_dict() if isinstance(marked, Moment) else marked,
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
        if state["own"] is not None:
            self._epochs.own.apply(state["own"], own_state=self._epochs.keeps_state)
        self._recording, self._marked = state["recording"], state["marked"]
        self._behind = collections.deque(self._drawn_from(each) for each in state["behind"])
        self._ahead = collections.deque(self._drawn_from(each) for each in state["ahead"])

    def _record(self) -> Batch:
        before = RandomState.capture()
        batch, own = self._epochs.draw_recorded()
        random_state = RandomState.capture().changed_since(before)
        # At once: the loop may change the batch, and the loader use its memory again.
        self._behind.append(_Drawn(self._copier.take(batch), random_state, own))
        if self._copier.saw_history:
            self._go_on_in_the_data()
        return batch

    def _go_on_in_the_data(self) -> None:
        """Replays nothing any more."""
        self.replays = self._recording = False
        self._behind.clear()
        logger.warning(
            "batches: the loader yields tensors that it computed with what is trained, so batches can't be replayed, "
            "and every probe gets others; compute them in the training loop"
        )

    def _replay(self, drawn: _Drawn[Batch]) -> Batch:
        if self._recording:
            self._behind.append(drawn)
            batch = drawn.copy.fresh()
        else:
            batch = drawn.copy.uncopied()
        if drawn.random_state:
            drawn.random_state.restore()
        if drawn.own:
            self._epochs.own.apply(drawn.own, own_state=self._epochs.keeps_state)
        return batch

    def _drawn_from(self, state: Mapping[str, Any]) -> _Drawn[Batch]:
        random_state = state["random_state"]
        restored = None if random_state is None else RandomState.from_state_dict(random_state)
        return _Drawn(self._copier.take(state["batch"]), restored, state["own"])


@dataclasses.dataclass(frozen=True, slots=True)
class _Drawn(Generic[Batch]):
    """A copy of a batch, and what drawing it changed: random states, and the state of the loader's parts."""

    copy: BatchCopy[Batch]
    random_state: RandomState | None
    own: Moment | Mapping[str, Any]
    """The loader's state as a checkpoint has it, if it comes from one."""

    def state_dict(self) -> dict[str, Any]:
        random_state = self.random_state.state_dict() if self.random_state else None
        own = self.own.state_dict() if isinstance(self.own, Moment) else self.own
        return {"batch": self.copy.uncopied(), "random_state": random_state, "own": own}
