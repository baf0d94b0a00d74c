"""How large logits get: the largest absolute output of modules that the user named."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch._C._functorch import is_functorch_wrapped_tensor

from lrpilot.backends.measures import OUTPUT_LOGIT
from lrpilot.backends.torch.measures.gradients import own_part
from lrpilot.backends.torch.measures.measure import Measure

LOGITS = "logits"
"""The name that the logits have in a dict of outputs, as in those of Hugging Face's models."""


class OutputLogit(Measure):
    """The largest absolute value among all outputs of a step."""

    name = OUTPUT_LOGIT

    def take(self, output: object, device: torch.device) -> torch.Tensor:
        """The value of a forward call, on a device; NaN where no number can be told.

        Raises:
            NotImplementedError: what the logits are is the sum of several ranks' outputs.
        """
        first = next(_tensors(output), None)
        logits = None if first is None else own_part(first.detach())[0]
        if logits is None or not _is_plain(logits) or not logits.numel():
            return torch.full((), math.nan, device=device)
        lowest, highest = torch.aminmax(logits)  # neither copies the logits, nor passes over a NaN
        return torch.maximum(-lowest, highest).to(device, torch.float32, non_blocking=True)

    def together(self, values: Sequence[torch.Tensor]) -> torch.Tensor:
        """The largest of all."""
        return torch.stack(list(values)).max()


class LargestOutput:
    """The value of the present step so far, over forward calls of which some may be other threads'."""

    def __init__(self) -> None:
        """There was none yet."""
        self._largest: torch.Tensor | None = None
        self._missed = False
        self._lock = threading.Lock()

    def add(self, value: torch.Tensor) -> None:
        """Takes in that of a forward call, which is on the device of those before."""
        with self._lock:
            self._largest = value if self._largest is None else torch.maximum(self._largest, value)

    def miss(self) -> None:
        """Notes a forward call whose value can't be had: the step has none."""
        self._missed = True

    def known(self) -> list[torch.Tensor]:
        """It, if it can be told."""
        return [] if self._largest is None or self._missed else [self._largest]

    def forget(self) -> None:
        """Another step begins."""
        self._largest, self._missed = None, False


def _is_plain(tensor: torch.Tensor) -> bool:
    """Whether a tensor has values after the call: one inside of a `vmap` or a `grad` of `torch.func` has none."""
    return type(tensor) is torch.Tensor and not is_functorch_wrapped_tensor(tensor)


def _tensors(output: object) -> Iterator[torch.Tensor]:
    """The tensors of real numbers in an output; of a dict that names one of its parts logits, those in that part."""
    if isinstance(output, torch.Tensor):
        if output.is_floating_point():
            yield output
        return
    parts: Iterable[object] = ()
    if isinstance(output, Mapping):
        parts = [output[LOGITS]] if LOGITS in output else output.values()
    elif isinstance(output, list | tuple):
        parts = output
    for part in parts:
        yield from _tensors(part)
