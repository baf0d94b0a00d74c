"""The state of a loader besides its position: what its parts count and remember, and what they draw from.

Drawing a batch may change it. A replayed batch is not drawn again, so that what its draw changed is recorded, and set
at the replay: whoever else looks at it (a model that shares a generator, a loop that reads a counter) finds what would
be there. In a checkpoint it is what a fresh process needs to give the same batches.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from lrpilot.data.loader_parts import Parts, attributes_of, set_attribute
from lrpilot.objects import plain_copies
from lrpilot.objects.layout import instance_dict, remembered
from lrpilot.objects.own_generators import is_generator, set_state, state_of
from lrpilot.rng import from_plain, same, to_plain

_SMALL = 256
"""The most elements of an attribute that is looked at before and after every draw of a search."""

_MEDIUM = 1 << 16
"""Most elements of a sampler's attribute that is looked at so: weights, or a permutation of the samples."""

_LARGE = 1 << 21
"""Most elements of an attribute that is looked at as an epoch begins."""


class _Attribute(NamedTuple):
    """An attribute of a part at some time."""

    owner: Any
    name: str
    value: Any
    """The object itself."""
    content: Any
    """A copy of it; `plain_copies.OPAQUE` if it is not made of plain values."""

    def differs(self, other: _Attribute | None) -> bool:
        if other is None or self.value is not other.value:
            return True
        # Most are numbers, and the same objects.
        return self.content is not other.content and not plain_copies.same(self.content, other.content)

    def put_back(self) -> None:
        plain_copies.refill(self.value, self.content)
        set_attribute(self.owner, self.name, self.value)


@dataclasses.dataclass(frozen=True, slots=True)
class Moment:
    """A loader's state at some time, or those parts of it that a draw changed."""

    generators: Mapping[str, tuple[Any, Any]]
    """Each with its state, by their path from the loader."""
    attributes: Mapping[str, _Attribute]
    """The parts by their path."""

    def __bool__(self) -> bool:
        return bool(self.generators or self.attributes)

    def changed_since(self, earlier: Moment) -> Moment:
        """What is not as it was."""
        states = earlier.generators
        generators = {
            path: (generator, state)
            for path, (generator, state) in self.generators.items()
            if path not in states or states[path][0] is not generator or not same(state, states[path][1])
        }
        attributes = {
            path: attribute
            for path, attribute in self.attributes.items()
            if attribute.differs(earlier.attributes.get(path))
        }
        return Moment(generators, attributes)

    def state_dict(self) -> dict[str, Any]:
        """Plain values and tensors for a checkpoint, by path. Attributes of other kinds are left out."""
        attributes = {
            path: plain_copies.encoded(attribute.content)
            for path, attribute in self.attributes.items()
            if attribute.content is not plain_copies.OPAQUE
        }
        generators = {path: to_plain(state) for path, (_, state) in self.generators.items()}
        return {"generators": generators, "attributes": attributes}

    def restore(self) -> None:
        """Makes it so again, in the same process."""
        for attribute in self.attributes.values():
            attribute.put_back()
        for generator, state in self.generators.values():
            set_state(generator, state)


