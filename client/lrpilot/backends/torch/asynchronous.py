"""Devices that work on what they were given while the host goes on: CUDA's, AMD's under the same name, and Intel's.

All that the client does with streams and events goes through here.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch

_KINDS = ("cuda", "xpu")
"""Kinds of devices with streams and events, whose copies to and from pinned memory of the host need no waiting."""


class Mark(Protocol):
    """A place in the work of a device."""

    def synchronize(self) -> object:
        """Waits until the device has come there."""


def runs_ahead(device: torch.device) -> bool:
    """Whether the host may go on while such a device works, as far as its copies are concerned."""
    return device.type in _KINDS


def mark(device: torch.device) -> Mark:
    """The place after all that its current stream was given; a device's current stream need not be another's."""
    placed: Mark = _stream(device).record_event()
    return placed


def follow(device: torch.device, place: Mark) -> None:
    """Has what the device's current stream is given from now on wait for such a place, on the device."""
    _stream(device).wait_event(place)


def empty_on_host(size: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Memory of the host that such a device can be copied to, and from, with no waiting."""
    return torch.empty(size, dtype=dtype, device="cpu", pin_memory=runs_ahead(device))


def is_recording(device: torch.device) -> bool:
    """Whether what such a device is given now is recorded as a graph, to be carried out later."""
    if not runs_ahead(device):
        return False
    asked = getattr(torch.get_device_module(device), "is_current_stream_capturing", None)
    return asked is not None and bool(asked())


def _stream(device: torch.device) -> Any:
    return torch.get_device_module(device).current_stream(device)
