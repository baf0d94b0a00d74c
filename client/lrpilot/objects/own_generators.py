"""Random number generators that are objects: of `random`, of NumPy and of PyTorch, in one manner."""

from __future__ import annotations

import random
import sys
from typing import Any


def is_generator(value: object) -> bool:
    """Whether a value is a random number generator whose state can be read and set, and not one of the global ones."""
    if isinstance(value, random.Random):
        return value is not _PYTHONS_OWN and not isinstance(value, random.SystemRandom)
    if (torch := sys.modules.get("torch")) and isinstance(value, torch.Generator):
        return value is not torch.default_generator
    if numpy := sys.modules.get("numpy.random"):
        if isinstance(value, numpy.RandomState):
            return value is not numpy.mtrand._rand
        return isinstance(value, numpy.Generator | numpy.BitGenerator)
    return False


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
