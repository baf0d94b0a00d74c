"""The memory that a snapshot lives in, chosen by what is free.

"device": beside the tensors that it copies; the fastest. "host": in host memory, pinned for CUDA. "disk", or a
directory: in a nameless file, gone when the process ends. "auto": the first of them with enough room.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
import torch.distributed as dist

from lrpilot.backends.torch.rollback.memory import DeviceMemory, DiskMemory, HostMemory, Memory
from lrpilot.errors import ConfigError

log = logging.getLogger("lrpilot")

RESERVE = 0.2
"""Share of all of a device's memory that "auto" leaves free: activations are not seen before the first step."""
STATE_TENSORS = 2
"""Tensors of optimizer state for each parameter that has none yet: as Adam's; few optimizers keep more."""

_HOST = torch.device("cpu")


@dataclasses.dataclass(frozen=True, slots=True)
class Demand:
    """Bytes wanted, by device."""

    copies: Mapping[torch.device, int]
    """What a snapshot holds of the device's tensors."""
    growth: Mapping[torch.device, int]
    """What training will allocate: gradients and optimizer state that are not there yet."""

    @property
    def nbytes(self) -> int:
        """The size of the whole snapshot."""
        return sum(self.copies.values())


@dataclasses.dataclass(frozen=True, slots=True)
class Room:
    """Bytes of a device's memory: free, and in all."""

    free: float
    total: float

    @property
    def spare(self) -> float:
        """Free beyond the reserve."""
        return self.free - RESERVE * self.total if math.isfinite(self.total) else self.free


def processes_here() -> int:
    """How many processes of this training share the machine, its memory and its disk.

    torchrun and what builds on it say so in `LOCAL_WORLD_SIZE`. Without that there are, of all that train together, as
    many as the machine has GPUs.
    """
    told = os.environ.get("LOCAL_WORLD_SIZE", "")
    if told.isdecimal() and int(told) > 0:
        return int(told)
    together = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    return max(min(together, torch.cuda.device_count()), 1)


def room(device: torch.device) -> Room:
    """What this process can still allocate on the device; infinite where it can't be known.

    Of the host's memory that is its share: each of the processes here takes a snapshot, and sees the same bytes free.
    """
    if device.type == "cpu":
        host, n = _host_room(), processes_here()
        return Room(host.free / n, host.total / n)
    module = torch.get_device_module(device)
    if not hasattr(module, "mem_get_info"):
        return Room(math.inf, math.inf)
    free, total = module.mem_get_info(device)
    # PyTorch's allocator keeps what it has got from the device.
    return Room(free + module.memory_reserved(device) - module.memory_allocated(device), total)


def choose(asked: str | os.PathLike[str], demand: Demand, room: Callable[[torch.device], Room] = room) -> Memory:
    """The memory for a snapshot. Logs it, and its size.

    Args:
        asked: "auto", "device", "host", "disk" or a directory.
        demand: estimated before the first step.
        room: of a device.

    Raises:
        ConfigError: it is none of these, or the disk has not enough room.
    """
    memory = _named(asked) if asked != "auto" else first_with_room(demand, room)
    if isinstance(memory, DiskMemory):
        memory.check(demand.nbytes, processes_here())
    log.info("lrpilot: the snapshot lives %s and takes about %s", memory, _readable(demand.nbytes))
    return memory


def _readable(nbytes: int) -> str:
    """A size to one decimal, at least 0.1 MB."""
    return f"{nbytes / 1e9:.1f} GB" if nbytes >= 1e9 else f"{max(nbytes / 1e6, 0.1):.1f} MB"


def _named(asked: str | os.PathLike[str]) -> Memory:
    match asked:
        case "device":
            return DeviceMemory()
        case "host":
            return HostMemory()
        case "disk":
            return DiskMemory(_default_directory())
    if isinstance(asked, str | os.PathLike) and os.path.isdir(asked):
        return DiskMemory(Path(asked))
    raise ConfigError(f"snapshot: {asked!r} is neither 'auto', 'device', 'host' or 'disk' nor a directory that exists")


def first_with_room(demand: Demand, room: Callable[[torch.device], Room]) -> Memory:
    """The memory that "auto" stands for; the disk, if nothing else has room, whether or not it has."""

    def fits(wanted: Mapping[torch.device, int]) -> bool:
        return all(n + demand.growth.get(device, 0) <= room(device).spare for device, n in wanted.items())

    if fits(demand.copies):
        return DeviceMemory()
    if demand.copies.keys() != {_HOST} and fits({_HOST: demand.nbytes}):
        return HostMemory()
    return DiskMemory(_default_directory())


def _default_directory() -> Path:
    """The folder for a snapshot on a disk: not /tmp, if there is a choice, since that is memory on many systems."""
    if directory := os.environ.get("TMPDIR"):
        return Path(directory)
    lasting = Path("/var/tmp")
    return lasting if lasting.is_dir() else Path(tempfile.gettempdir())


def _host_room() -> Room:
    """The free memory of this machine, or of the control groups that this process is in. Linux only."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return Room(math.inf, math.inf)
    kibibytes = {name: int(rest.split()[0]) for name, rest in (line.split(":") for line in lines)}
    machine = Room(kibibytes["MemAvailable"] * 1024, kibibytes["MemTotal"] * 1024)
    rooms = [machine, *control_group_rooms(Path("/"))]
    return Room(min(r.free for r in rooms), min(r.total for r in rooms))


def control_group_rooms(root: Path) -> Iterator[Room]:
    """The rooms that control groups allow, of version 1 and 2.

    Args:
        root: of the file system, where `proc` and `sys` are.

    Yields:
        Of the process's group and of each group above it. Limits can be set at every level. Inside a container the path
        may be the host's, of which only the last levels up exist.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        tree = root / "sys/fs/cgroup" / controllers
        names = ("memory.max", "memory.current") if not controllers else _VERSION_1
        group = tree / path.lstrip("/")
        for directory in (group, *group.parents):
            if (found := _group_room(directory, *names)) is not None:
                yield found
            if directory == tree:
                break


_VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes")


def _group_room(directory: Path, limit_name: str, usage_name: str) -> Room | None:
    try:
        limit = int((directory / limit_name).read_text())
        usage = int((directory / usage_name).read_text())
        statistics = dict(line.split() for line in (directory / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None  # No such group, or "max": no limit.
    # Version 1 counts the groups below under a name of its own. File pages that nobody uses make room when asked.
    idle = int(statistics.get("total_inactive_file", statistics["inactive_file"]))
    return Room(limit - usage + idle, limit)
