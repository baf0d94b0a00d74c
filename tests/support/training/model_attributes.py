"""A module that holds whatever a test wants rolled back."""

from __future__ import annotations

from typing import Any

from lrpilot.backends.torch.rollback.snapshot import Snapshot
from torch import nn


def holding(**attributes: Any) -> Any:
    """A module with plain attributes."""
    model = nn.Linear(2, 2)
    for name, value in attributes.items():
        model.__dict__[name] = value
    return model


def snapshot_of(model: nn.Module) -> Snapshot:
    """One that is taken."""
    snapshot = Snapshot(model, [], {})
    snapshot.take()
    return snapshot
