"""The processes that train one model together, as far as a tuner talks to them: it says little, and seldom."""

from __future__ import annotations

import contextlib
import datetime
import math
import time
from collections.abc import Iterator, Sequence
from typing import Self

import torch
import torch.distributed as dist
from torch.distributed.constants import default_pg_timeout

_PARTING, _BROADCAST = -2, -1
"""What ranks may meet for besides sums, of so many values."""

ROLL_CALL_S = 2.0
"""How long ranks that have lost one wait for one another, to know which it was."""


class Ranks:
    """A channel of its own between the ranks of a process group: gloo, on the CPU, whatever the group's backend.

    So a tuner's waiting is no collective of the group: NCCL's watchdog doesn't see it, and no device is synchronised.
    A rank that dies closes its connections, and whoever waits for it gets a RuntimeError at once, which names it; one
    that hangs is waited for as long as the group itself would, and the longest wait for a server. A rank whose tuning
    has failed says so (`part`), and whoever meets it gets one too. So do all where some come to say something else than
    the others: they are not in step any more. From then on each rank is told only what it says.
    """

    parted = False
    """Whether a rank has said that it can't go on with the tuning."""
    lost = False
    """Whether a rank has gone without a word: the training is at an end."""

    def __init__(self, group: dist.ProcessGroup, patience_s: float) -> None:
        """Opens the channel; collective.

        Args:
            group: all that train the model.
            patience_s: how much longer than the group itself a rank waits for another one.
        """
        self._whole = group is dist.group.WORLD
        self._group: dist.ProcessGroup | None = dist.new_group(
            None if self._whole else dist.get_process_group_ranks(group),
            timeout=_timeout(group) + datetime.timedelta(seconds=patience_s),
            backend="gloo",
            # Ranks outside a part of the world don't come here.
            use_local_synchronization=not self._whole,
        )
        self.rank = dist.get_rank(self._group)
        """The number of this process in the group, from 0."""
        self.size = dist.get_world_size(self._group)
        """How many there are."""
        self._first = dist.get_global_rank(self._group, 0)

    @classmethod
    def of(cls, group: dist.ProcessGroup | None, patience_s: float) -> Self | None:
        """The ranks of a group, or of the default group if there is one; None if this process trains alone."""
        group = group or (dist.group.WORLD if dist.is_available() and dist.is_initialized() else None)
        return cls(group, patience_s) if group is not None and number_of(group) > 1 else None

    def broadcast(self, message: bytes = b"") -> bytes:
        """What rank 0 says; collective. The others' messages are ignored. Raises: RuntimeError: a rank has parted."""
        if self.parted:
            return message
        with self._meeting(_BROADCAST):
            length = torch.tensor(len(message))
            dist.broadcast(length, self._first, self._group)
            content = torch.empty(int(length), dtype=torch.uint8)
            if self.rank == 0 and message:
                content = torch.frombuffer(bytearray(message), dtype=torch.uint8)
            dist.broadcast(content, self._first, self._group)
        return content.numpy().tobytes()

    def mean(self, values: Sequence[float]) -> list[float]:
        """The mean of each value over the ranks, rounded to float32; collective, and the same on every rank.

        Sums of float32 values are exact in float64 as long as they are of like size, so the order of adding, which is
        the backend's, does not show.

        Raises:
            RuntimeError: a rank has parted.
        """
        means: list[float] = self._mean(torch.tensor(values, dtype=torch.float64)).float().tolist()
        return means

    def quadratic_mean(self, values: Sequence[float]) -> list[float]:
        """The root of the mean square of each value over the ranks; a float32 that all ranks have stays as it is."""
        squares = torch.tensor(values, dtype=torch.float64).square()
        means: list[float] = self._mean(squares).sqrt().float().tolist()
        return means

    def maximum(self, values: Sequence[float]) -> list[float]:
        """The largest of each value over the ranks, rounded to float32; NaN where a rank has that. Collective.

        Raises:
            RuntimeError: a rank has parted.
        """
        own = torch.tensor(values, dtype=torch.float64)
        unknown = own.isnan()  # which a maximum may lose on the way
        both = torch.stack([own.masked_fill(unknown, -math.inf), unknown.double()])
        if not self.parted:
            with self._meeting(both.numel()):
                dist.all_reduce(both, dist.ReduceOp.MAX, group=self._group)
        largest: list[float] = both[0].masked_fill(both[1] > 0, math.nan).float().tolist()
        return largest

    def gather(self, values: Sequence[float]) -> list[list[float]]:
        """The values of every rank, in order, as many on each and rounded to float32; collective.

        Raises:
            RuntimeError: a rank has parted.
        """
        if self.parted:
            return [list(values)] * self.size
        gathered = torch.zeros(self.size, len(values), dtype=torch.float64)
        gathered[self.rank] = torch.tensor(values, dtype=torch.float64)
        found: list[list[float]] = self._sum(gathered).float().tolist()
        return found

    def _mean(self, values: torch.Tensor) -> torch.Tensor:
        return values if self.parted else self._sum(values) / self.size

    def _sum(self, values: torch.Tensor) -> torch.Tensor:
        with self._meeting(values.numel()):
            dist.all_reduce(values, group=self._group)
        return values

    def any(self, *conditions: bool) -> list[bool]:
        """Whether each of so many conditions holds on a rank; collective."""
        return [share > 0 for share in self.mean([float(condition) for condition in conditions])]

    def part(self) -> None:
        """Says that this rank can't go on, to whoever meets it next; collective with whatever the others do then."""
        if not self.parted:
            with contextlib.suppress(RuntimeError), self._meeting(_PARTING):
                pass

    @contextlib.contextmanager
    def _meeting(self, purpose: int) -> Iterator[None]:
        """Around what is collective.

        Args:
            purpose: how many values are added up, or one of `_BROADCAST` and `_PARTING`; the same on every rank.

        Raises:
            RuntimeError: a rank parts, or comes for another purpose, or one has gone without a word.
        """
        if self._group is None:
            raise RuntimeError("the ranks' channel is closed")
        extremes = torch.tensor([purpose, -purpose])
        try:
            dist.all_reduce(extremes, dist.ReduceOp.MAX, group=self._group)
            highest, lowest = int(extremes[0]), -int(extremes[1])
            if highest == lowest != _PARTING:
                yield
        except RuntimeError as error:
            self.lost = True
            raise RuntimeError(f"{self._absent()}: {error}") from error
        if highest != lowest or lowest == _PARTING:
            self.parted = True
            told = "the tuning has failed on a rank" if lowest == _PARTING else "the ranks are not in step any more"
            raise RuntimeError(told)

    def _absent(self) -> str:
        """Who does not come to a roll call, in words. Those that come have lost somebody too, or will at once."""
        self.close()
        try:
            whole = dist.distributed_c10d._get_default_store()  # a group tells nobody its own
            store = dist.PrefixStore(f"lrpilot/{self._first}", whole)  # type: ignore[attr-defined]  # exported by a star
            store.set(str(self.rank), "here")
            deadline = time.monotonic() + ROLL_CALL_S
            absent = set(range(self.size))
            while absent and time.monotonic() < deadline:
                absent -= {rank for rank in absent if store.check([str(rank)])}
                time.sleep(ROLL_CALL_S / 20)
        except RuntimeError:  # whoever keeps the store has gone, which without a launcher is rank 0
            return f"a rank has gone, to rank {self.rank} of {self.size}"
        if not absent:
            return f"ranks have lost one another, to rank {self.rank} of {self.size}"
        return f"rank {', '.join(map(str, sorted(absent)))} of {self.size} has gone, or hangs"

    def close(self) -> None:
        """Closes the channel, so that nobody waits for this rank. Not collective.

        That of a part of the world stays open as long as the process: PyTorch would give the next one its name, under
        which the addresses of this one are still in the store.
        """
        group, self._group = self._group, None
        if self._whole and group is not None and dist.is_initialized():
            dist.destroy_process_group(group)  # PyTorch disconnects when nothing refers to it any more.


def number_of(group: dist.ProcessGroup | None) -> int:
    """How many ranks a group has, or the default group if there is one; 1: this process trains alone."""
    return dist.get_world_size(group) if dist.is_available() and dist.is_initialized() else 1


def _timeout(group: dist.ProcessGroup) -> datetime.timedelta:
    """How long ranks wait for one another in the group's own collectives."""
    try:
        timeout = max(group._get_backend(device).options._timeout for device in group._device_types)
        assert isinstance(timeout, datetime.timedelta)
    except (AttributeError, RuntimeError):  # a backend that doesn't tell
        return default_pg_timeout
    return timeout
