"""The way that values take from all ranks to rank 0 and back: a tree, along which a rank waits for few messages."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist

Combine = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""How what two ranks have becomes one."""


class Tree:
    """A binomial tree over a group: from 512 ranks, values come to rank 0 by 9 messages one after another.

    The sums of gloo go round a ring, by two messages one after another for each rank, however short they are.
    """

    def __init__(self, group: dist.ProcessGroup) -> None:
        """Sends nothing yet."""
        self._group: dist.ProcessGroup | None = group
        rank, size = dist.get_rank(group), dist.get_world_size(group)
        self._root = dist.get_global_rank(group, 0)
        self._parent = dist.get_global_rank(group, parent(rank)) if rank else None
        self._children = [dist.get_global_rank(group, child) for child in children(rank, size)]

    def bring_together(self, values: torch.Tensor, combine: Combine) -> None:
        """Puts what all ranks have into the tensor of each, which has the same size on all; collective.

        Every rank is left with the bits of rank 0.

        Raises:
            RuntimeError: a rank has gone.
        """
        other = torch.empty_like(values)
        for child in self._children:
            dist.recv(other, child, self._group)
            values.copy_(combine(values, other))
        if self._parent is not None:
            dist.send(values, self._parent, self._group)
        self.tell(values)

    def tell(self, values: torch.Tensor) -> None:
        """Puts what rank 0 has into the tensor of each; collective. Raises: RuntimeError: a rank has gone."""
        dist.broadcast(values, self._root, self._group)

    def close(self) -> None:
        """Lets go of the group, whoever still holds the tree."""
        self._group = None


def parent(rank: int) -> int:
    """Whom a rank other than 0 tells: the one without its lowest bit."""
    return rank & (rank - 1)


def children(rank: int, size: int) -> list[int]:
    """Who tells a rank, in the order in which they are likely to be ready."""
    bits = (1 << i for i in range(size.bit_length()))
    return [rank + bit for bit in bits if bit < (rank & -rank or size) and rank + bit < size]
