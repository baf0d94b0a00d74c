"""The stretches of memory that tensors and arrays occupy."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from typing import NamedTuple

ALIGNMENT = 64
"""Bytes of a cache line, and of the widest vector register: kernels look at addresses modulo this at most."""

_LOOSEST = 4
"""A copy keeps gaps between elements up to so many times the elements' own memory."""

_SMALL = 1 << 18
"""A copy of so many bytes keeps its gaps in any case."""


class Span(NamedTuple):
    """The memory from a tensor's first byte to its last, in a sequence of tensors."""

    place: int
    start: int
    stop: int
    device: Hashable


def clusters(spans: Sequence[Span]) -> Iterator[list[Span]]:
    """Those that overlap, together."""
    if len(spans) == 1:
        yield [spans[0]]
        return
    cluster: list[Span] = []
    stop = 0
    for span in sorted(spans, key=lambda span: (str(span.device), span.start)):
        if cluster and (span.device != cluster[0].device or span.start >= stop):
            yield cluster
            cluster = []
        stop = max(stop, span.stop) if cluster else span.stop
        cluster.append(span)
    if cluster:
        yield cluster


def is_compact(nbytes: int, itemsize: int, shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether elements that lie within so many bytes fill enough of them; repeated elements count once."""
    distinct = math.prod(n for n, stride in zip(shape, strides, strict=True) if stride)
    return nbytes <= max(_SMALL, _LOOSEST * distinct * itemsize)
