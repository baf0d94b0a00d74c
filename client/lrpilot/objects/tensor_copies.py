"""Copies of tensors that compute what the originals compute, to the last bit.

A copy has the same values, dtype, device, shape, strides and subclass, and lies equally far from a cache line: kernels
choose how they add up by strides and alignment. Tensors that share memory share it in their copies too, so that a
change of one is seen in the other. A view is copied without the rest of its storage.

Imported when the first tensor is met: the client works without PyTorch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from lrpilot.objects.spans import ALIGNMENT, Span, clusters, is_compact


def copied(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """A copy of each of some different tensors, made together.

    Raises:
        RuntimeError: one is of a kind that can't be copied, or there is no memory.
    """
    copies: list[torch.Tensor | None] = [None] * len(tensors)
    for is_inference in (False, True):
        places = [place for place, tensor in enumerate(tensors) if tensor.is_inference() is is_inference]
        if places:
            # Subclasses hear nothing of it, and whatever mode the caller is in, a copy is what its original is.
            with torch.inference_mode(is_inference), torch.no_grad(), torch._C.DisableTorchFunctionSubclass():
                for place, copy in _copied([tensors[place] for place in places]):
                    copies[places[place]] = copy
    return [copy for copy in copies if copy is not None]


def is_trained(tensor: torch.Tensor) -> bool:
    """Whether it is a parameter, or made from one. A subclass hears nothing of it."""
    with torch._C.DisableTorchFunctionSubclass():
        return tensor.requires_grad


def has_history(tensor: torch.Tensor) -> bool:
    """Whether it was computed from a parameter. A subclass hears nothing of it."""
    with torch._C.DisableTorchFunctionSubclass():
        return tensor.grad_fn is not None


def _copied(tensors: Sequence[torch.Tensor]) -> Iterator[tuple[int, torch.Tensor]]:
    spans = []
    for place, tensor in enumerate(tensors):
        if _is_strided(tensor) and (span := _span(tensor, place)):
            spans.append(span)
        else:
            yield place, _finished(tensor, _clone(tensor))
    for cluster in clusters(spans):
        members = [tensors[span.place] for span in cluster]
        if len(members) == 1 and members[0].is_contiguous() and _is_aligned(members[0]):
            copies = [_clone(members[0])]
        else:
            copies = _copied_block(members, cluster)
        for span, tensor, copy in zip(cluster, members, copies, strict=True):
            yield span.place, _finished(tensor, copy)


def _is_strided(tensor: torch.Tensor) -> bool:
    """Whether the values are plain memory: no sparse, nested, quantised, meta or wrapper tensor, and no lazy view."""
    return not (
        tensor.layout is not torch.strided
        or tensor.is_quantized
        or tensor.is_meta
        or tensor.is_nested
        or tensor.is_conj()
        or tensor.is_neg()
        or _is_wrapper(tensor)
    )


def _is_wrapper(tensor: torch.Tensor) -> bool:
    return type(tensor).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__


def _span(tensor: torch.Tensor, place: int) -> Span | None:
    """The memory of a tensor; None if it has none, or so much besides its values that these are better copied alone."""
    address, itemsize = tensor.data_ptr(), tensor.itemsize
    if address == 0 or tensor.numel() == 0 or address % itemsize:
        return None
    if tensor.is_contiguous():
        return Span(place, address, address + tensor.nbytes, tensor.device)
    reach = 1 + sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.stride(), strict=True))
    if not is_compact(reach * itemsize, itemsize, tensor.shape, tensor.stride()):
        return None
    return Span(place, address, address + reach * itemsize, tensor.device)


def _is_aligned(tensor: torch.Tensor) -> bool:
    return tensor.data_ptr() % ALIGNMENT == 0 and not _is_pinned(tensor)


def _is_pinned(tensor: torch.Tensor) -> bool:
    initialized: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return initialized and tensor.device.type == "cpu" and tensor.is_pinned()


def _clone(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().clone()


def _copied_block(tensors: Sequence[torch.Tensor], spans: Sequence[Span]) -> list[torch.Tensor]:
    """Copies of tensors that share memory, which share it too."""
    start, stop = min(span.start for span in spans), max(span.stop for span in spans)
    device, pinned = tensors[0].device, _is_pinned(tensors[0])
    block = torch.empty(stop - start + ALIGNMENT, dtype=torch.uint8, device=device, pin_memory=pinned)
    first = (start - block.data_ptr()) % ALIGNMENT
    copies = []
    for tensor, span in zip(tensors, spans, strict=True):
        storage, offset, size = tensor.untyped_storage(), first + span.start - start, span.stop - span.start
        source = torch.empty(0, dtype=torch.uint8, device=device)
        source.set_(storage, span.start - storage.data_ptr(), (size,), (1,))
        block[offset : offset + size].copy_(source)
        copy = torch.empty(0, dtype=tensor.dtype, device=device)
        copy.set_(block.untyped_storage(), offset // tensor.itemsize, tensor.size(), tensor.stride())
        copies.append(copy)
    return copies


def _finished(tensor: torch.Tensor, copy: torch.Tensor) -> torch.Tensor:
    """The copy with its class."""
    return copy if type(copy) is type(tensor) else torch.Tensor._make_subclass(type(tensor), copy)
