"""Where copies of tensors live, and how values get there and back.

A tensor's *values* are a plain strided (or sparse) tensor: of a distributed tensor the local shard, of an expanded one
what was expanded. Copies keep the order of the elements in memory wherever they are, so that a copy is one `memcpy`.

Sparse tensors, which are gradients of embeddings, are copied to where they are, whatever the memory: they are small,
and their size changes from step to step.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import mmap
import os
import shutil
import tempfile
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Protocol

import torch

from lrpilot.backends.torch.asynchronous import Mark, empty_on_host, follow, mark, runs_ahead
from lrpilot.errors import ConfigError

_HOST = torch.device("cpu")
# Of a tensor within a file: a cache line, and a multiple of every element's size.
_ALIGNMENT = 64
# Of pinned memory, which is asked for in powers of two. Larger tensors have larger blocks.
_BLOCK = 1 << 28
# Bytes at once, where a file has to be filled to be sure of its room.
_CHUNK = 1 << 20


class Memory(Protocol):
    """Where copies live. Its string says so in a sentence: "the snapshot lives ..."."""

    def allocate(self, tensors: Sequence[torch.Tensor], old: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """A copy's tensor for each of `tensors`, not filled; `old`, of an earlier call, is used again if it fits.

        If it raises, `old` is as it was.
        """

    def another(self) -> Memory:
        """Makes the memory for another snapshot beside this one."""


class DeviceMemory:
    """Beside the tensors."""

    def allocate(self, tensors: Sequence[torch.Tensor], old: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """See `Memory.allocate`."""
        return _pooled(
            tensors, old, lambda tensor: (tensor.device, *kind(tensor)), lambda new: [*map(torch.empty_like, new)]
        )

    def another(self) -> DeviceMemory:
        """Holds nothing itself."""
        return self

    def __str__(self) -> str:
        return "on the device"


class HostMemory:
    """Copies in the host's memory, pinned for tensors of a GPU, so that copies need not be waited for.

    Pinned memory comes in powers of two, so small copies share few blocks of it, and large ones are filled up.
    """

    def allocate(self, tensors: Sequence[torch.Tensor], old: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """See `Memory.allocate`."""

        def allocate(new: Sequence[torch.Tensor]) -> list[torch.Tensor]:
            pinned = [tensor for tensor in new if tensor.layout is torch.strided and runs_ahead(tensor.device)]
            sizes, places = blocks([_aligned(tensor) for tensor in pinned])
            device = pinned[0].device if pinned else _HOST
            storages = [empty_on_host(size, torch.uint8, device).untyped_storage() for size in sizes]
            views = iter([_view(storages[n], start, t) for t, (n, start) in zip(pinned, places, strict=True)])
            of_views = set(map(id, pinned))
            return [next(views) if id(tensor) in of_views else _on_host(tensor) for tensor in new]

        # Every copy is used again for tensors of one kind of device: pinned or not is no part of the key.
        return _pooled(tensors, old, kind, allocate)

    def another(self) -> HostMemory:
        """Holds nothing itself."""
        return self

    def __str__(self) -> str:
        return "in host memory"


class DiskMemory:
    """Copies in a nameless file, which the operating system removes with the process, however that ends.

    The file is mapped into memory. Its room is claimed first: to write to a mapping of a full disk kills the process.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._mapping: mmap.mmap | None = None

    def allocate(self, tensors: Sequence[torch.Tensor], old: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """See `Memory.allocate`. Raises: ConfigError: the disk has no room."""
        strided = [tensor for tensor in tensors if tensor.layout is torch.strided]
        offsets, nbytes = [], 0
        for tensor in strided:
            offsets.append(nbytes)
            nbytes += _aligned(tensor)
        storage = torch.frombuffer(self._mapped(nbytes), dtype=torch.uint8).untyped_storage()
        views = iter([_view(storage, offset, tensor) for offset, tensor in zip(offsets, strided, strict=True)])
        return [next(views) if tensor.layout is torch.strided else torch.empty_like(tensor) for tensor in tensors]

    def another(self) -> DiskMemory:
        """A file of its own."""
        return DiskMemory(self._directory)

    def check(self, nbytes: int, processes: int = 1) -> None:
        """Looks for room for so many bytes of each of so many processes.

        Raises:
            ConfigError: the directory has not enough, or can't be written to.
        """
        try:
            with tempfile.TemporaryFile(dir=self._directory):
                free = shutil.disk_usage(self._directory).free
        except OSError as error:
            raise ConfigError(f"snapshot: {self._directory}: {error.strerror}; give another directory") from error
        if nbytes * processes > free:
            raise self._full(nbytes, processes)

    def _mapped(self, nbytes: int) -> mmap.mmap:
        if self._mapping is None or nbytes > len(self._mapping):
            nbytes = max(nbytes, mmap.PAGESIZE)
            self.check(nbytes)
            # The mapping keeps the file, and tensors keep the mapping.
            with tempfile.TemporaryFile(dir=self._directory) as file:
                try:
                    _claim(file, nbytes)
                except OSError as error:
                    raise self._full(nbytes) from error
                self._mapping = mmap.mmap(file.fileno(), nbytes)
        return self._mapping

    def _full(self, nbytes: int, processes: int = 1) -> ConfigError:
        free = shutil.disk_usage(self._directory).free
        each = f" by each of {processes} processes" if processes > 1 else ""
        return ConfigError(
            f"snapshot: {nbytes:,} bytes are needed in {self._directory}{each}, {free:,} are free; give another "
            "directory"
        )

    def __str__(self) -> str:
        return f"on disk, in {self._directory}"


class Pairs:
    """Tensors and copies of their values, sorted once: those of a kind are copied by one kernel, there and back."""

    def __init__(self, tensors: Sequence[torch.Tensor], copies: Sequence[torch.Tensor]) -> None:
        """Sorts them; what they hold is not looked at."""
        self.tensors = tensors
        self.copies = copies
        self.devices = {tensor.device for tensor in tensors}
        """Where the tensors are."""
        self._elsewhere: list[tuple[torch.Tensor, torch.Tensor]] = []
        kinds: dict[Hashable, tuple[list[torch.Tensor], list[torch.Tensor]]]
        kinds = collections.defaultdict(lambda: ([], []))
        for tensor, own in zip(tensors, copies, strict=True):
            if tensor.device != own.device:
                self._elsewhere.append((tensor, own))
                continue
            of_kind = kinds[tensor.device, tensor.dtype, tensor.layout]
            of_kind[0].append(tensor)
            of_kind[1].append(own)
        self._beside = [*kinds.values()]

    def keep(self) -> None:
        """Gives the copies the values of their tensors."""
        for tensor, own in self._elsewhere:
            _copy_elsewhere(tensor, own)
        for tensors, copies in self._beside:
            torch._foreach_copy_(copies, tensors)

    def give_back(self) -> None:
        """Gives the tensors the values of their copies."""
        for tensor, own in self._elsewhere:
            _copy_elsewhere(own, tensor)
        for tensors, copies in self._beside:
            torch._foreach_copy_(tensors, copies)


def paired(memory: Memory, old: Sequence[torch.Tensor], *parts: Sequence[torch.Tensor]) -> list[Pairs]:
    """The values of tensors, part by part, and memory for them that is allocated at once; `old` is used again."""
    of_parts = [[*map(values, part)] for part in parts]
    copies = iter(memory.allocate([each for part in of_parts for each in part], old))
    return [Pairs(part, [*itertools.islice(copies, len(part))]) for part in of_parts]


def _copy_elsewhere(source: torch.Tensor, target: torch.Tensor) -> None:
    """Copies values to another device, without waiting for any that works on its own."""
    # Elements in the same order: one asynchronous copy. Otherwise PyTorch puts them in order in between, and on the
    # host it would do so before they have arrived.
    # To memory of the host that is not pinned, or of a device that knows no other, it is waited for.
    ahead = runs_ahead(source.device) or runs_ahead(target.device)
    target.copy_(source, non_blocking=ahead and source.stride() == target.stride())


class CopyOrder:
    """Keeps copies in order on devices that work on their own.

    Copies go by the current streams. Should a caller's current stream have changed, the next copy waits, on the device,
    for the last: pinned memory is neither read before it is filled nor filled while it is read.
    """

    def __init__(self) -> None:
        self._last: dict[torch.device, Mark] = {}

    @contextlib.contextmanager
    def on(self, devices: Iterable[torch.device]) -> Iterator[None]:
        """What is copied inside comes after what was copied in such a block before, on such devices."""
        ahead = {device for device in devices if runs_ahead(device)}
        for device in ahead & self._last.keys():
            follow(device, self._last[device])
        yield
        for device in ahead:
            self._last[device] = mark(device)


def values(tensor: torch.Tensor) -> torch.Tensor:
    """What a tensor keeps in memory: the local shard of a distributed one, what was expanded to an expanded one.

    Elements of an expanded tensor share memory and can't be written apart. No communication.
    """
    if hasattr(tensor, "to_local"):
        tensor = tensor.to_local()
    if tensor.is_nested:
        tensor = tensor.values()
    if tensor.is_conj():
        tensor = tensor.conj()  # without the mark that says so
    if tensor.is_neg():
        tensor = torch._neg_view(tensor)
    if tensor.layout is not torch.strided or 0 not in tensor.stride():
        return tensor
    strided = zip(tensor.shape, tensor.stride(), strict=True)
    size = [1 if n > 1 and step == 0 else n for n, step in strided]
    return tensor.as_strided(size, tensor.stride(), tensor.storage_offset())


def kind(tensor: torch.Tensor) -> tuple[Hashable, ...]:
    """What values and their copy have in common."""
    return tensor.dtype, tensor.layout, tensor.shape, _dense_stride(tensor)


def nbytes(tensor: torch.Tensor) -> int:
    """Bytes of a tensor's values."""
    if tensor.layout is torch.strided:
        return tensor.nbytes
    if tensor.layout is torch.sparse_coo:
        return nbytes(tensor._values()) + nbytes(tensor._indices())
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return sum(map(nbytes, (tensor.values(), tensor.crow_indices(), tensor.col_indices())))
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return sum(map(nbytes, (tensor.values(), tensor.ccol_indices(), tensor.row_indices())))
    return tensor.numel() * tensor.itemsize


def _dense_stride(tensor: torch.Tensor) -> tuple[int, ...] | None:
    """The strides of a copy: without gaps, dimensions in the same order in memory."""
    if tensor.layout is not torch.strided:
        return None
    return tensor.stride() if tensor.is_contiguous() else torch.empty_like(tensor, device="meta").stride()


def _pooled(
    tensors: Iterable[torch.Tensor],
    old: Iterable[torch.Tensor],
    key: Callable[[torch.Tensor], Hashable],
    allocate: Callable[[Sequence[torch.Tensor]], Iterable[torch.Tensor]],
) -> list[torch.Tensor]:
    """Memory for the values of `tensors`, out of `old` as far as it fits; what is new is allocated at once."""
    pool: dict[Hashable, list[torch.Tensor]] = collections.defaultdict(list)
    for tensor in old:
        pool[key(tensor)].append(tensor)
    memory = []
    for tensor in tensors:
        fitting = pool[key(tensor)]
        memory.append(fitting.pop() if fitting else None)
    pairs = zip(tensors, memory, strict=True)
    new = iter(allocate([tensor for tensor, used in pairs if used is None]))
    return [next(new) if used is None else used for used in memory]


def blocks(sizes: Sequence[int]) -> tuple[list[int], list[tuple[int, int]]]:
    """Stretches of memory of such sizes, in bytes, laid out in few blocks whose sizes are powers of two.

    Returns:
        The blocks' sizes; and for each stretch the number of its block, and where in that it starts.
    """
    totals: list[int] = []
    filled: list[int] = []
    places: list[tuple[int, int]] = [(0, 0)] * len(sizes)
    left = sum(sizes)
    for i in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        size = sizes[i]
        fits = (n for n, (total, end) in enumerate(zip(totals, filled, strict=True)) if total - end >= size)
        block = next(fits, None)
        if block is None:
            block = len(totals)
            totals.append(_block_size(size, left))
            filled.append(0)
        places[i] = block, filled[block]
        filled[block] += size
        left -= size
    return totals, places


def _block_size(size: int, left: int) -> int:
    """A power of two that holds a stretch, and as much as possible of all that are left, and little else."""
    smallest = 1 << max(size - 1, 0).bit_length()
    if left >= _BLOCK > size:
        return _BLOCK
    if smallest > _BLOCK:  # several of a size may fill a larger block better
        larger = [smallest << n for n in range(3) if smallest << n <= left or n == 0]
        return max(larger, key=lambda total: total // size * size / total)
    return max(smallest, 1 << max(left.bit_length() - 1, 0))


def _aligned(tensor: torch.Tensor) -> int:
    """Bytes of a strided tensor's values, rounded up so that another may follow."""
    return -(-tensor.numel() * tensor.itemsize // _ALIGNMENT) * _ALIGNMENT


def _on_host(tensor: torch.Tensor) -> torch.Tensor:
    """Memory for a copy that shares none; sparse tensors stay where they are."""
    return torch.empty_like(tensor, device="cpu") if tensor.layout is torch.strided else torch.empty_like(tensor)


def _view(storage: torch.UntypedStorage, offset: int, tensor: torch.Tensor) -> torch.Tensor:
    stride = _dense_stride(tensor)
    assert stride is not None
    view = torch.empty(0, dtype=tensor.dtype, device="cpu")
    return view.set_(storage, offset // tensor.itemsize, tensor.shape, stride)


def _claim(file: IO[bytes], nbytes: int) -> None:
    """Makes the file so long that the disk has room for all of it."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, nbytes)
        return
    for start in range(0, nbytes, _CHUNK):
        file.write(bytes(min(_CHUNK, nbytes - start)))
    file.flush()
