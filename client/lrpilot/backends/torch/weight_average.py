"""An exponential average of the weights, beside the model."""

from __future__ import annotations

import collections
import contextlib
import logging
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from lrpilot.backends.torch.rollback.fsdp import reshard
from lrpilot.backends.torch.rollback.memory import values
from lrpilot.backends.weight_average import WeightAverage
from lrpilot.errors import ConfigError

SMALLEST_ITEM = 2
"""Bytes of an element, at least: smaller floats are scales and codes of quantisation, which have no mean."""

log = logging.getLogger("lrpilot")


class TorchWeightAverage(WeightAverage):
    """The average of what the optimizers move, and of the floating-point buffers of the modules that these belong to.

    It is kept in single precision at least, where the weights are. What is in neither (frozen parameters, integer
    buffers) the model has as it is. Every process averages its own shards of distributed tensors. Parameters that join
    an optimizer join the average with the values that they have then.
    """

    def __init__(self, modules: Sequence[nn.Module], optimizers: Sequence[torch.optim.Optimizer]) -> None:
        """Averages nothing yet.

        Args:
            modules: the model, and registered modules.
            optimizers: those that train.
        """
        self._modules = tuple(modules)
        self._optimizers = tuple(optimizers)
        self._memory_steps, self._every, self._done = 1.0, 1, 0
        self._averages: dict[torch.Tensor, torch.Tensor] = {}
        self._last: list[tuple[torch.Tensor, torch.Tensor]] = []

    @property
    def active(self) -> bool:
        """Whether there is an average."""
        return bool(self._averages)

    @property
    def adopted(self) -> bool:
        """Whether the model holds the average."""
        return bool(self._last)

    def begin(self, memory_steps: float, every: int) -> None:
        """Copies the present weights."""
        self.end()
        self._memory_steps, self._every, self._done = memory_steps, every, 0
        try:
            self._follow(0.0)
        except BaseException:
            self.end()
            raise

    def count(self) -> None:
        """Takes note of a step, and brings the average up to date if it is time; where that fails it is forgotten."""
        if not self._averages:
            return
        self._done += 1
        if self._done % self._every:
            return
        try:
            self._follow(-math.expm1(-self._every / self._memory_steps))
        except Exception as error:
            log.warning("lrpilot: the weights can't be averaged any more: %s: %s", type(error).__name__, error)
            self.end()

    def adopt(self) -> None:
        """Keeps the last weights beside the average, and fills the model's tensors, which stay the same objects."""
        if not self._averages:
            raise RuntimeError("no average of the weights is kept")
        if self._last:
            return
        try:
            with self._writing():
                self._last = [(tensor, values(tensor).detach().clone()) for tensor in self._averages]
                for tensor, average in self._averages.items():
                    # What is infinite, as a mask, has no average.
                    own = values(tensor)
                    own.copy_(torch.where(average.isfinite(), average, own.to(average.dtype)))
        except BaseException:
            self.undo()
            raise

    def undo(self) -> None:
        """Fills the model's tensors with the last weights."""
        if not self._last:
            return
        with self._writing():
            for tensor, last in self._last:
                values(tensor).copy_(last)
        self._last = []

    def end(self) -> None:
        """Lets go of all copies."""
        self._averages, self._last = {}, []

    def state_dict(self) -> dict[str, Any] | None:
        """Copies, in the order of optimizers and modules, and how far the average has come."""
        if not self._averages:
            return None
        last = dict(self._last)
        tensors = list(self._targets())
        return {
            "memory_steps": self._memory_steps,
            "every": self._every,
            "done": self._done,
            "average": [_copied(self._averages.get(tensor)) for tensor in tensors],
            "last": [_copied(last.get(tensor)) for tensor in tensors] if last else None,
        }

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Takes the copies over. Raises: ConfigError: they are not those of this model's tensors."""
        self.end()
        if state is None:
            return
        tensors = list(self._targets())
        self._averages = dict(_matched(tensors, state["average"], single=True))
        self._last = list(_matched(tensors, state["last"], single=False)) if state["last"] else []
        self._memory_steps, self._every, self._done = state["memory_steps"], state["every"], state["done"]

    @torch.inference_mode(False)
    @torch.no_grad()
    def _follow(self, rate: float) -> None:
        """Moves the average towards the weights by such a part of the way; what is new begins where it is."""
        before, averages = self._averages, {}
        kinds: dict[Any, tuple[list[torch.Tensor], list[torch.Tensor]]] = collections.defaultdict(lambda: ([], []))
        with _plain_tensors():
            for tensor in self._targets():
                own = values(tensor).detach()
                average = before.get(tensor)
                if average is None or average.shape != own.shape or average.device != own.device:
                    averages[tensor] = own.to(_kept_type(own), copy=True)
                    continue
                averages[tensor] = average
                if average.dtype == own.dtype:
                    of_averages, of_own = kinds[average.device, average.dtype]
                    of_averages.append(average)
                    of_own.append(own)
                else:  # one by one: all of them in single precision at once would be another copy of the model
                    average.lerp_(own.to(average.dtype), rate)
            for of_averages, of_own in kinds.values():
                torch._foreach_lerp_(of_averages, of_own, rate)
        self._averages = averages

    def _targets(self) -> Iterator[torch.Tensor]:
        """What is averaged, each tensor once."""
        trained = dict.fromkeys(
            parameter
            for optimizer in self._optimizers
            for group in optimizer.param_groups
            for parameter in group["params"]
            if parameter.requires_grad
        )
        buffers = dict.fromkeys(
            buffer
            for module in self._modules
            if not trained.keys().isdisjoint(module.parameters())
            for buffer in module.buffers()
        )
        return filter(_is_averaged, {**trained, **buffers})

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """The model's tensors may be filled inside."""
        reshard(each for module in self._modules for each in module.modules())
        with torch.inference_mode(False), torch.no_grad(), _plain_tensors():
            yield


def _is_averaged(tensor: torch.Tensor) -> bool:
    """Whether a tensor has a mean that can be kept."""
    if is_lazy(tensor) or tensor.is_meta or tensor.is_inference() or tensor.layout is not torch.strided:
        return False
    has_mean = tensor.is_floating_point() or tensor.is_complex()
    return has_mean and not tensor.is_quantized and tensor.dtype.itemsize >= SMALLEST_ITEM


def _kept_type(tensor: torch.Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def _copied(tensor: torch.Tensor | None) -> torch.Tensor | None:
    return None if tensor is None else tensor.clone()


@torch.no_grad()
def _matched(
    tensors: Sequence[torch.Tensor], copies: Sequence[torch.Tensor | None], *, single: bool
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Tensors and their copies, where they are; in single precision at least if `single`. Raises: ConfigError."""
    owns = [values(tensor).detach() for tensor in tensors]
    shapes = [None if copy is None else copy.shape for copy in copies]
    if len(shapes) != len(owns) or any(s not in (None, own.shape) for own, s in zip(owns, shapes, strict=True)):
        raise ConfigError("state: its average of the weights is of another model; resume with the same one")
    for tensor, own, copy in zip(tensors, owns, copies, strict=True):
        if copy is not None:
            yield tensor, torch.empty_like(own, dtype=_kept_type(own) if single else own.dtype).copy_(copy)


def _plain_tensors() -> Any:
    """What is done to tensors inside is not changed by their classes."""
    return torch._C.DisableTorchFunctionSubclass()
