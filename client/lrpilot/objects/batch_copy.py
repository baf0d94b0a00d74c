"""Private copies of batches, whatever class they are of.

A batch is taken apart as pickle does it, so that objects of any class are rebuilt, and references within it stay what
they are. Tensors and arrays are copied in memory, and what can't change (classes, functions, arrays of JAX and
TensorFlow) or is no part of a batch (modules, data sets) is referred to.
"""

from __future__ import annotations

import copyreg
import functools
import io
import logging
import pickle
import sys
from collections.abc import Iterable
from typing import Any, Generic, TypeVar, cast

from lrpilot.objects.copy_kinds import VALUE_TYPES, CopyKind, Place, Reference, classified
from lrpilot.objects.layout import Layout, instance_dict, set_state
from lrpilot.rng import preserved

logger = logging.getLogger(__name__)

Batch = TypeVar("Batch")

_PROTOCOL = 4
"""The last protocol of pickle that keeps all bytes in the stream."""


class BatchCopy(Generic[Batch]):
    """A copy of a batch as it was, of which further copies are made."""

    __slots__ = ("_arrays", "_leaves", "_stream", "_tensors")

    def __init__(self, stream: bytes, leaves: list[Any], tensors: list[int], arrays: list[int]) -> None:
        """Keeps what a pickler made of a batch.

        Args:
            stream: the pickled batch; in it, a persistent id is an index of `leaves`.
            leaves: what is not in the stream, owned by this copy.
            tensors: which leaves are tensors.
            arrays: which leaves are arrays.
        """
        self._stream = stream
        self._leaves = leaves
        self._tensors = tensors
        self._arrays = arrays

    def fresh(self) -> Batch:
        """The batch as it was, and its own: nothing in it can be changed from elsewhere."""
        return cast(Batch, _loaded(self._stream, _copied(self._leaves, self._tensors, self._arrays)))

    def uncopied(self) -> Batch:
        """What `fresh` gives, at no cost, in this copy's memory: for the last time, or where nothing is changed."""
        return cast(Batch, _loaded(self._stream, self._leaves))


class BatchCopier:
    """Takes copies of the batches of one loader."""

    def __init__(self, shared: Iterable[object] = ()) -> None:
        """Knows no class yet.

        Args:
            shared: objects that batches may refer to, and that are no part of a batch: the loader and its parts.
        """
        self._shared = list(shared)
        self._kinds = dict.fromkeys(VALUE_TYPES, CopyKind.VALUE)
        self._layouts: dict[type, Layout] = {}
        self._proven: set[type] = set()
        self._distrusted: set[type] = set()
        self.saw_history = False
        """Whether a batch had a tensor that was computed from what is trained: its graph serves one backward pass."""
        self._warned = False

    def take(self, batch: Batch) -> BatchCopy[Batch]:
        """Copies a batch as it is now.

        What can't be copied (a lock, an open file) is referred to; that is logged, once.
        """
        try:
            return self._proved(batch)
        except Exception:
            # A class may say how it is pickled, and be wrong. Its instances are then taken apart without it.
            logger.debug("batches: %s can't be copied as its class says", type(batch).__name__, exc_info=True)
            self._distrusted |= self._layouts.keys() - self._proven
        try:
            return self._proved(batch)
        except Exception as error:
            self.warn(batch, error)
            return BatchCopy(_reference_stream(), [batch], [], [])

    def kind_of(self, cls: type) -> CopyKind:
        """How values of a class are copied."""
        kind = self._kinds.get(cls)
        if kind is None:
            kind = self._kinds[cls] = classified(cls)
        return kind

    def shared_by(self, batch: object) -> list[object]:
        """What a batch refers to without owning it."""
        return [each for each in self._shared if each is not batch]

    def reduced(self, value: Any) -> tuple[Any, ...]:
        """How to build a value like this one, as `object.__reduce__` says it."""
        cls = type(value)
        layout = self._layouts.get(cls)
        if layout is None:
            layout = self._layouts[cls] = Layout.of(cls)
        if not layout.is_plain and (cls not in self._distrusted or layout.base is None):
            try:
                return _as_its_class_says(value)
            except Exception as error:
                reason: Exception = error
        else:
            reason = TypeError(f"cannot take apart {cls.__name__!r} objects")
        if layout.base is None:
            self.warn(value, reason)
            return _reference(value)
        return layout.reduced(value) or _reference(value)

    def warn(self, value: object, error: Exception) -> None:
        """Says that a value is not copied; the first time only."""
        if not self._warned:
            self._warned = True
            logger.warning(
                "batches: a %s in a batch can't be copied (%s): replayed batches share it, and what the training loop "
                "changes in it stays changed; keep it out of the batch, or make it fit for pickle",
                type(value).__qualname__,
                error,
            )

    def _proved(self, batch: Batch) -> BatchCopy[Batch]:
        """A copy, after a look whether batches of such classes can be built again."""
        copy = _taken(self, batch)
        new = self._layouts.keys() - self._proven
        if new:
            with preserved():
                copy.fresh()
            self._proven |= new
        return copy