class LoaderState:
    """Looks at a loader's parts, and sets them."""

    def __init__(self, loader: object) -> None:
        """Finds the parts, and remembers how they are."""
        self._loader = loader
        self._parts = Parts.of(loader)
        self._has_thread = self._parts.has_thread
        self._first = self.capture_all()
        self._loaded: set[str] = set()

    @property
    def has_thread(self) -> bool:
        """Whether a thread of the loader's own works on its state, so that none but the loader may set it."""
        return self._has_thread

    def look_again(self, *, has_thread: bool) -> None:
        """Finds the parts anew: an epoch may have made others."""
        self._parts = Parts.of(self._loader)
        self._has_thread |= has_thread or self._parts.has_thread

    @property
    def roots(self) -> list[object]:
        """The samplers: what a training loop may change, and wants rolled back with the model.

        What drawing changes in them is set again as the draws are replayed. A loader that draws in a thread of its own
        gives none: it can't be moved from outside.
        """
        return [] if self._has_thread else [part for path, part in self._parts.owners.items() if _samples(path)]

    def capture(self) -> Moment:
        """The state now, without large attributes. Whatever is in this and changed by draws is recorded with these."""
        return self._captured(lambda path: _MEDIUM if _samples(path) else _SMALL)

    def capture_all(self) -> Moment:
        """The state now, with large attributes too."""
        return self._captured(lambda path: _LARGE)

    def undo(self) -> None:
        """Sets the state to what it was when this object was made, iterators aside."""
        if not self._has_thread:
            plain = {p: a for p, a in self._first.attributes.items() if a.content is not plain_copies.OPAQUE}
            Moment(self._first.generators, plain).restore()

    def of_another_process(self, moment: Moment, now: Moment | None = None) -> Moment:
        """What of a state, before `now` if that is given, a fresh process needs.

        Of attributes, those that have changed since this object was made, and seeds. Others may be meant to differ in
        the process that resumes, such as the path of the data.
        """
        attributes = {
            path: attribute
            for path, attribute in moment.attributes.items()
            if path in self._loaded
            or "seed" in attribute.name
            or self._has_changed(path, attribute)
            or (now is not None and path in now.attributes and self._has_changed(path, now.attributes[path]))
        }
        return Moment(moment.generators, attributes)

    def apply(self, state: Moment | Mapping[str, Any], *, own_state: bool) -> None:
        """Sets the parts to a state: one of this process, or one of a checkpoint. Parts that are gone are passed over.

        A loader with a thread of its own is left alone.

        Args:
            state: the state, or its `state_dict`.
            own_state: whether the loader sets its own attributes, and those of its parts that have a `state_dict`.
        """
        if self._has_thread:
            return
        if isinstance(state, Moment):
            state.restore()
            return
        for path, encoded in state["attributes"].items():
            self._loaded.add(path)
            owner_path, _, name = path.rpartition(".")
            owner = self._parts.owners.get(owner_path)
            if owner is None or (own_state and (owner_path == "" or hasattr(owner, "load_state_dict"))):
                continue
            content = plain_copies.decoded(encoded)
            value = dict(attributes_of(owner)).get(name)
            if not plain_copies.refill(value, content):
                value = content
            set_attribute(owner, name, value)
        for path, generator in self._parts.generators.items():
            if path in state["generators"]:
                set_state(generator, from_plain(state["generators"][path]))

    def _has_changed(self, path: str, attribute: _Attribute) -> bool:
        first = self._first.attributes.get(path)
        return first is None or not plain_copies.same(attribute.content, first.content)

    def _captured(self, largest: Callable[[str], int]) -> Moment:
        attributes = {}
        for path, owner in self._parts.owners.items():
            limit = largest(path)
            for name, value in attributes_of(owner):
                content = plain_copies.copied(value, limit) if type(value) not in plain_copies.SCALARS else value
                if content is not plain_copies.OPAQUE or _is_handle(value):
                    attributes[f"{path}.{name}"] = _Attribute(owner, name, value, content)
        generators = {path: (each, state_of(each)) for path, each in self._parts.generators.items()}
        return Moment(generators, attributes)


def _samples(path: str) -> bool:
    return "sampler" in path.rpartition(".")[2]


def _is_handle(value: Any) -> bool:
    """Whether a draw may put another such object in the place of one: an iterator, a generator, a sampler."""
    kind = type(value)
    return is_generator(value) or _is_iterator(kind) or (_is_iterable(kind) and instance_dict(value) is not None)


@remembered
def _is_iterator(kind: type) -> bool:
    return hasattr(kind, "__next__")


@remembered
def _is_iterable(kind: type) -> bool:
    return hasattr(kind, "__iter__") and not hasattr(kind, "__array__")
