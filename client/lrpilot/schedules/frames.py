"""The shapes that are put around another one: a cooldown after a plateau, a rise before it, a floor beneath it."""

from __future__ import annotations

from lrpilot.schedules.checks import at_least, between
from lrpilot.schedules.way import Way


class Frame(Way):
    """A way around another one, with parameters of its own before those of the other."""

    def __init__(self, own: tuple[float, ...], inner: Way) -> None:
        """Takes its own parameters, and the way that it is put around. Raises: ValueError: one is out of its range."""
        self._own, self._inner = own, inner
        self.words, self.moves = self.worded(inner), inner.moves
        self.check()

    def worded(self, inner: Way) -> str:
        """How the LR moves, from the words of the way within."""
        return inner.words

    def check(self) -> None:
        """Holds its own parameters to their ranges. Raises: ValueError."""

    @property
    def parameters(self) -> tuple[float, ...]:
        """Its own, then those of the way within."""
        return *self._own, *self._inner.parameters

    @property
    def turns(self) -> tuple[float, ...]:
        """Those of the way within."""
        return self._inner.turns

    def fault(self, start: float, end: float) -> str:
        """What is wrong with the way within."""
        return self._inner.fault(start, end)

    def has_numbers(self, start: float, end: float) -> bool:
        """Whether the way within has numbers."""
        return self._inner.has_numbers(start, end)


class Wsd(Frame):
    """The LR stays at `start`, and cools down along the way within over the last `share` of the steps.

    Warmup-stable-decay, without the warm-up: Hu et al. 2024 (MiniCPM), arXiv 2404.06395; Hägele et al. 2024, "Scaling
    laws and compute-optimal training beyond fixed training durations", arXiv 2405.18392.
    """

    defaults = (0.1,)

    def worded(self, inner: Way) -> str:
        """That there is a plateau before."""
        return f"{inner.words} after a plateau" if inner.moves else inner.words

    def check(self) -> None:
        """Holds the share to its range. Raises: ValueError."""
        between(self._own[0], 0.0, 1.0, "wsd: share")

    @property
    def turns(self) -> tuple[float, ...]:
        """The beginning of the cooldown, and the turns in it."""
        begin = self._begin
        return begin, *(begin + turn * (1 - begin) for turn in self._inner.turns)

    def lr(self, start: float, end: float, done: float) -> float:
        """The LR of the plateau or of the cooldown."""
        begin = self._begin
        if done < begin or not self._own[0]:
            return start
        return self._inner.lr(start, end, (done - begin) / (1 - begin) if begin < 1 else 1.0)

    @property
    def _begin(self) -> float:
        return 1 - self._own[0]


class Warmed(Frame):
    """The LR rises along a line over the first `share` of the steps from a part `low` of where the other begins."""

    defaults = (0.05, 0.0)

    def check(self) -> None:
        """Holds the share and the part to their ranges. Raises: ValueError."""
        at_least(self._own[0], 0.0, "warmed: share")
        if self._own[0] >= 1:
            raise ValueError(f"warmed: share {self._own[0]:g} is not below 1")
        between(self._own[1], 0.0, 1.0, "warmed: low")

    @property
    def turns(self) -> tuple[float, ...]:
        """The end of the rise, and the turns after it."""
        share = self._own[0]
        return share, *(share + turn * (1 - share) for turn in self._inner.turns)

    def lr(self, start: float, end: float, done: float) -> float:
        """The LR of the rise, or of the way within."""
        share, low = self._own
        if done < share:
            return self._inner.lr(start, end, 0.0) * (low + (1 - low) * done / share)
        return self._inner.lr(start, end, (done - share) / (1 - share))


class Floored(Frame):
    """The way within leads to a floor instead of `end`: to end + floor (start - end)."""

    defaults = (0.1,)

    def check(self) -> None:
        """Holds the floor to its range. Raises: ValueError."""
        between(self._own[0], 0.0, 1.0, "floored: floor")

    def lr(self, start: float, end: float, done: float) -> float:
        """The LR on the way to the floor."""
        return self._inner.lr(start, self._floor(start, end), done)

    def fault(self, start: float, end: float) -> str:
        """What is wrong with the way to the floor."""
        return self._inner.fault(start, self._floor(start, end))

    def has_numbers(self, start: float, end: float) -> bool:
        """Whether the way to the floor has numbers."""
        return self._inner.has_numbers(start, self._floor(start, end))

    def _floor(self, start: float, end: float) -> float:
        floor = self._own[0]
        return start * floor + end * (1 - floor)
