"""What is said where a checkpoint does not fit a module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn


def difference(module: nn.Module, saved: Mapping[str, Any], error: RuntimeError) -> str:
    """How a module and a saved state differ, in a line."""
    bare, saved_bare = ({name.removeprefix("module.") for name in names} for names in (module.state_dict(), saved))
    if bare == saved_bare and set(module.state_dict()) != set(saved):
        return (
            "the checkpoint's was wrapped otherwise, as DistributedDataParallel does; go on in as many processes as "
            "saved it, with the model wrapped as it was"
        )
    return f"it is another one than the checkpoint's: {' '.join(str(error).split())}"
