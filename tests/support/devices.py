"""The devices of this machine, as tests have them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch


def devices() -> list[Any]:
    """The CPU, and a GPU if there is one; its tests have the mark `gpu`."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before CUDA starts: its products are deterministic
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # to ask for it starts no CUDA, which does not fork
    return ["cpu", *([pytest.param("cuda", marks=pytest.mark.gpu)] if torch.cuda.is_available() else [])]


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    """Kernels that give other bits each time are an error inside."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def make_by_default_on(device: str) -> None:
    """Tensors that name no device are on this one from now on, and can be looked at as if they were not."""
    if device == "cpu":
        return
    torch.set_default_device(device)
    as_array, Scaler = torch.Tensor.numpy, torch.amp.GradScaler

    def numpy(tensor: torch.Tensor, *, force: bool = False) -> Any:
        return as_array(tensor, force=True)

    class DeviceScaler(Scaler):  # type: ignore[misc, valid-type]  # a class in a variable
        def __init__(self, _: str = device, *arguments: Any, **options: Any) -> None:
            super().__init__(device, *arguments, **options)

    torch.Tensor.numpy = numpy  # type: ignore[assignment, method-assign]
    torch.amp.GradScaler = DeviceScaler  # type: ignore[assignment, misc]
