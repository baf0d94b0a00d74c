"""Copies of what counters and permutations are made of: plain values, and tensors and arrays of one dimension.

Everything else is opaque, and so is what is larger than asked for.
"""

from __future__ import annotations

import collections
import sys
from collections.abc import Mapping
from typing import Any

OPAQUE: Any = object()
"""The copy of what is not made of plain values."""

SCALARS = frozenset((type(None), bool, int, float, complex, str, bytes))
"""Types whose values can't change, so that they are their own copies."""

_TOLD = (type(None), bool, int, float, str, bytes)
"""What a checkpoint holds as it is."""

_LARGEST_NEST = 256
"""The most elements of a container that holds containers, or is a dict."""

_SEQUENCES: dict[str, type[Any]] = {kind.__name__: kind for kind in (list, tuple, set, frozenset, collections.deque)}


def copied(value: Any, largest: int) -> Any:
    """A copy of a value of at most so many elements; `OPAQUE` if there is none."""
    kind = type(value)
    if kind in SCALARS:
        return value
    if kind is dict or kind.__name__ in _SEQUENCES:
        return _copied_container(value, largest)
    if _is_tensor(value):
        fits = value.device.type == "cpu" and value.layout is sys.modules["torch"].strided and value.ndim < 2
        return value.detach().clone() if fits and value.numel() <= largest else OPAQUE
    if _is_array(value):
        return value.copy() if value.ndim < 2 and value.dtype.kind in "biuf" and value.size <= largest else OPAQUE
    return value if _is_fixed(value) else OPAQUE


def same(a: Any, b: Any) -> bool:
    """Whether two copies are equal; a tensor with a NaN equals none."""
    if a is b or type(a) is not type(b):
        return a is b
    if _is_tensor(a):
        return a.dtype == b.dtype and bool(a.equal(b))
    if _is_array(a):
        return a.dtype == b.dtype and a.shape == b.shape and bool(a.tobytes() == b.tobytes())
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple | collections.deque) and not _is_flat(a):
        return len(a) == len(b) and all(map(same, a, b))
    return not _is_jax(a) and bool(a == b)


def refill(value: Any, content: Any) -> bool:
    """Gives an object the content of a copy, in place; false if it is not of a kind that can be changed."""
    if type(value) is not type(content) or type(value) in SCALARS:
        return False
    if same(value, content):
        return True
    content = copied(content, sys.maxsize)
    if isinstance(value, list):
        value[:] = content
    elif isinstance(value, dict | set):
        value.clear()
        value.update(content)
    elif isinstance(value, collections.deque):
        value.clear()
        value.extend(content)
    elif (_is_tensor(value) or (_is_array(value) and value.flags.writeable)) and value.shape == content.shape:
        if value.dtype != content.dtype:
            return False
        value.data.copy_(content) if _is_tensor(value) else value.__setitem__(..., content)
    else:
        return False
    return True


def encoded(content: Any) -> Any:
    """A copy for a checkpoint, of plain values with string keys, and tensors."""
    kind = type(content)
    if kind in _TOLD or _is_tensor(content):
        return content
    if kind is complex:
        return {"kind": "complex", "value": [content.real, content.imag]}
    if kind is dict:
        return {"kind": "dict", "value": [[encoded(key), encoded(value)] for key, value in content.items()]}
    if kind.__name__ in _SEQUENCES:
        limit = {"maxlen": content.maxlen} if kind is collections.deque else {}
        return {"kind": kind.__name__, "value": list(map(encoded, content)), **limit}
    if _is_jax(content):
        return _encoded_jax(content)
    return {"kind": "array" if _is_array(content) else "scalar", "dtype": str(content.dtype), "value": content.tolist()}


def decoded(state: Any) -> Any:
    """What `encoded` was given."""
    if not isinstance(state, Mapping):
        return state
    kind, value = state["kind"], state["value"]
    if kind == "complex":
        return complex(*value)
    if kind == "dict":
        return {decoded(key): decoded(each) for key, each in value}
    if kind == "deque":
        return collections.deque(map(decoded, value), state["maxlen"])
    if kind in _SEQUENCES:
        return _SEQUENCES[kind](map(decoded, value))
    if kind in ("jax", "jax key"):
        return _decoded_jax(state)
    import numpy

    array = numpy.array(value, state["dtype"])
    return array if kind == "array" else array[()]


def _copied_container(value: Any, largest: int) -> Any:
    if len(value) > largest:
        return OPAQUE
    if type(value) is dict:
        if len(value) > _LARGEST_NEST:
            return OPAQUE
        values = [copied(each, largest) for each in value.values()]
        plain = SCALARS.issuperset(map(type, value)) and all(each is not OPAQUE for each in values)
        return dict(zip(value, values, strict=True)) if plain else OPAQUE
    if _is_flat(value):
        return value.copy() if hasattr(value, "copy") else value
    if len(value) > _LARGEST_NEST:
        return OPAQUE
    items = [copied(each, largest) for each in value]
    if any(each is OPAQUE for each in items):
        return OPAQUE
    return collections.deque(items, value.maxlen) if isinstance(value, collections.deque) else type(value)(items)


def _is_flat(value: Any) -> bool:
    return SCALARS.issuperset(map(type, value))


def _is_tensor(value: Any) -> bool:
    return (torch := sys.modules.get("torch")) is not None and type(value) is torch.Tensor


def _is_array(value: Any) -> bool:
    return (numpy := sys.modules.get("numpy")) is not None and type(value) is numpy.ndarray


def _is_fixed(value: Any) -> bool:
    """Whether a value is a number of NumPy's, or an array of JAX's (a random key, say): neither can be changed."""
    if (numpy := sys.modules.get("numpy")) and isinstance(value, numpy.number | numpy.bool_):
        return True
    return _is_jax(value) and value.ndim < 2 and value.size <= 4


def _is_jax(value: Any) -> bool:
    array = getattr(sys.modules.get("jax"), "Array", None)
    return array is not None and isinstance(value, array)


def _encoded_jax(array: Any) -> dict[str, Any]:
    import jax
    import numpy

    if not jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key):
        data = numpy.asarray(array)
        return {"kind": "jax", "dtype": str(data.dtype), "value": data.tolist()}
    data = numpy.asarray(jax.random.key_data(array))
    impl = str(jax.random.key_impl(array))
    return {"kind": "jax key", "dtype": str(data.dtype), "value": data.tolist(), "impl": impl}


def _decoded_jax(state: Mapping[str, Any]) -> Any:
    import jax

    array = jax.numpy.asarray(state["value"], state["dtype"])
    return array if state["kind"] == "jax" else jax.random.wrap_key_data(array, impl=state["impl"])
