"""How far an optimizer moves a weight in its first updates, found by letting a fresh one of its kind do so.

Momentum gathers over its first updates, and a mean of squared gradients that is not corrected for its start makes them
too large. A probe of a few steps from fresh state sees little else, so the search should know.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TextIO

import torch
from torch import distributed, nn
from torch.optim import Optimizer
from torch.optim import optimizer as optimizers

from lrpilot import rng

AT = tuple(2**i for i in range(11))
"""The updates whose sizes are told, counted from 1."""
SMALLEST, LARGEST = 1e-5, 1e5
"""Sizes that are told. An optimizer whose updates are smaller or larger finds their size by itself (Prodigy, Rprop)."""
SWING = 0.5
"""By how much the gradient of the toy's other weight goes up and down around one. An optimizer that divides by how much
a gradient varies (AdaBelief) goes astray with one that is always the same, as it never does in a training."""
SETTLED = 16
"""From this update on the swing is averaged away."""
ASTRAY = 1.5
"""Nothing is told if the ratio of the two weights' ways changes by more than this factor afterwards."""
START = 1.0
"""The toy's weights at first: from zero, updates in proportion to them (LAMB, Adafactor) would take long to grow."""
LR = 1e-4
"""The toy's LR: the weight stays near its start, and single precision still tells one update from another."""
PATIENCE_S = 2.0
"""Nothing is told of an optimizer that computes for longer. Those of PyTorch take a tenth of a second at most. It is
processor time: how busy a machine is must not decide what a run is told."""
LONGEST_WAIT_S = 15.0
"""Nor of one that has not answered by then, whatever it waits for."""
_ONE_AT_A_TIME = threading.Lock()
"""What is kept from a toy belongs to the process: hooks, warnings, random state, whether functions are compiled. Two
threads that put it back in another order than they took it would leave it as neither had found it."""
_LEFT_OUT = {"params", "weight_decay", "capturable", "fused", "foreach", "lr"}
"""What of a group's options the toy has not: a decay would move its weight by itself, and it lies on the host."""


def first_updates(optimizer: Optimizer) -> tuple[float, ...]:
    """By how much the updates `AT` move a weight whose gradient is always one, in units of the LR.

    Empty where no fresh optimizer of that kind can be made, or updated without its user's help. Neither the optimizer
    nor random state is touched, and nobody hears of it.
    """
    if not _makes_new_ones(type(optimizer)):
        return ()
    try:
        with _ONE_AT_A_TIME, rng.preserved(), torch.device("cpu"), _uncompiled(), _unheard():
            toy, weights = _toy(optimizer)
            with _unhooked(toy):
                return _moved(toy, weights)
    except Exception:  # it is somebody's class, which may need whatever it likes
        return ()


def _makes_new_ones(kind: type) -> bool:
    """Whether a call of a class gives a new object: one that is kept and given again would be the user's own."""
    made: tuple[object, object] = (kind.__new__, type(kind).__call__)
    return made == (object.__new__, type.__call__)


def _uncompiled() -> contextlib.AbstractContextManager[object]:
    """Has compiled functions run as they are written: to compile one for the toy would take longer than all the rest.

    As long as nothing has been compiled, what compiles is not imported, which would take a second.
    """
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else contextlib.nullcontext()


class _OtherThreads:
    """A stream that keeps back what the thread writes which made it; to others it is the stream that it stands for."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._own = stream, threading.get_ident()

    def write(self, text: str) -> int:
        """Writes, or keeps back."""
        return len(text) if threading.get_ident() == self._own else self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def _unheard() -> Iterator[None]:
    """Keeps back what is printed inside, and what is warned of: the user has heard it of the own optimizer."""
    quiet = None if sys.stdout is None else _OtherThreads(sys.stdout)  # a program without a console has none
    with warnings.catch_warnings(), contextlib.redirect_stdout(quiet):
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _unhooked(toy: Optimizer) -> Iterator[None]:
    """Keeps the steps of the toy from the hooks that are registered for all optimizers; other optimizers' go there."""
    found: list[tuple[dict[int, Any], int, Any]] = []
    for hooks in (optimizers._global_optimizer_pre_hooks, optimizers._global_optimizer_post_hooks):
        found += [(hooks, key, hook) for key, hook in hooks.items()]
    for hooks, key, hook in found:
        hooks[key] = functools.partial(_called_for_others, toy, hook)
    try:
        yield
    finally:
        for hooks, key, hook in found:
            if key in hooks:
                hooks[key] = hook


def _called_for_others(toy: Optimizer, hook: Callable[..., Any], optimizer: Optimizer, *rest: Any) -> Any:
    return None if optimizer is toy else hook(optimizer, *rest)


def _toy(optimizer: Optimizer) -> tuple[Optimizer, list[nn.Parameter]]:
    """A fresh optimizer of the same kind, and the two weights that it has."""
    taken = inspect.signature(type(optimizer).__init__).parameters
    group = optimizer.param_groups[0]
    options: dict[str, Any] = {k: copy.deepcopy(v) for k, v in group.items() if k in taken and k not in _LEFT_OUT}
    if "weight_decay" in taken:
        options["weight_decay"] = 0.0
    dimensions = min(max((p.dim() for p in group["params"]), default=1), 2)
    shape = (2,) * max(dimensions, 1)
    weights = [nn.Parameter(torch.full(shape, START, dtype=torch.float64)) for _ in range(2)]
    kind: Callable[..., Optimizer] = type(optimizer)
    return kind(weights, lr=LR, **options), weights


def _moved(toy: Optimizer, weights: Sequence[nn.Parameter]) -> tuple[float, ...]:
    """The sizes of the updates of the first weight; the second one's gradient goes up and down."""
    group, (weight, _), patience = toy.param_groups[0], weights, _Patience()
    sizes, ratios = [], []
    for step in range(1, AT[-1] + 1):
        for each, gradient in zip(weights, (1.0, 1.0 + (SWING if step % 2 else -SWING)), strict=True):
            each.grad = torch.full_like(each, gradient)
        before = weight.detach().clone()
        toy.step()
        if step in AT:
            sizes.append((weight.detach() - before).abs().mean().item() / float(group["lr"]))
        if step in AT and step >= SETTLED:
            way, other = ((each.detach() - START).abs().mean().item() for each in weights)
            ratios.append(other / way)
        if patience.over:
            return ()
    known = all(SMALLEST <= size <= LARGEST for size in sizes) and max(ratios) <= ASTRAY * min(ratios)
    return tuple(sizes) if known else ()


class _Patience:
    """How long a toy may take; for ever where there are ranks, as an optimizer may talk to the others in its steps."""

    def __init__(self) -> None:
        self._without_end = distributed.is_available() and distributed.is_initialized()
        self._computed, self._began = time.thread_time(), time.monotonic()

    @property
    def over(self) -> bool:
        if self._without_end:
            return False
        return time.thread_time() - self._computed > PATIENCE_S or time.monotonic() - self._began > LONGEST_WAIT_S