class _Pickler(pickle.Pickler):
    """Writes a batch without its tensors and arrays."""

    def __init__(self, file: io.BytesIO, copier: BatchCopier, batch: object) -> None:
        super().__init__(file, _PROTOCOL)
        self._copier = copier
        self._kinds = copier._kinds
        self.leaves: list[Any] = copier.shared_by(batch)
        # By identity: what is in `leaves` lives as long as this.
        self._places = {id(each): place for place, each in enumerate(self.leaves)}
        self.tensors: list[int] = []
        self.arrays: list[int] = []

    def persistent_id(self, value: Any) -> int | None:
        place = self._places.get(id(value))
        if place is not None:
            return place
        kind = self._kinds.get(type(value)) or self._copier.kind_of(type(value))
        if kind is CopyKind.VALUE:
            return None
        if kind is CopyKind.PLACE:
            return cast(Place, value).number
        if kind is CopyKind.TENSOR:
            from lrpilot.objects import tensor_copies

            if tensor_copies.is_trained(value):
                # A copy would be trained in its place, or the graph that made it gone through twice.
                self._copier.saw_history |= tensor_copies.has_history(value)
                return self._add(value, CopyKind.REFERENCE)
        if kind is CopyKind.TENSOR and instance_dict(value):
            return None
        if kind is CopyKind.ARRAY and not _is_plain_array(value):
            return None
        return self._add(value, kind)

    def reducer_override(self, value: Any) -> Any:
        kind = self._kinds[type(value)]
        if kind is CopyKind.TENSOR:
            return _itself, (self._memory(value, kind),), instance_dict(value), None, None, _set_attributes
        if kind is CopyKind.ARRAY:
            return self._reduced_array(value)
        return self._copier.reduced(value)

    def _reduced_array(self, array: Any) -> Any:
        from lrpilot.objects import array_copies

        if array.dtype.hasobject:
            if array.dtype != object:
                return self._copier.reduced(array)
            by_columns = array.flags.f_contiguous and not array.flags.c_contiguous
            made = array_copies.empty_objects, (array.shape, by_columns)
            return *made, array_copies.objects_of(array), None, None, array_copies.fill_objects
        made_of = array_copies.as_instance, (self._memory(array, CopyKind.ARRAY), type(array))
        return *made_of, instance_dict(array), None, None, _set_attributes

    def _add(self, value: Any, kind: CopyKind) -> int:
        place = self._places[id(value)] = len(self.leaves)
        self.leaves.append(value)
        if kind is CopyKind.TENSOR:
            self.tensors.append(place)
        elif kind is CopyKind.ARRAY:
            self.arrays.append(place)
        return place

    def _memory(self, value: Any, kind: CopyKind) -> Place:
        """Stands for a tensor or array without its attributes."""
        place = self._add(value, kind)
        del self._places[id(value)]  # What is found there is not yet the value itself.
        return Place(place)


