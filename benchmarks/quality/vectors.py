"""A model's parameters as one vector."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


def norm(tensors: Iterable[Tensor]) -> float:
    """The Euclidean norm of all elements."""
    return float(torch.stack([tensor.norm() for tensor in tensors]).norm())


def gradients(parameters: Sequence[Tensor]) -> list[Tensor]:
    """Each parameter's gradient; zeros where it has none."""
    return [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
