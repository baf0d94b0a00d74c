"""What one rank sends another of the same run: any object that pickle can take, with its tensors."""

from __future__ import annotations

import io
from typing import Any


def packed(content: Any) -> bytes:
    """An object, to be sent."""
    import torch  # Runs in other frameworks, which have no ranks, must not bring it.

    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


def unpacked(message: bytes) -> Any:
    """What another rank has packed, with its tensors on the same kind of device."""
    import torch

    return torch.load(io.BytesIO(message), map_location=_own_device, weights_only=False)


def _own_device(storage: Any, location: str) -> Any:
    return storage.cuda() if location.startswith("cuda") else storage
