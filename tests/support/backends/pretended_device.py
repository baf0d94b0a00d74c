"""The CPU as a device that works on its own: what reads a tensor would wait for it, and is written down."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from lrpilot.backends.torch import asynchronous, losses
from lrpilot.backends.torch.rollback import memory
from torch.overrides import TorchFunctionMode

from tests.support.backends.watching import Watching

_READING = {
    "__bool__", "__complex__", "__contains__", "__float__", "__index__", "__int__", "allclose", "argwhere", "cpu",
    "equal", "is_nonzero", "item", "masked_select", "nonzero", "numpy", "tolist", "unique", "unique_consecutive",
}  # fmt: skip
"""Functions of Python that wait for a device."""


class Stream:
    """The work of the device, of which nothing is known."""

    def record_event(self) -> Stream:
        """A place in it."""
        return self

    def wait_event(self, place: Stream) -> None:
        """What comes next waits for such a place, on the device."""

    def synchronize(self) -> None:
        """The host waits for a place; where that is allowed is the business of other tests."""


class PretendedDevice:
    """The CPU, as long as its tensors are on a device."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """From now on, as long as the test runs."""
        self.reads: list[str] = []
        """What has read a tensor of the device, within `watched`."""
        self._of_host: set[int] = set()
        self._kept: list[torch.Tensor] = []
        monkeypatch.setattr(asynchronous, "_KINDS", ("cpu",))
        monkeypatch.setattr(asynchronous, "_stream", lambda device: Stream())
        for module in (losses, memory):
            monkeypatch.setattr(module, "empty_on_host", self._empty_on_host)

    def is_of_host(self, value: object) -> bool:
        """Whether a tensor is in memory of the host, which can be read at any time."""
        return isinstance(value, torch.Tensor) and value.untyped_storage().data_ptr() in self._of_host

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Reads inside are written down."""
        with _Functions(self), Watching() as operators:
            yield
        self.reads += operators.waits

    def watch(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function whose reads are written down; one that is watched already stays as it is."""

        if getattr(function, "watches", None) is self:
            return function

        def watched(*arguments: Any, **options: Any) -> Any:
            with self.watched():
                return function(*arguments, **options)

        watched.watches = self  # type: ignore[attr-defined]  # a mark of our own
        return watched

    def _empty_on_host(self, size: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        memory = torch.empty(size, dtype=dtype)
        self._kept.append(memory)
        self._of_host.add(memory.untyped_storage().data_ptr())
        return memory


class _Functions(TorchFunctionMode):
    def __init__(self, device: PretendedDevice) -> None:
        super().__init__()
        self._device = device

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in _READING and args and not self._device.is_of_host(args[0]):
            self._device.reads.append(name)
        return func(*args, **(kwargs or {}))
