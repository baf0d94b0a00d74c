"""Random number generators that are objects: of `random`, of NumPy and of PyTorch, in one manner."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from typing import Any

from lrpilot.objects.layout import remembered


def is_generator(value: Any) -> bool:
    """Whether a value is a random number generator whose state can be read and set, and not one of the global ones."""
    return _generates(type(value)) and not any(value is each for each in _global_ones())


@remembered
def _generates(cls: type) -> bool:
    """Whether a class's instances are such generators; PyTorch takes long to tell it of one of them."""
    if issubclass(cls, random.Random):
        return not issubclass(cls, random.SystemRandom)
    if (torch := sys.modules.get("torch")) and issubclass(cls, torch.Generator):
        return True
    numpy = sys.modules.get("numpy.random")
    return numpy is not None and issubclass(cls, numpy.RandomState | numpy.Generator | numpy.BitGenerator)


def _global_ones() -> Iterator[Any]:
    yield _PYTHONS_OWN
    if torch := sys.modules.get("torch"):
        yield torch.default_generator
    if numpy := sys.modules.get("numpy.random"):
        yield numpy.mtrand._rand


def source_of(generator: Any) -> Any:
    """What holds the generator's state: generators of NumPy's share one if they were made of the same."""
    return getattr(generator, "bit_generator", generator)


def state_of(generator: Any) -> Any:
    """The state of a generator: a copy, of tensors, arrays and plain values."""
    if isinstance(generator, random.Random):
        return generator.getstate()
    if hasattr(generator, "get_state"):  # PyTorch's, and NumPy's RandomState, which would give a tuple of old.
        return generator.get_state() if hasattr(generator, "initial_seed") else generator.get_state(legacy=False)
    return generator.state


def set_state(generator: Any, state: Any) -> None:
    """Sets a generator to a state that one of its kind had."""
    if isinstance(generator, random.Random):
        generator.setstate(state)
    elif hasattr(generator, "set_state"):
        generator.set_state(state)
    else:
        generator.state = state


_PYTHONS_OWN = random.seed.__self__  # type: ignore[attr-defined]  # a bound method
