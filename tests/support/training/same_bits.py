"""Whether two states of a training run are the same, bit for bit."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch


def assert_same(a: Any, b: Any, path: str = "", *, nan_is_nan: bool = False) -> None:
    """Fails unless the same tensors and values are at the same places.

    With `nan_is_nan`, what is no number may be at both of two places; otherwise it must be at none.
    """
    assert type(a) is type(b), path
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype, path
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=nan_is_nan, msg=lambda message: f"{path}: {message}")
    elif isinstance(a, np.ndarray):
        assert np.array_equal(a, b, equal_nan=nan_is_nan), path
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            assert_same(a[key], b[key], f"{path}.{key}", nan_is_nan=nan_is_nan)
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), path
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{path}[{i}]", nan_is_nan=nan_is_nan)
    elif nan_is_nan and isinstance(a, float) and math.isnan(a):
        assert math.isnan(b), path
    else:
        assert a == b, path
