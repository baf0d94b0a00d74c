import math
import pickle
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from lrpilot.integrations import state_bytes
from lrpilot.rng import RandomState

STATE: dict[str, Any] = {
    "none": None,
    "numbers": [True, -1, 2**70, 0.1, math.inf],
    "nested": ({"": []}, (), "ä"),
    "bytes": b"\x00\xff",
}


def test_plain_values_come_back_as_they_were() -> None:
    back = state_bytes.loads(state_bytes.dumps(STATE))
    assert back == STATE
    assert back["numbers"][0] is True


@pytest.mark.parametrize("dtype", ["float32", "int64", "bool", "uint8", "bfloat16"])
def test_arrays_keep_type_and_shape(dtype: str) -> None:
    array = np.arange(6).reshape(2, 3).astype(getattr(ml_dtypes, dtype, dtype))
    array, scalar = state_bytes.loads(state_bytes.dumps([array, array[1, 2]]))
    assert array.dtype == scalar.dtype == dtype
    assert array.tolist() == np.arange(6).reshape(2, 3).astype(array.dtype).tolist()
    assert scalar.shape == ()
    array[0] = 0  # May be written to.


def test_a_random_state_with_pytorch_comes_back() -> None:
    np.random.seed(0)
    state = RandomState.capture()
    drawn = torch.rand(3).tolist(), np.random.random()
    RandomState.from_state_dict(state_bytes.loads(state_bytes.dumps(state.state_dict()))).restore()
    assert (torch.rand(3).tolist(), np.random.random()) == drawn


@pytest.mark.parametrize("state", [{1: 2}, [object()], {"a": {3}}])
def test_what_is_not_plain_is_refused(state: Any) -> None:
    with pytest.raises(TypeError, match="state: "):
        state_bytes.dumps(state)


def test_a_pickle_is_not_read() -> None:
    with pytest.raises(ValueError, match=r"allow_pickle|pickled|state: "):
        state_bytes.loads(pickle.dumps(STATE))
