"""What modules note of themselves besides state, for their next forward pass: their modes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from torch import nn

SENDS_BUFFERS = "require_forward_param_sync"
"""Whether DistributedDataParallel's next forward pass gives all ranks the buffers of rank 0.

A pass without gradients, as of an evaluation, has done that for the one after it. That is no longer so where buffers
are put back.
"""


class Mode(NamedTuple):
    """A note of a module, and what it says."""

    module: nn.Module
    name: str
    value: bool


def modes_of(modules: Iterable[nn.Module]) -> list[Mode]:
    """The present modes, of wrappers too, whose other attributes stay."""
    modes = []
    for module in modules:
        modes.append(Mode(module, "training", module.training))
        if SENDS_BUFFERS in vars(module):
            modes.append(Mode(module, SENDS_BUFFERS, getattr(module, SENDS_BUFFERS)))
    return modes


def set_modes(modes: Iterable[Mode]) -> None:
    """Puts modes back; a compiler's guards look at when an attribute was written to."""
    for module, name, value in modes:
        if getattr(module, name) is not value:
            setattr(module, name, value)


@contextlib.contextmanager
def modes_kept(*modules: nn.Module) -> Iterator[None]:
    """Puts the modes of modules, and of all in them, back at the end."""
    modes = modes_of(dict.fromkeys(each for module in modules for each in module.modules()))
    try:
        yield
    finally:
        set_modes(modes)
