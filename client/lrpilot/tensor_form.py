"""A tensor's form: all of it but its values.

A probe may resize a tensor (observers of quantisation do), give it other data (`parameter.data = ...`), materialise it
(lazy modules) or freeze it. The form puts the same object back to the same memory, so that what shared it shares it
again, and a copy of the values fits.
"""

from __future__ import annotations

import torch
from torch.nn.parameter import is_lazy


class TensorForm:
    """Of one tensor, now. It holds on to the tensor's memory, and to none of its values."""

    __slots__ = ("_data", "_kind", "_needed", "_requires_grad", "_tensor")

    def __init__(self, tensor: torch.Tensor) -> None:
        """Notes where the values lie, and how."""
        self._tensor = tensor
        self._kind = type(tensor)
        self._requires_grad = tensor.requires_grad if tensor.is_leaf else None
        self._data = tensor.data if _is_plain(tensor) else None
        self._needed = self._data.untyped_storage().nbytes() if self._data is not None else 0

    def restore(self, *, unfreeze: bool = True) -> None:
        """Gives the tensor its form back; `unfreeze` False: whether it is trained stays as it is."""
        tensor, data = self._tensor, self._data
        if type(tensor) is not self._kind:
            tensor.__class__ = self._kind
        if data is not None:
            if data.untyped_storage().nbytes() < self._needed:
                data.untyped_storage().resize_(self._needed)
            if _differs(tensor, data):
                tensor.data = data
        if unfreeze and self._requires_grad is not None and tensor.requires_grad is not self._requires_grad:
            tensor.requires_grad_(self._requires_grad)


def _is_plain(tensor: torch.Tensor) -> bool:
    """Whether it is strided memory of its own, which another tensor object can stand for."""
    if is_lazy(tensor):
        return True
    dispatched = type(tensor).__torch_dispatch__ != torch.Tensor.__torch_dispatch__
    return tensor.layout is torch.strided and not dispatched and not tensor.is_meta


def _differs(tensor: torch.Tensor, data: torch.Tensor) -> bool:
    if is_lazy(tensor):
        return bool(tensor.data.data_ptr() != data.data_ptr())
    return tensor.dtype is not data.dtype or tensor.device != data.device or not tensor.is_set_to(data)
