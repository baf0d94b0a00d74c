"""Where in the data a run is: directives move it back, a checkpoint takes it along."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lrpilot.data.replay import BatchBuffer
from lrpilot.rng import RandomState
from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.wire.messages.directives import committed


class DataPosition:
    """The place of a loop that draws its batches through the tuner; one that draws its own has none, and goes on."""

    def __init__(self) -> None:
        """Nowhere yet."""
        self._buffer: BatchBuffer[Any] | None = None
        self._marked = False
        self._resumed: Mapping[str, Any] | None = None

    def open(self, loader: Iterable[Any]) -> tuple[BatchBuffer[Any], bool]:
        """The stream of a loader, and whether it begins here: neither known already nor resumed from a checkpoint."""
        known = self._buffer is not None and self._buffer.loader is loader
        if self._buffer is None or not known:
            self._buffer = BatchBuffer(loader)
            if self._marked:  # an open probe goes back to here: what it drew was another loader's
                self._buffer.mark()
        if self._resumed is None:
            return self._buffer, not known
        self._buffer.load_state_dict(self._resumed["data"])
        RandomState.from_state_dict(self._resumed["random_state"]).restore()
        self._resumed = None
        return self._buffer, False

    @property
    def known(self) -> bool:
        """Whether batches are drawn through the tuner."""
        return self._buffer is not None

    def passed(self, epoch_length: int) -> int:
        """How many batches the run is past, over all epochs of `epoch_length` batches; 0 before the first one."""
        return 0 if self._buffer is None else self._buffer.passed(epoch_length)

    @property
    def batch_size(self) -> int | None:
        """The batch size that the loader tells of itself, as a `torch.utils.data.DataLoader` does; None: it doesn't."""
        size = None if self._buffer is None else getattr(self._buffer.loader, "batch_size", None)
        return size if isinstance(size, int) and size > 0 else None

    @property
    def roots(self) -> list[object]:
        """Parts of the loader that are rolled back with the model: see `LoaderState.roots`."""
        return [] if self._buffer is None else self._buffer.roots

    def leave(self) -> None:
        """Forgets the loader, which others draw from: its parts are put back to what they were."""
        if self._buffer is not None:
            self._buffer.undo()
        self._buffer, self._marked = None, False

    def follow(self, directive: pb.Directive) -> bool:
        """Goes to where a directive starts; whether that is where a search began, so that its batches are the same."""
        if self._buffer is None:
            return False
        replayed = directive.batches == pb.BATCH_SOURCE_REPLAYED
        if committed(directive):
            if directive.restore and self._marked:
                self._buffer.rewind()
            self._buffer.release()
            self._marked = False
        elif directive.snapshot and replayed:
            self._buffer.mark()
            self._marked = True
        elif replayed and self._marked:
            self._buffer.rewind()
        return replayed and self._marked and self._buffer.replays

    def state_dict(self) -> dict[str, Any]:
        """The position as plain values and tensors: the batches of an open search are in it."""
        return {"marked": self._marked, "data": self._buffer.state_dict() if self._buffer else None}

    @staticmethod
    def at_mark(state: Mapping[str, Any]) -> dict[str, Any]:
        """A state of an open search as it was when its present probe began."""
        data = state["data"]
        if data is None or not state["marked"]:
            return dict(state)
        return {"marked": True, "data": {**data, "behind": [], "ahead": [*data["behind"], *data["ahead"]]}}

    @staticmethod
    def rewound(state: Mapping[str, Any]) -> dict[str, Any]:
        """A state of an open search as it is once that is rolled back: what was drawn lies ahead."""
        if state["data"] is None or not state["marked"]:
            return dict(state)
        return {"marked": False, "data": {**DataPosition.at_mark(state)["data"], "recording": False}}

    def load_state_dict(self, state: Mapping[str, Any], random_state: Mapping[str, Any]) -> None:
        """Goes there when the next loader is opened. Finding the place moves the random state, which is then set."""
        self._marked = state["marked"]
        self._resumed = None if state["data"] is None else {"data": state["data"], "random_state": random_state}
