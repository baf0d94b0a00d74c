"""FSDP2, as far as a snapshot has to do with it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator

from torch import nn


def reshard(modules: Iterable[nn.Module]) -> None:
    """Has FSDP2 put its shards back into the modules, should the last forward pass have left whole parameters there.

    FSDP2 knows which are in place by a flag of its own: whole parameters that stayed over a restore would be old ones.
    """
    if fsdp := sys.modules.get("torch.distributed.fsdp"):
        for module in modules:
            if isinstance(module, fsdp.FSDPModule):
                module.reshard()


@contextlib.contextmanager
def whole_parameters_kept(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Gives whole parameters their memory back at the end, with what was in it, should shards have replaced them.

    A model's state dict that was asked for after a forward pass may refer to them: who saves that beside what is asked
    for inside would read memory that is free, which ends the process.
    """
    modules = list(modules)
    fsdp = sys.modules.get("torch.distributed.fsdp")
    if fsdp is None or not any(isinstance(module, fsdp.FSDPModule) for module in modules):
        yield
        return
    plain = {id(p): p for module in modules for p in module.parameters(recurse=False) if type(p) is nn.Parameter}
    storages = [p.untyped_storage() for p in plain.values() if not p.is_meta]
    copies = [storage.clone() for storage in storages]  # type: ignore[no-untyped-call]  # torch leaves it so
    try:
        yield
    finally:
        for storage, copy in zip(storages, copies, strict=True):
            if storage.nbytes() < copy.nbytes():
                storage.resize_(copy.nbytes())
                storage.copy_(copy)
