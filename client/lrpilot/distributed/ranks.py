"""The processes that train one model together, as far as a tuner talks to them: it says little, and seldom."""

from __future__ import annotations

import atexit
import contextlib
import datetime
import logging
import os
import time
import traceback
import weakref
from collections.abc import Iterator, Sequence
from typing import Any, Self

import torch
import torch.distributed as dist
from torch.distributed.constants import default_pg_timeout

from lrpilot.distributed.tree import Combine, Tree

_PARTING, _BROADCAST, _FIRST_VALUES = -2, -1, 1 << 40
"""What ranks may meet for besides sums and maxima. The last one, and so many more, is for sums of what all have."""

_HEADER, _ROOM = 4, 60
"""The numbers of the message with which ranks meet: what they come for, and values; as many as a look at losses has."""

_NONE = torch.empty(0, dtype=torch.float64)

ROLL_CALL_S = 2.0
"""How long ranks that have lost one wait for one another, to know which it was."""
_LAUNCHED = "WORLD_SIZE"
"""Where a launcher, `torchrun` or one like it, tells how many processes it has started."""

log = logging.getLogger("lrpilot")


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
    calls = False
    """Whether this rank has something to say that the others may not know of; they hear that it has when they meet."""
    called = False
    """Whether a rank had something to say as they met last; the same on all."""

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
        self._n_met = 0
        self._name = ""
        self._tree: Tree | None = Tree(self._group)
        _open.add(self)
        # Under which ranks leave word: no other channel of theirs has it, though it may have the group's name.
        self._name = self.broadcast(os.urandom(8).hex().encode() if self.rank == 0 else b"").decode()

    @classmethod
    def of(cls, group: dist.ProcessGroup | None, patience_s: float) -> Self | None:
        """The ranks of a group, or of the default group if there is one; None if this process trains alone."""
        group = group or (dist.group.WORLD if dist.is_available() and dist.is_initialized() else None)
        return cls(group, patience_s) if group is not None and number_of(group) > 1 else None

    def broadcast(self, message: bytes = b"") -> bytes:
        """What rank 0 says; collective. The others' messages are ignored. Raises: RuntimeError: a rank has parted."""
        if self.parted:
            return message
        with self._watched() as tree:
            _, length = self._meet(tree, _BROADCAST, length=len(message) if self.rank == 0 else 0)
            content = torch.empty(length, dtype=torch.uint8)
            if self.rank == 0 and message:
                content = torch.frombuffer(bytearray(message), dtype=torch.uint8)
            if length:
                tree.tell(content)
        return content.numpy().tobytes()

    def mean(self, values: Sequence[float]) -> list[float]:
        """The mean of each value over the ranks, rounded to float32; collective, and the same on every rank.

        Sums of float32 values are exact in float64 as long as they are of like size, so the order of adding does not
        show.

        Raises:
            RuntimeError: a rank has parted.
        """
        means: list[float] = self._mean(torch.tensor(values, dtype=torch.float64)).float().tolist()
        return means

    def mean_of_first(self, values: Sequence[float]) -> list[float]:
        """The means of the first values, of as many as every rank has, or fewer; collective.

        Raises:
            RuntimeError: a rank has parted.
        """
        if self.parted:
            return list(values)
        own = torch.tensor(values[:_ROOM], dtype=torch.float64)
        with self._watched() as tree:
            common, _ = self._meet(tree, _FIRST_VALUES + len(own), own)
        means: list[float] = (common / self.size).float().tolist()
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
        largest: list[float] = self._all(torch.maximum, torch.tensor(values, dtype=torch.float64)).float().tolist()
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
        found: list[list[float]] = self._all(torch.add, gathered.flatten()).reshape(gathered.shape).float().tolist()
        return found

    def any(self, *conditions: bool) -> list[bool]:
        """Whether each of so many conditions holds on a rank; collective."""
        return [share > 0 for share in self.mean([float(condition) for condition in conditions])]

    def all_come(self, what: str, patience_s: float) -> bool:
        """Whether all ranks come here before they meet otherwise, and none has to wait longer; the same on all that do.

        Not collective: nobody waits for a rank that is somewhere else, and perhaps waits for this one.

        Args:
            what: what they come for.
            patience_s: how long a rank waits for the others, in seconds.
        """
        if self.parted or self._tree is None:
            return True
        store = self._store(f"{self._name}/{self._n_met}/{what}")
        try:
            n_here, deadline = store.add("here", 1), time.monotonic() + patience_s
            while n_here < self.size and time.monotonic() < deadline:
                time.sleep(0.01)
                n_here = store.add("here", 0)
            own = b"all" if n_here == self.size else b"some"
            return bytes(store.compare_set("who", "", own.decode())) == b"all"
        except RuntimeError:  # whoever keeps the store has gone, or it can't do this
            return True

    def _store(self, name: str) -> Any:
        """Where ranks of this channel leave word; all of the default group can write there."""
        whole = dist.distributed_c10d._get_default_store()  # a group tells nobody its own
        return dist.PrefixStore(f"lrpilot/{name}", whole)  # type: ignore[attr-defined]  # exported by a star

    def part(self) -> None:
        """Says that this rank can't go on, to whoever meets it next; collective with whatever the others do then."""
        if not self.parted:
            with contextlib.suppress(RuntimeError), self._watched() as tree:
                self._meet(tree, _PARTING)

    def _mean(self, values: torch.Tensor) -> torch.Tensor:
        return values if self.parted else self._all(torch.add, values) / self.size

    def _all(self, combine: Combine, values: torch.Tensor) -> torch.Tensor:
        """The values of all ranks, combined one by one; those of this rank where they have parted."""
        if self.parted:
            return values
        purpose = 2 * values.numel() + (combine is torch.maximum)
        with self._watched() as tree:
            first, _ = self._meet(tree, purpose, values[:_ROOM], combine)
            rest = values[_ROOM:].clone()
            if rest.numel():
                tree.bring_together(rest, combine)
        return torch.cat([first, rest])

    def _meet(
        self, tree: Tree, purpose: int, values: torch.Tensor = _NONE, combine: Combine = torch.add, length: int = 0
    ) -> tuple[torch.Tensor, int]:
        """Makes sure that all ranks come for the same thing, and combines a few values on the way.

        One message of one size does both, whatever ranks come for, so that those who are not in step find that out.

        Args:
            tree: the way between the ranks.
            purpose: an even number, twice how many values are added up; an odd one, one more, where the largest are
                looked for; one of `_BROADCAST` and `_PARTING`; or from `_FIRST_VALUES` on so many values more, which
                may be others on other ranks.
            values: at most `_ROOM`; as many on every rank, but for the first values.
            combine: how two ranks' values become one.
            length: a number of rank 0's, from 0 on; the others give 0.

        Returns:
            The values of all ranks, as many as each of them has, and rank 0's number.

        Raises:
            RuntimeError: a rank parts, or comes for another purpose, or one has gone without a word.
        """
        message = torch.zeros(_HEADER + _ROOM, dtype=torch.float64)
        message[:_HEADER] = torch.tensor([purpose, -purpose, length, self.calls])
        message[_HEADER : _HEADER + len(values)] = values
        tree.bring_together(message, lambda own, other: _combined(own, other, combine))
        self._n_met += 1
        highest, lowest, length, self.called = int(message[0]), -int(message[1]), int(message[2]), bool(message[3])
        fewest = lowest - _FIRST_VALUES
        if fewest < 0 and (highest != lowest or lowest == _PARTING):
            self.parted = True
            told = "the tuning has failed on a rank" if lowest == _PARTING else "the ranks are not in step any more"
            raise RuntimeError(told)
        return message[_HEADER : _HEADER + (len(values) if fewest < 0 else fewest)], length

    @contextlib.contextmanager
    def _watched(self) -> Iterator[Tree]:
        """Around what is collective. Raises: RuntimeError: a rank has gone without a word."""
        if self._tree is None:
            raise RuntimeError("the ranks' channel is closed")
        try:
            yield self._tree
        except RuntimeError as error:
            if self.parted:
                raise
            self.lost = True
            traceback.clear_frames(error.__traceback__)  # they hold the group, which is to be closed
            raise RuntimeError(f"{self._absent()}: {error}") from error

    def _absent(self) -> str:
        """Who does not come to a roll call, in words. Those that come have lost somebody too, or will at once."""
        self.close()
        try:
            store = self._store(f"{self._name}/roll call")
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
        _open.discard(self)
        group, self._group = self._group, None
        if self._tree is not None:
            self._tree.close()
        self._tree = None
        if group is not None and not self._whole:
            _parts.add(group)
        elif group is not None:
            _disconnect(group)


