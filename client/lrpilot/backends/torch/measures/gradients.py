"""The gradients with which an optimizer is about to move its weights, as far as they lie in this process."""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

BELOW_SINGLE = (torch.float16, torch.bfloat16)
"""Types whose norms and products are taken in single precision."""


class Kind(NamedTuple):
    """What tensors have in common that are computed with in one call."""

    device: torch.device
    dtype: torch.dtype
    n_shards: int


class Gradients:
    """All gradients of an optimizer's parameters, by kind."""

    def __init__(self, optimizer: torch.optim.Optimizer, device: torch.device) -> None:
        """Reads nothing yet; `device`: where values are wanted."""
        self.optimizer = optimizer
        self.device = device

    @functools.cached_property
    def by_kind(self) -> dict[Kind, list[tuple[torch.Tensor, float]]]:
        """What lies in this process, real and dense, each with the eps that its group has; NaN: it has none.

        Raises:
            NotImplementedError: a gradient is not reduced over the ranks, or can't be told without waiting for it.
        """
        kinds: dict[Kind, list[tuple[torch.Tensor, float]]] = {}
        for group in self.optimizer.param_groups:
            eps = float(group["eps"]) if "eps" in group and "betas" in group else math.nan
            for parameter in group["params"]:
                if parameter.grad is not None:
                    part, n_shards = own_part(parameter.grad)
                    kind = Kind(part.device, part.dtype, n_shards)
                    kinds.setdefault(kind, []).append((_values(part), eps))
        return kinds

    @functools.cached_property
    def norms(self) -> dict[Kind, list[torch.Tensor]]:
        """The L2 norm of each, scaled as it is."""
        return {kind: self._norms(kind, 2) for kind in self.by_kind}

    def l1_norms(self) -> dict[Kind, list[torch.Tensor]]:
        """The L1 norm of each, scaled as it is."""
        return {kind: self._norms(kind, 1) for kind in self.by_kind}

    def here(self, values: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Scalars, where they are wanted."""
        return [value.to(self.device, non_blocking=True) for value in values]

    def unscaled(self, value: torch.Tensor) -> torch.Tensor:
        """What is proportional to gradients, without the factor that a fused optimizer's still have."""
        scale = getattr(self.optimizer, "grad_scale", None)
        return value if scale is None else value / scale.to(self.device, non_blocking=True)

    def _norms(self, kind: Kind, order: int) -> list[torch.Tensor]:
        single = torch.float32 if kind.dtype in BELOW_SINGLE else None
        return list(torch._foreach_norm([each for each, _ in self.by_kind[kind]], order, dtype=single))


def parameters_of(optimizer: torch.optim.Optimizer) -> Iterator[torch.Tensor]:
    """All that an optimizer moves."""
    return (parameter for group in optimizer.param_groups for parameter in group["params"])


def own_part(tensor: torch.Tensor) -> tuple[torch.Tensor, int]:
    """What of a tensor lies in this process, as real numbers, and of how many shards it is one.

    A rank takes what the whole would have if all shards were like its own, without communication. The means of that
    over the ranks (`lrpilot.backends.measures`) are those of the whole.

    Raises:
        NotImplementedError: it is not reduced over the ranks yet.
    """
    n_shards = 1
    distributed = sys.modules.get("torch.distributed.tensor")
    if distributed is not None and isinstance(tensor, distributed.DTensor):
        if any(placement.is_partial() for placement in tensor.placements):
            raise NotImplementedError("a tensor is not reduced over the ranks yet")
        sizes = zip(tensor.device_mesh.shape, tensor.placements, strict=True)
        n_shards = math.prod(size for size, placement in sizes if placement.is_shard())
        tensor = tensor.to_local()
    return (torch.view_as_real(tensor) if tensor.is_complex() and not tensor.is_sparse else tensor), n_shards


def _values(gradient: torch.Tensor) -> torch.Tensor:
    """The values of a gradient, which may be sparse.

    Raises:
        NotImplementedError: what they are can't be told without waiting for the device.
    """
    if not gradient.is_sparse:
        return gradient
    if gradient.device.type != "cpu" and not gradient.is_coalesced():
        raise NotImplementedError("a gradient is sparse, and has no norm before it is coalesced")
    values = gradient.coalesce().values()
    return torch.view_as_real(values) if values.is_complex() else values
