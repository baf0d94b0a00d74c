"""The global random state of this process: python, NumPy, PyTorch on the CPU and on every CUDA device."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class RandomState:
    """The states of the global random number generators, or of some of them.

    NumPy and PyTorch count once they have been imported, CUDA once it has been initialised. Before that they have no
    state, so nothing could depend on it. Generator objects of the user's own are not global and not held.
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
        # legacy=False: the tuple of old knows the Mersenne twister only, and another may have been put in its place.
        yield "numpy", functools.partial(numpy.get_state, legacy=False), numpy.set_state
    if torch := sys.modules.get("torch"):
        yield "torch", torch.get_rng_state, torch.set_rng_state
        if torch.cuda.is_initialized():
            yield "cuda", torch.cuda.get_rng_state_all, torch.cuda.set_rng_state_all


def same(a: Any, b: Any) -> bool:
    """Whether two states of a generator are equal."""
    if hasattr(a, "equal"):  # A tensor, without importing PyTorch.
        return bool(a.equal(b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
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
