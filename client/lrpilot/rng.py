"""The global random state of this process: python, NumPy, PyTorch on the CPU and on every GPU."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import functools
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class RandomState:
    """The states of the global random number generators, or of some of them.

    NumPy and PyTorch count once they have been imported, kinds of GPUs once they have been initialised. Before that
    they have no state, so nothing could depend on it. Generator objects of the user's own are not global and not held.
    """

    states: Mapping[str, Any]

    @classmethod
    def capture(cls) -> RandomState:
        """The state of every generator, now. Copies; neither draws nor synchronises with a device."""
        return cls({name: get() for name, get, _ in _generators()})

    def restore(self) -> None:
        """Sets the generators back to these states, as often as one likes. Leaves the others alone."""
        for name, _, set_ in _generators():
            if name in self.states:
                set_(self.states[name])

    def state_dict(self) -> dict[str, Any]:
        """The states, for a checkpoint: of tensors and plain values, which `torch.load` reads without pickle."""
        return {name: to_plain(state) for name, state in self.states.items()}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> RandomState:
        """What `state_dict` gave."""
        return cls({name: from_plain(value) for name, value in state.items()})

    def changed_since(self, earlier: RandomState) -> RandomState | None:
        """The states of those generators alone that moved since `earlier`; None if none did."""
        changed = {
            name: state
            for name, state in self.states.items()
            if name not in earlier.states or not same(state, earlier.states[name])
        }
        return RandomState(changed) if changed else None


@contextlib.contextmanager
def preserved() -> Iterator[None]:
    """Whatever is drawn inside leaves the global random state as it was, also after an exception."""
    state = RandomState.capture()
    try:
        yield
    finally:
        state.restore()


def _generators() -> Iterator[tuple[str, Callable[[], Any], Callable[[Any], object]]]:
    """Name, getter and setter of every generator that has a state by now."""
    yield "python", random.getstate, random.setstate
    if numpy := sys.modules.get("numpy.random"):
        yield "numpy", functools.partial(_numpys_state, numpy), functools.partial(_set_numpys_state, numpy)
    if torch := sys.modules.get("torch"):
        yield "torch", torch.get_rng_state, torch.set_rng_state
        for name in ("cuda", "xpu"):
            devices = getattr(torch, name, None)
            if devices is not None and devices.is_initialized():
                yield name, functools.partial(_states_of_devices, devices), devices.set_rng_state_all
        if torch.backends.mps.is_available():
            yield "mps", torch.mps.get_rng_state, torch.mps.set_rng_state


@dataclasses.dataclass(frozen=True, slots=True)
class _Known:
    """A state that was captured, and what it can be known again by: who looks often mostly finds the same."""

    owner: Any
    mark: Any
    state: Any


_KNOWN: dict[str, _Known] = {}


def _numpys_state(numpy: Any) -> Any:
    """The state of NumPy's global generator; the same object as long as it has not moved."""
    generator, known = numpy.mtrand._rand._bit_generator, _KNOWN.get("numpy")
    words = _words(generator) if type(generator) is numpy.MT19937 else None
    if known is not None and known.owner is generator and known.mark == words:
        return known.state
    # legacy=False: the tuple of old knows the Mersenne twister only, and another may have been put in its place.
    state = numpy.get_state(legacy=False)
    # With half a pair of normals kept, the next one moves no word.
    if words is not None and not state["has_gauss"] and words == _words_of(state):
        _KNOWN["numpy"] = _Known(generator, words, state)
    return state


def _set_numpys_state(numpy: Any, state: Any) -> None:
    """Sets NumPy's global generator, unless it is where it was: to set it takes longer than to look."""
    generator, known = numpy.mtrand._rand._bit_generator, _KNOWN.get("numpy")
    if known is None or known.owner is not generator or known.state is not state or known.mark != _words(generator):
        numpy.set_state(state)


def _words(twister: Any) -> bytes:
    """What a Mersenne twister has in memory: its key, and where in it it is."""
    return ctypes.string_at(twister.ctypes.state_address, _TWISTER_BYTES)


def _words_of(state: dict[str, Any]) -> bytes:
    """What a state says that its twister has in memory."""
    key, position = state["state"]["key"], state["state"]["pos"]
    return bytes(key.astype("uint32").tobytes() + int(position).to_bytes(4, sys.byteorder))


_TWISTER_BYTES = 625 * 4


def _states_of_devices(devices: Any) -> Any:
    """The states of all devices' generators; the same objects as long as none has moved. Waits for no device."""
    generators = devices.default_generators
    name = devices.__name__
    known = _KNOWN.get(name)
    if not all(hasattr(each, "get_offset") for each in generators):
        return devices.get_rng_state_all()
    # Seed and offset are all that such a generator has.
    moved = [(each.initial_seed(), each.get_offset()) for each in generators]
    if known is None or known.owner is not generators or known.mark != moved:
        known = _KNOWN[name] = _Known(generators, moved, devices.get_rng_state_all())
    return known.state


def same(a: Any, b: Any) -> bool:
    """Whether two states of a generator are equal."""
    if a is b or type(a) is tuple:  # Python's, which is long: nothing is asked of it
        return bool(a is b or a == b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    if hasattr(a, "equal"):  # A tensor, without importing PyTorch.
        return bool(a.equal(b))
    if hasattr(a, "tobytes"):  # A NumPy array, without importing NumPy.
        return bool(a.tobytes() == b.tobytes())
    return bool(a == b)


def to_plain(state: Any) -> Any:
    """A generator's state with NumPy's arrays as lists."""
    if isinstance(state, dict):
        return {key: to_plain(value) for key, value in state.items()}
    if hasattr(state, "tobytes"):  # A NumPy array, without importing NumPy.
        return {"dtype": str(state.dtype), "array": state.tolist()}
    return state


def from_plain(state: Any) -> Any:
    """What `to_plain` was given. Only a state with arrays imports NumPy."""
    if not isinstance(state, dict):
        return state
    if state.keys() == {"dtype", "array"}:
        import numpy

        return numpy.array(state["array"], dtype=state["dtype"])
    return {key: from_plain(value) for key, value in state.items()}
