"""A tensor's form: all of it but its values.

A probe may resize a tensor (observers of quantisation do), give it other data (`parameter.data = ...`), materialise it
(lazy modules) or freeze it. The form puts the same object back to the same memory, so that what shared it shares it
again, and a copy of the values fits.
"""

from __future__ import annotations

import contextlib

import torch
from torch.nn.parameter import is_lazy

_OWN_CLASSES = (torch.Tensor, torch.nn.Parameter)
"""PyTorch's own, of nearly all tensors."""


class TensorForm:
    """The form of one tensor, now. It holds on to the tensor's memory, and to none of its values."""

    __slots__ = ("_data", "_kind", "_nbytes", "_requires_grad", "_storage", "_tensor")

    def __init__(self, tensor: torch.Tensor) -> None:
        """Notes where the values lie, and how."""
        self._tensor = tensor
        self._kind = type(tensor)
        self._requires_grad = tensor.requires_grad if tensor.is_leaf else None
        self._data = tensor.data if _is_plain(tensor) else None
        self._storage = self._data.untyped_storage() if self._data is not None else None
        self._nbytes = self._storage.nbytes() if self._storage is not None else 0

    def holds(self) -> bool:
        """Whether the tensor's values lie where they lay, and as they lay; false where that is not known."""
        data, storage = self._data, self._storage
        if data is None or storage is None or type(self._tensor) is not self._kind:
            return False
        return storage.nbytes() == self._nbytes and not _differs(self._tensor, data)

    def is_current(self) -> bool:
        """Whether the tensor has all of this form now."""
        tensor = self._tensor
        return (tensor.requires_grad if tensor.is_leaf else None) is self._requires_grad and self.holds()

    def restore(self, *, unfreeze: bool = True) -> None:
        """Gives the tensor its form back; `unfreeze` False: whether it is trained stays as it is."""
        tensor, data = self._tensor, self._data
        if type(tensor) is not self._kind:
            tensor.__class__ = self._kind
        if data is not None and self._storage is not None:
            nbytes = self._storage.nbytes()
            if nbytes < self._nbytes or (nbytes and not self._nbytes):
                self._storage.resize_(self._nbytes)
            if _differs(tensor, data):
                tensor.data = data
        if self._requires_grad is not None and not tensor.is_leaf:  # something was added to it in place
            _cut(tensor)
        if unfreeze:
            self.unfreeze()

    def unfreeze(self) -> None:
        """Has the tensor, a leaf, trained or frozen as it was."""
        if self._requires_grad is not None and self._tensor.requires_grad is not self._requires_grad:
            self._tensor.requires_grad_(self._requires_grad)


def has_values(tensor: torch.Tensor) -> bool:
    """Whether there is memory behind a tensor: a lazy module has none yet, and some let it go when they don't need it.

    To read such a tensor would end the process. A tensor that is made of others has none of its own.
    """
    known = type(tensor) in _OWN_CLASSES and tensor.layout is torch.strided
    # A look at the storage takes longer. Where there is none, what begins within it has an address all the same.
    if known and tensor.data_ptr() and not tensor.storage_offset():
        return True
    if _is_plain(tensor) and not is_lazy(tensor):
        return tensor.untyped_storage().nbytes() > 0 or not tensor.numel()
    made_of_others = hasattr(type(tensor), "__tensor_flatten__") and not hasattr(tensor, "to_local")
    return not (is_lazy(tensor) or tensor.is_meta or made_of_others)


def _cut(tensor: torch.Tensor) -> None:
    """Makes a leaf of a tensor, in its place."""
    if not tensor._is_view():
        tensor.detach_()
        return
    leaf = tensor.detach()
    leaf.__dict__.update(tensor.__dict__)
    with contextlib.suppress(RuntimeError):  # a graph still holds it: its values are put back, and it keeps a history
        torch.utils.swap_tensors(tensor, leaf)  # type: ignore[no-untyped-call]  # torch leaves it unannotated


def _is_plain(tensor: torch.Tensor) -> bool:
    """Whether it is strided memory of its own, which another tensor object can stand for."""
    cls = type(tensor)
    if is_lazy(tensor):
        return True
    ours = cls in _OWN_CLASSES or cls.__torch_dispatch__ == torch.Tensor.__torch_dispatch__
    return ours and tensor.layout is torch.strided and not (tensor.is_meta or tensor.is_nested)


def _differs(tensor: torch.Tensor, data: torch.Tensor) -> bool:
    if type(tensor) not in _OWN_CLASSES and is_lazy(tensor):
        return bool(tensor.data.data_ptr() != data.data_ptr())
    if tensor.is_quantized:
        return tensor.data_ptr() != data.data_ptr() or tensor.stride() != data.stride()
    return tensor.dtype is not data.dtype or tensor.device != data.device or not tensor.is_set_to(data)
