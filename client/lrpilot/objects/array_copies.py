"""Copies of NumPy's arrays that compute what the originals compute, to the last bit.

As `tensor_copies`: strides and alignment are kept, shared memory stays shared, and a view is copied without the rest.
Whether an array could be written to is not: a copy can, also that of a file's mapping.

Imported when the first array is met: the client works without NumPy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lrpilot.objects.spans import ALIGNMENT, Span, clusters, is_compact

Array = np.ndarray[Any, np.dtype[Any]]

_FLAT_KINDS = "biufcmMSUV"
"""Kinds of dtypes whose elements are nothing but their bytes."""


def copied(arrays: Sequence[Array]) -> list[Array]:
    """A copy of each of some different arrays, made together. They are plain arrays, also of a subclass's instances."""
    copies: list[Any] = [None] * len(arrays)
    spans = []
    for place, array in enumerate(arrays):
        if span := _span(array, place):
            spans.append(span)
        else:
            copies[place] = np.array(array, copy=True, order="K", subok=False)
    for cluster in clusters(spans):
        start, stop = min(span.start for span in cluster), max(span.stop for span in cluster)
        block = np.empty(stop - start + ALIGNMENT, np.uint8)
        first = (start - _address(block)) % ALIGNMENT
        for span in cluster:
            array = arrays[span.place]
            offset = first + _address(array) - start
            copy = np.ndarray(array.shape, array.dtype, block, offset, array.strides)
            copy[...] = array
            copies[span.place] = copy
    return copies


def _span(array: Array, place: int) -> Span | None:
    """The memory of an array; None if its elements are more than bytes, or are better copied alone."""
    if array.dtype.hasobject or array.dtype.kind not in _FLAT_KINDS or array.size == 0:
        return None
    address, itemsize = _address(array), array.itemsize
    if array.flags.c_contiguous:
        return Span(place, address, address + array.nbytes, None)
    reaches = [(n - 1) * stride for n, stride in zip(array.shape, array.strides, strict=True)]
    start = address + sum(reach for reach in reaches if reach < 0)
    stop = address + sum(reach for reach in reaches if reach > 0) + itemsize
    if not is_compact(stop - start, itemsize, array.shape, array.strides):
        return None
    return Span(place, start, stop, None)


def _address(array: Array) -> int:
    address: int = array.__array_interface__["data"][0]
    return address


def empty_objects(shape: tuple[int, ...], by_columns: bool) -> Array:
    """An array of objects that `fill_objects` fills."""
    return np.empty(shape, object, "F" if by_columns else "C")


def objects_of(array: Array) -> list[Any]:
    """The elements of an array of objects, in the order in which `fill_objects` takes them."""
    items: list[Any] = array.reshape(-1).tolist()
    return items


def fill_objects(array: Array, items: Sequence[Any]) -> None:
    """Fills an array of objects, one by one: NumPy would take lists apart."""
    for place, item in zip(np.ndindex(array.shape), items, strict=True):
        array[place] = item


def as_instance(array: Array, kind: type[Array]) -> Array:
    """The array as an instance of a subclass."""
    return array.view(kind)
