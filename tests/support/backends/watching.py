"""What a program asks of its device, and whether it waits for an answer."""

from __future__ import annotations

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

_WAITS = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "unique", "coalesce", "masked_select")
"""Operations that read a value, or whose result has a shape that depends on one."""


class Watching(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it unannotated
    """Takes down what is asked of a device."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.name())
        return func(*args, **(kwargs or {}))

    @property
    def waits(self) -> list[str]:
        """What can't be told before the device is done."""
        return [name for name in self.names if any(wait in name for wait in _WAITS)]