def _is_plain_array(array: Any) -> bool:
    """Whether the copy of an array's memory is a copy of the array; a file's mapping becomes a plain array too."""
    numpy = sys.modules["numpy"]
    return not array.dtype.hasobject and type(array) in (numpy.ndarray, numpy.memmap)


def _taken(copier: BatchCopier, batch: Batch) -> BatchCopy[Batch]:
    file = io.BytesIO()
    pickler = _Pickler(file, copier, batch)
    pickler.dump(batch)
    originals = pickler.leaves
    try:
        leaves = _copied(originals, pickler.tensors, pickler.arrays)
    except Exception:
        pickler.tensors[:] = _copied_one_by_one(copier, originals, pickler.tensors)
        leaves = _copied(originals, pickler.tensors, pickler.arrays)
    return BatchCopy(file.getvalue(), leaves, pickler.tensors, pickler.arrays)


def _copied_one_by_one(copier: BatchCopier, leaves: list[Any], tensors: list[int]) -> list[int]:
    """The tensors that can be copied; the others are named, and stay references."""
    good = []
    for place in tensors:
        try:
            _copied(leaves, [place], [])
        except Exception as error:
            copier.warn(leaves[place], error)
        else:
            good.append(place)
    return good


def _copied(leaves: list[Any], tensors: list[int], arrays: list[int]) -> list[Any]:
    """The leaves, with copies of those that have memory."""
    leaves = leaves.copy()
    if tensors:
        from lrpilot.objects import tensor_copies

        for place, copy in zip(tensors, tensor_copies.copied([leaves[each] for each in tensors]), strict=True):
            leaves[place] = copy
    if arrays:
        from lrpilot.objects import array_copies

        for place, array in zip(arrays, array_copies.copied([leaves[each] for each in arrays]), strict=True):
            leaves[place] = array
    return leaves


class _Unpickler(pickle.Unpickler):
    """Reads what a `_Pickler` wrote, of other leaves."""

    def __init__(self, stream: bytes, leaves: list[Any]) -> None:
        super().__init__(io.BytesIO(stream))
        self._leaves = leaves

    def persistent_load(self, place: Any) -> Any:
        return self._leaves[place]


def _loaded(stream: bytes, leaves: list[Any]) -> Any:
    return _Unpickler(stream, leaves).load()


def _as_its_class_says(value: Any) -> tuple[Any, ...]:
    """How a class builds its instances again, and what it leaves out of that.

    Attributes that are missing in a state of attributes, and are not made when it is set, are referred to: without
    them, a batch that came back would not be the same.
    """
    cls: Any = type(value)
    reduce = copyreg.dispatch_table.get(cls)
    reduced = reduce(value) if reduce else cls.__reduce_ex__(value, _PROTOCOL)
    if isinstance(reduced, str):  # The name of a global: there is but one.
        return _reference(value)
    made, arguments, state, items, pairs, setter = (*reduced, None, None, None, None)[:6]
    kept = state[0] if isinstance(state, tuple) and state else state
    if not isinstance(kept, dict):
        return reduced
    left_out = {name: each for name, each in (instance_dict(value) or {}).items() if name not in kept}
    if not left_out:
        return reduced
    return made, arguments, (state, setter, Reference(left_out)), items, pairs, _set_state


def _set_state(value: Any, packed: tuple[Any, Any, Reference]) -> None:
    state, setter, left_out = packed
    set_state(value, state, setter)
    attributes = instance_dict(value)
    if attributes is not None:
        for name, each in left_out.value.items():
            attributes.setdefault(name, each)


def _set_attributes(value: Any, attributes: dict[str, Any]) -> None:
    value.__dict__.update(attributes)


def _itself(value: Any) -> Any:
    return value


def _held(reference: Reference) -> Any:
    return reference.value


def _reference(value: Any) -> tuple[Any, ...]:
    """Builds the value itself."""
    return _held, (Reference(value),)


@functools.cache
def _reference_stream() -> bytes:
    """The stream of a batch that is its own first leaf."""
    file = io.BytesIO()
    _Pickler(file, BatchCopier(), None).dump(Place(0))
    return file.getvalue()
