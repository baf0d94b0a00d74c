"""FSDP2, as far as a snapshot has to do with it."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from torch import nn


def reshard(modules: Iterable[nn.Module]) -> None:
    """Has FSDP2 put its shards back into the modules, should the last forward pass have left whole parameters there.

    FSDP2 knows which are in place by a flag of its own: whole parameters that stayed over a restore would be old ones.
    """
    if fsdp := sys.modules.get("torch.distributed.fsdp"):
        for module in modules:
            if isinstance(module, fsdp.FSDPModule):
                module.reshard()