def _disconnect(group: dist.ProcessGroup) -> None:
    """Has PyTorch forget a group: it disconnects when nothing refers to that any more."""
    if dist.is_initialized():
        dist.destroy_process_group(group)


_open: weakref.WeakSet[Ranks] = weakref.WeakSet()
_parts: weakref.WeakSet[dist.ProcessGroup] = weakref.WeakSet()
"""The groups of channels that were closed, and stay open."""


@atexit.register
def _disconnect_all() -> None:
    """Ends the threads of all channels while Python still runs.

    A thread of gloo's lets go of a message's tensor some time after the message is through, for which it needs Python's
    lock. Python ends threads that ask for it too late, which C++ takes for a reason to abort the process (seen with
    PyTorch 2.13, at the exit of programs that had done their work).
    """
    for ranks in tuple(_open):
        with contextlib.suppress(ValueError):  # the program has destroyed all groups
            ranks.close()
    for part in tuple(_parts):
        with contextlib.suppress(ValueError):
            _disconnect(part)


def _forget_all() -> None:
    """Leaves channels to the parent, whose threads a process that was forked does not have."""
    _open.clear()
    _parts.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)


def number_of(group: dist.ProcessGroup | None) -> int:
    """How many ranks a group has, or the default group if there is one; 1: this process trains alone."""
    return dist.get_world_size(group) if dist.is_available() and dist.is_initialized() else 1


def say_if_alone() -> None:
    """Says so where this process was launched as one of several, and knows of no other one."""
    size = os.environ.get(_LAUNCHED, "")
    if size.isdecimal() and int(size) > 1 and not (dist.is_available() and dist.is_initialized()):
        log.warning(
            "lrpilot: this process was launched as one of %s (%s), but torch.distributed is not initialised: each of "
            "them trains by itself, and has a job of its own",
            size,
            _LAUNCHED,
        )


def _combined(own: torch.Tensor, other: torch.Tensor, combine: Combine) -> torch.Tensor:
    """Two ranks' messages in one."""
    headers = torch.maximum(own[:_HEADER], other[:_HEADER])
    return torch.cat([headers, combine(own[_HEADER:], other[_HEADER:])])


def _timeout(group: dist.ProcessGroup) -> datetime.timedelta:
    """How long ranks wait for one another in the group's own collectives."""
    try:
        timeout = max(group._get_backend(device).options._timeout for device in group._device_types)
        assert isinstance(timeout, datetime.timedelta)
    except (AttributeError, RuntimeError):  # a backend that doesn't tell
        return default_pg_timeout
    return timeout
