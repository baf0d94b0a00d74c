"""Losses of a directive, kept on their device until it is over.

A loss is stored as float32, whatever PyTorch's default is, since that is what goes over the wire. The watch on the
device and `lrpilot.wire.divergence` on the host both decide by the float32 value, and alike.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Iterable, Sequence
from typing import SupportsFloat

import torch

from lrpilot.arguments import loss_number
from lrpilot.backends.torch.asynchronous import Mark, empty_on_host, mark, runs_ahead
from lrpilot.wire.divergence import BAD_LOSSES

_HOST = torch.device("cpu")
SPARE = 64
"""Losses beyond those of a directive that find room: an interrupt between a loss and its count leaves one more."""
PLACES = 64
"""Places of losses that are made at once."""
AHEAD = 4
"""Steps that the host may be ahead of a device that works on its own: a look answers for what was seen so long ago."""
HARMLESS = torch.finfo(torch.float32).min
"""Stands in place of a loss whose update a fused optimizer has skipped on the device: no divergence is seen in it."""
_BEFORE = BAD_LOSSES - 1
"""Losses before those that are looked at which may belong to a row above the limit."""


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
        # The memory begins with the last `_BEFORE` earlier losses. Then comes the part that this directive may fill; of
        # it, so many are filled and so many have been checked.
        self._losses = self._memory
        self._places: Sequence[torch.Tensor] = ()
        self._first_place = 0
        self._n_losses = 0
        self._n_checked = 0
        self._diverged = False
        # Answers on their way to the host: the losses they are about, and where in the device's work they arrive.
        self._flags = torch.empty(0, dtype=torch.bool, device=_HOST)
        self._looks = 0
        # Which updates were skipped on the device; of no meaning until one may have been.
        self._skipped = torch.empty(0, dtype=torch.bool, device=_HOST)
        self._may_have_skipped = False
        self._arrivals: collections.deque[tuple[int, torch.Tensor, Mark]] = collections.deque()

    def begin(self, n_steps: int, limit: float = math.inf, earlier: Iterable[float] = ()) -> None:
        """Starts anew.

        Args:
            n_steps: how many losses fit between two calls of `flush`.
            limit: losses above it diverge (`lrpilot.wire.divergence`).
            earlier: losses that come before, of a run that is resumed; they show no divergence.
        """
        self._room = n_steps + SPARE
        self._limit = _float32_at_most(limit)
        self._forget()
        self._earlier = list(earlier)

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
        place = self._place()
        place.copy_(loss.detach() if loss.requires_grad else loss)
        if overflow is not None:
            self._append_overflow(place, overflow)
        self._n_losses += 1

    @torch.no_grad()
    def _append_overflow(self, place: torch.Tensor, overflow: torch.Tensor) -> None:
        """Has the loss at a place count only if a flag on a device is zero."""
        if not self._may_have_skipped:
            self._skipped.zero_()
            self._may_have_skipped = True
        flag = self._skipped[self._n_losses]
        flag.copy_(overflow.to(place.device, non_blocking=True).reshape(()) != 0)
        place.masked_fill_(flag, HARMLESS)

    @torch.no_grad()
    def check(self) -> bool:
        """Whether a divergence has been seen since `begin` or `flush`.

        On a device that works on its own the answer is that of the last look after which `AHEAD` losses or more have
        come: a look starts the copy of a flag to pinned memory, and a later one waits for it, by when it has long been
        there. So it depends on the losses alone, and not on how fast anything is. Elsewhere it holds for all losses.
        """
        while self._arrivals and self._n_losses - self._arrivals[0][0] >= AHEAD:
            _, flag, arrival = self._arrivals.popleft()
            arrival.synchronize()
            self._diverged |= bool(flag)
        if self._diverged or self._n_checked == self._n_losses:
            return self._diverged
        seen = self._memory[self._n_checked : _BEFORE + self._n_losses]
        unseen = seen[_BEFORE:]
        self._n_checked = self._n_losses
        rows_above = (seen > self._limit).unfold(0, BAD_LOSSES, 1).all(dim=1)
        divergent = (~unseen.isfinite() | rows_above).any()
        if runs_ahead(unseen.device):
            flag = self._flags[self._looks % len(self._flags)]
            flag.copy_(divergent, non_blocking=True)
            # The stream of the loss's device, which need not be the current one.
            self._arrivals.append((self._n_losses, flag, mark(unseen.device)))
            self._looks += 1
        else:
            self._diverged = bool(divergent)
        return self._diverged

    @torch.no_grad()
    def forget_skipped(self) -> list[int]:
        """Takes those losses out whose updates were skipped on the device; which they were. Synchronises once."""
        if not self._may_have_skipped:
            return []
        flags = self._skipped_updates()
        self._may_have_skipped = False
        skipped = [i for i, flag in enumerate(flags) if flag]
        if skipped:
            losses: list[float] = self._losses[: self._n_losses].tolist()
            kept = [loss for loss, flag in zip(losses, flags, strict=True) if not flag]
            self._n_losses = len(kept)
            self._n_checked = min(self._n_checked, self._n_losses)
            self._losses[: len(kept)] = torch.tensor(kept, dtype=torch.float32, device=_HOST)
            self._arrivals.clear()
        return [len(self._earlier) + i for i in skipped]

    def flush(self) -> list[float]:
        """The losses since `begin` or the last flush, oldest first; they are forgotten. Synchronises once."""
        losses = self.peek()
        self._forget()
        return losses

    def peek(self) -> list[float]:
        """The losses since `begin` or the last flush, oldest first. Synchronises once.

        Where an update was skipped, and not forgotten yet, the loss before it is told again.
        """
        losses = self._earlier.copy()
        for loss, skipped in zip(self._losses[: self._n_losses].tolist(), self._skipped_updates(), strict=True):
            losses.append(losses[-1] if skipped and losses else loss)
        return losses

    def _skipped_updates(self) -> list[bool]:
        """Whether the update of each loss since `begin` or the last flush was skipped on the device."""
        if not self._may_have_skipped:
            return [False] * self._n_losses
        flags: list[bool] = self._skipped[: self._n_losses].tolist()
        return flags

    def _forget(self) -> None:
        self._earlier = []
        self._n_losses = 0
        self._n_checked = 0
        self._diverged = False
        self._may_have_skipped = False
        self._arrivals.clear()

    def _place(self) -> torch.Tensor:
        """Where the next loss goes. Places are made some at once, which takes a tenth of one at every step."""
        n = self._n_losses - self._first_place
        if not 0 <= n < len(self._places):
            self._places = self._losses[self._n_losses : self._n_losses + PLACES].unbind()
            self._first_place, n = self._n_losses, 0
        return self._places[n]

    @torch.inference_mode(False)
    @torch.no_grad()
    def _reserve(self, device: torch.device) -> None:
        """Room on a device, used again as long as it suffices."""
        size = _BEFORE + self._room
        if self._memory.device != device or len(self._memory) < size:
            self._memory = torch.empty(size, dtype=torch.float32, device=device)
            self._skipped = torch.empty(size, dtype=torch.bool, device=device)
            self._flags = empty_on_host(AHEAD + 1, torch.bool, device)
        self._losses = self._memory[_BEFORE:size]
        before = self._earlier[-_BEFORE:]
        for i, loss in enumerate([-math.inf] * (_BEFORE - len(before)) + before):
            self._memory[i] = loss
        self._places = ()


def _float32_at_most(limit: float) -> float:
    """The largest float32 that is not above the limit.

    Devices round a limit to float32 before they compare. This one is rounded already, and no float32 loss lies between
    it and the limit.
    """
    rounded = torch.tensor(limit, dtype=torch.float32, device=_HOST)
    if rounded.item() > limit:
        rounded = torch.nextafter(rounded, torch.full_like(rounded, -math.inf))
    return rounded.item()
