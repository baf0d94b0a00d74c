"""State dicts as bytes, without pickle: whoever reads a file need not trust it.

An npz archive of NumPy's: every array is an entry of raw bytes, and the entry "tree" says in JSON what is where. In it
a number, a string, a truth value and None stand for themselves; anything else is an object of one key, its kind.
"""

from __future__ import annotations

import base64
import io
import json
import sys
from typing import Any

import numpy as np


def dumps(state: Any) -> bytes:
    """A state of dicts with string keys, lists, tuples, bytes, arrays (NumPy's, PyTorch's) and plain values.

    Raises:
        TypeError: something else is in it.
    """
    arrays: list[np.ndarray[Any, Any]] = []
    tree = json.dumps(_encoded(state, arrays))
    entries = {str(i): np.frombuffer(array.tobytes(), np.uint8) for i, array in enumerate(arrays)}
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, tree=np.frombuffer(tree.encode(), np.uint8), **entries)
    return file.getvalue()


def loads(data: bytes) -> Any:
    """What `dumps` was given. Raises: ValueError: the bytes are something else."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            tree = json.loads(archive["tree"].tobytes())
            return _decoded(tree, archive)
    except (KeyError, OSError) as error:
        raise ValueError("state: these bytes hold none") from error


def _encoded(node: Any, arrays: list[np.ndarray[Any, Any]]) -> Any:
    if node is None or isinstance(node, bool | int | float | str):
        return node
    if isinstance(node, dict):
        if not all(isinstance(key, str) for key in node):
            raise TypeError("state: the keys of its dicts must be strings")
        return {"dict": {key: _encoded(value, arrays) for key, value in node.items()}}
    if isinstance(node, list | tuple):
        return {type(node).__name__: [_encoded(value, arrays) for value in node]}
    if isinstance(node, bytes):
        return {"bytes": base64.b64encode(node).decode()}
    kind = "array"
    if (torch := sys.modules.get("torch")) and isinstance(node, torch.Tensor):
        kind, node = "tensor", node.numpy(force=True)
    if not isinstance(node, np.ndarray | np.generic):
        raise TypeError(f"state: a {type(node).__name__} can't be saved as plain values")
    arrays.append(np.asarray(node))
    return {kind: [len(arrays) - 1, str(node.dtype), list(node.shape)]}


def _decoded(node: Any, archive: Any) -> Any:
    if not isinstance(node, dict):
        return node
    ((kind, value),) = node.items()
    match kind:
        case "dict":
            return {key: _decoded(child, archive) for key, child in value.items()}
        case "list":
            return [_decoded(child, archive) for child in value]
        case "tuple":
            return tuple(_decoded(child, archive) for child in value)
        case "bytes":
            return base64.b64decode(value)
        case "array":
            return _array(value, archive)
        case "tensor":
            import torch

            return torch.from_numpy(_array(value, archive))
    raise ValueError(f"state: {kind!r} is not known to this LRPilot")


def _array(value: Any, archive: Any) -> np.ndarray[Any, Any]:
    place, dtype, shape = value
    # A copy, because what is read from bytes can't be written to.
    return np.frombuffer(archive[str(place)].tobytes(), np.dtype(dtype)).reshape(shape).copy()
