"""Where the snapshot of a rank lives, by the client's own rule: `lrpilot.backends.torch.rollback.placement`."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterable
from typing import NamedTuple

import torch
from lrpilot.backends.torch.rollback.memory import DeviceMemory, HostMemory
from lrpilot.backends.torch.rollback.placement import Demand, Room, first_with_room

from benchmarks.scale.run import HugeRun

_DEVICE, _HOST = torch.device("cuda", 0), torch.device("cpu")


class Place(enum.StrEnum):
    """Where a snapshot lives."""

    DEVICE = "device"
    HOST = "host"
    DISK = "disk"
    REFUSED = "refused"
    """The client says how many bytes are needed and free, before the first step."""
    MODEL_TOO_LARGE = "no training"
    """Weights, gradients and optimizer state alone don't fit on the device."""


class Row(NamedTuple):
    """A size of model at a number of shards."""

    weights: float
    shards: int
    snapshot_bytes: float
    place: Place


def place(run: HugeRun) -> Place:
    """The place that `snapshot="auto"` chooses before the first step, when only the weights are there."""
    own, total = run.local_weights * run.weight_bytes, run.device_gb * 1e9
    free = total - run.device_reserved_gb * 1e9 - own
    growth = run.local_weights * (run.gradient_bytes + run.optimizer_bytes)
    if growth > free:
        return Place.MODEL_TOO_LARGE
    host = (run.host_gb - run.host_reserved_gb) * 1e9 / run.local_ranks
    rooms = {_DEVICE: Room(free, total), _HOST: Room(host, run.host_gb * 1e9 / run.local_ranks)}
    demand = Demand(copies={_DEVICE: round(run.snapshot_bytes)}, growth={_DEVICE: round(growth)})
    memory = first_with_room(demand, rooms.__getitem__)
    if isinstance(memory, DeviceMemory):
        return Place.DEVICE
    if isinstance(memory, HostMemory):
        return Place.HOST
    return Place.DISK if run.snapshot_bytes * run.local_ranks <= run.disk_gb * 1e9 else Place.REFUSED


def table(run: HugeRun, weights: Iterable[float], shards: Iterable[int]) -> list[Row]:
    """Places for sizes of models and numbers of shards, all else as in `run`; one copy of the model is enough."""
    shards = list(shards)
    found = []
    for size in weights:
        for n in shards:
            other = dataclasses.replace(run, weights=size, shards=n, ranks=max(n, run.ranks_per_host))
            found.append(Row(size, n, other.snapshot_bytes, place(other)))
    return found
