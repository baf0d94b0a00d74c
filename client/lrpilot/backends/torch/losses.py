"""Losses of a directive, kept on their device until it is over.

A loss is stored as float32, whatever PyTorch's default is, since that is what goes over the wire, and
`lrpilot.wire.divergence` decides by that value.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Iterable, Sequence
from typing import SupportsFloat

import torch

from lrpilot.arguments import loss_number
from lrpilot.backends.torch.asynchronous import Mark, empty_on_host, mark, runs_ahead
from lrpilot.wire.divergence import DivergenceWatch

_HOST = torch.device("cpu")
SPARE = 64
"""Losses beyond those of a directive that find room: an interrupt between a loss and its count leaves one more."""
PLACES = 64
"""Places of losses that are made at once."""
AHEAD = 4
"""Steps that the host may be ahead of a device that works on its own: a look answers for what was seen so long ago."""
SKIPPED: float = torch.finfo(torch.float32).min
"""Stands in place of a loss whose update a fused optimizer has skipped on the device: no divergence is seen in it."""


class LossBuffer:
    """Collects the losses of steps with no device synchronisation and no allocation that grows.

    `begin` a directive, `append` the loss of every step, `check` every now and then at steps that depend on nothing but
    the directive, `flush` at the end.
    """

    def __init__(self) -> None:
        self._room = 0
        self._earlier: list[float] = []
        self._limit = math.inf
        self._memory = torch.empty(0, dtype=torch.float32, device=_HOST)
        # The part of the memory that this directive may fill, and places in it.
        self._losses = self._memory
        self._places: Sequence[torch.Tensor] = ()
        self._first_place = 0
        self._n_losses = 0
        self._may_have_skipped = False
        # Where looks bring the losses to, how many are on their way or there, and where in the device's work they come.
        self._host = self._memory
        self._n_sent = 0
        self._arrivals: collections.deque[tuple[int, Mark]] = collections.deque()
        # How many looks have brought, and what was seen in them. They stay where they are: as objects they would take
        # ten times the room.
        self._n_settled = 0
        self._watch = DivergenceWatch()
        self._diverged = False

    def begin(self, n_steps: int, limit: float = math.inf, earlier: Iterable[float] = ()) -> None:
        """Starts anew.

        Args:
            n_steps: how many losses fit between two calls of `flush`.
            limit: losses above it diverge (`lrpilot.wire.divergence`).
            earlier: losses that come before, of a run that is resumed; they show no divergence.
        """
        self._room = n_steps + SPARE
        self._limit = limit
        self._forget(earlier)

    @property
    def device(self) -> torch.device:
        """Where the losses of this directive are."""
        return self._memory.device

    def append(self, loss: torch.Tensor | SupportsFloat, overflow: torch.Tensor | None = None) -> None:
        """Adds the loss of a step: a tensor of one element on any device, or a number.

        Args:
            loss: the loss.
            overflow: a flag on a device; if it is not zero the update was skipped, and the loss does not count.

        Raises:
            ValueError: it is not one number.
            IndexError: there are far more losses than `begin` made room for.
        """
        if not isinstance(loss, torch.Tensor):
            loss = torch.tensor(loss_number(loss), dtype=torch.float64, device=_HOST)
        if loss.dim():
            if loss.numel() != 1:
                shape = tuple(loss.shape)
                raise ValueError(f"loss: shape {shape} is not a scalar; pass loss.mean()")
            loss = loss.reshape(())
        if loss.is_complex():
            raise ValueError("loss: a complex number is no loss; pass its real part, or loss.abs()")
        if self._n_losses == 0:
            self._reserve(loss.device)
        # Without its history it can be copied in whatever mode the loop is in: to enter another takes longer than that.
        n = self._n_losses - self._first_place
        place = self._places[n] if 0 <= n < len(self._places) else self._new_places()
        place.copy_(loss.detach() if loss.requires_grad else loss)
        if overflow is not None:
            self._may_have_skipped = True
            place.masked_fill_(overflow.to(place.device, non_blocking=True).reshape(()) != 0, SKIPPED)
        self._n_losses += 1

    def check(self) -> bool:
        """Whether a divergence has been seen since `begin` or `flush`, in the losses that are `settled`."""
        self._look()
        return self._diverged

    def settled(self) -> list[float]:
        """The losses that can be had without waiting for the last steps, as `peek` gives them.

        On a device that works on its own they are those up to the last look after which `AHEAD` losses or more have
        come: a look starts their copy to pinned memory, and a later one waits for it, by when they have long been
        there. So which they are depends on steps and looks alone, and not on how fast anything is. Elsewhere they are
        all losses.
        """
        self._look()
        return self._told(self._host[: self._n_settled].tolist())

    def forget_skipped(self) -> list[int]:
        """Takes those losses out whose updates were skipped on the device; which they were. Synchronises once."""
        if not self._may_have_skipped:
            return []
        losses: list[float] = self._losses[: self._n_losses].tolist()
        self._may_have_skipped = False
        kept = [loss for loss in losses if loss != SKIPPED]
        if len(kept) < len(losses):
            self._n_losses = len(kept)
            self._losses[: len(kept)] = torch.tensor(kept, dtype=torch.float32, device=_HOST)
            self._begin_looks()
        return [len(self._earlier) + i for i, loss in enumerate(losses) if loss == SKIPPED]

    def flush(self) -> list[float]:
        """The losses since `begin` or the last flush, oldest first; they are forgotten. Synchronises once."""
        losses = self.peek()
        self._forget()
        return losses

    def peek(self) -> list[float]:
        """The losses since `begin` or the last flush, oldest first. Synchronises once.

        Where an update was skipped, and not forgotten yet, the loss before it is told again.
        """
        return self._told(self._losses[: self._n_losses].tolist())

    def _told(self, losses: Iterable[float]) -> list[float]:
        """These losses, behind the earlier ones."""
        told = self._earlier.copy()
        for loss in losses:
            told.append(told[-1] if self._may_have_skipped and loss == SKIPPED and told else loss)
        return told

    def _look(self) -> None:
        """Looks at the losses that have arrived, and has those on a device that are new sent after them."""
        ahead = runs_ahead(self.device)
        n_arrived = self._n_settled if ahead else self._n_losses
        while self._arrivals and self._n_losses - self._arrivals[0][0] >= AHEAD:
            n_arrived, arrival = self._arrivals.popleft()
            arrival.synchronize()
        for loss in self._host[self._n_settled : n_arrived].tolist():
            self._diverged |= self._watch.sees(loss)
        self._n_settled = n_arrived
        if ahead and self._n_sent < self._n_losses:
            new = slice(self._n_sent, self._n_losses)
            self._host[new].copy_(self._losses[new], non_blocking=True)
            # The stream of the losses' device, which need not be the current one.
            self._arrivals.append((self._n_losses, mark(self.device)))
            self._n_sent = self._n_losses

    def _forget(self, earlier: Iterable[float] = ()) -> None:
        self._earlier = list(earlier)
        self._n_losses = 0
        self._diverged = False
        self._may_have_skipped = False
        self._begin_looks()

    def _begin_looks(self) -> None:
        """Nothing has been looked at but the earlier losses."""
        self._n_sent = 0
        self._arrivals.clear()
        self._n_settled = 0
        self._watch = DivergenceWatch(self._limit)
        for loss in self._earlier:
            self._watch.sees(loss)

    def _new_places(self) -> torch.Tensor:
        """Where the next loss goes. Some more places are made beside it, which takes a tenth of one at every step."""
        self._places = self._losses[self._n_losses : self._n_losses + PLACES].unbind()
        self._first_place = self._n_losses
        return self._places[0]

    @torch.inference_mode(False)
    @torch.no_grad()
    def _reserve(self, device: torch.device) -> None:
        """Room on a device, used again as long as it suffices."""
        if self._memory.device != device or len(self._memory) < self._room:
            self._memory = torch.empty(self._room, dtype=torch.float32, device=device)
            ahead = runs_ahead(device)
            self._host = empty_on_host(self._room, torch.float32, device) if ahead else self._memory
        self._losses = self._memory[: self._room]
        self._places = ()
