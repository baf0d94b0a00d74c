"""LRs that are tensors, which are filled in place: a compiled step reads them and is not compiled again.

An operator of PyTorch takes microseconds, whatever it does. So many LRs on a device are filled by two kernels, and LRs
in memory of the host are written there directly.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any

import torch

_C_TYPES: dict[torch.dtype, Any] = {torch.float32: ctypes.c_float, torch.float64: ctypes.c_double}
"""Types that C rounds to as PyTorch does."""


class LrTensors:
    """Fills tensors with LRs, again and again the same ones."""

    def __init__(self) -> None:
        self._places: dict[int, tuple[torch.Tensor, int, Any]] = {}
        """By identity: a tensor of the host's, the address where its value was, and a number of C's there."""

    def fill(self, lrs: Mapping[int, tuple[torch.Tensor, float]]) -> None:
        """Gives different tensors, named by their identity, an LR each."""
        places, written, others = self._places, [], []
        for key, (tensor, lr) in lrs.items():
            known = places.get(key)
            if known is None or known[0] is not tensor or known[1] != tensor.data_ptr():
                known = self._found(key, tensor)
            if known is None:
                others.append((tensor, lr))
            else:
                known[2].value = lr
                written.append(tensor)
        if written:
            torch.autograd.graph.increment_version(written)
        if others:
            fill(*zip(*others, strict=True))

    def _found(self, key: int, tensor: torch.Tensor) -> tuple[torch.Tensor, int, Any] | None:
        """Where a tensor's value is, if it can be written there; it is looked up once."""
        self._places.pop(key, None)
        kind = _C_TYPES.get(tensor.dtype)
        plain = type(tensor) is torch.Tensor and tensor.layout is torch.strided and tensor.numel() == 1
        if kind is None or not plain or tensor.device.type != "cpu" or tensor.is_inference() or tensor.is_neg():
            return None
        address = tensor.data_ptr()
        if not address or tensor.requires_grad:
            return None
        self._places[key] = tensor, address, kind.from_address(address)
        return self._places[key]


@torch.no_grad()
def fill(tensors: Sequence[torch.Tensor], numbers: Sequence[float]) -> None:
    """Fills different tensors with a number each, those of a device and type together; on a CPU that is slower."""
    kinds: dict[tuple[torch.device, torch.dtype], tuple[list[torch.Tensor], list[float]]] = {}
    for tensor, number in zip(tensors, numbers, strict=True):
        if tensor.device.type == "cpu":
            tensor.fill_(number)
            continue
        of_tensors, of_numbers = kinds.setdefault((tensor.device, tensor.dtype), ([], []))
        of_tensors.append(tensor)
        of_numbers.append(number)
    for each in kinds.values():
        fill_together(*each)


@torch.no_grad()
def fill_together(tensors: list[torch.Tensor], numbers: list[float]) -> None:
    """Fills different tensors of one device and type with a number each, in two kernels.

    What is added to zero is rounded as what a tensor is filled with.
    """
    torch._foreach_zero_(tensors)
    torch._foreach_add_(tensors, numbers)
