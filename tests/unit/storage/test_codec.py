from __future__ import annotations

import math

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from tuner_server.core.config import LrBounds
from tuner_server.core.errors import StorageError
from tuner_server.core.messages import Validation
from tuner_server.storage import codec

RAW, PACKED = b"\x00", b"\x01"


def bits(losses: tuple[float, ...] | codec.Series) -> list[int]:
    pattern: list[int] = np.asarray(losses, dtype=np.float64).astype("<f4").view("<u4").tolist()
    return pattern


@hypothesis.given(st.lists(st.floats(width=32)).map(tuple))
def test_losses_come_back_bit_for_bit(losses: tuple[float, ...]) -> None:
    decoded = codec.decode_losses(codec.encode_losses(losses))
    assert bits(decoded) == bits(losses)
    assert decoded.dtype == np.float32


def test_a_nan_keeps_its_sign_and_payload() -> None:
    quiet_nans = np.array([0x7FC00000, 0xFFC00000, 0x7FC12345, 0xFFFFFFFF], dtype="<u4")
    losses = tuple(quiet_nans.view("<f4").tolist())
    for repeats in (1, 100):  # raw, packed
        decoded = codec.decode_losses(codec.encode_losses(losses * repeats))
        assert bits(decoded) == quiet_nans.tolist() * repeats


def test_a_loss_in_double_precision_is_rounded() -> None:
    decoded = codec.decode_losses(codec.encode_losses((0.1, 1e-60, -1e300)))
    assert decoded.tolist() == [float(np.float32(0.1)), 0.0, -math.inf]


def test_the_format_is_the_documented_one() -> None:
    assert codec.encode_losses(()) == RAW
    assert codec.encode_losses((1.0, -2.0)) == RAW + b"\x00\x00\x80\x3f" + b"\x00\x00\x00\xc0"
    assert codec.encode_losses((1.0,) * 100)[:1] == PACKED
    assert codec.decode_losses(RAW + b"\x00\x00\x80\x3f").tolist() == [1.0]


series = st.integers(0, 20).flatmap(
    lambda n: st.dictionaries(
        st.from_regex(r"[a-z][a-z0-9_]*", fullmatch=True),
        st.lists(st.floats(width=32), min_size=n, max_size=n).map(tuple),
        min_size=1,
        max_size=4,
    )
)


@hypothesis.given(series)
def test_measures_come_back_bit_for_bit_and_in_order(measures: dict[str, tuple[float, ...]]) -> None:
    decoded = codec.decode_measures(codec.encode_measures(measures))
    assert list(decoded) == list(measures)
    assert [bits(values) for values in decoded.values()] == [bits(values) for values in measures.values()]


def test_the_format_of_measures_is_the_documented_one() -> None:
    assert codec.encode_measures({"a": (1.0,), "b": (-2.0,)}) == b'["a", "b"]\n' + codec.encode_losses((1.0, -2.0))


@pytest.mark.parametrize("head", [b"", b"nonsense\n", b"[]\n", b"7\n", b'["a", "b"]\n'])
def test_measures_that_are_none_can_not_be_read(head: bytes) -> None:
    with pytest.raises(StorageError, match="can't be read"):
        codec.decode_measures(head + RAW + bytes(4))


def test_losses_are_never_larger_than_float32_and_a_long_job_is_smaller() -> None:
    rng = np.random.default_rng(0)
    noise = np.frombuffer(rng.bytes(4000), dtype="<f4")
    assert len(codec.encode_losses(noise.tolist())) <= 4001
    steps = np.arange(100_000)
    losses = (2.3 * (1 + steps / 500) ** -0.3 * rng.lognormal(0, 0.1, len(steps))).astype("<f4")
    encoded = sum(len(codec.encode_losses(part.tolist())) for part in np.split(losses, 100))
    assert encoded < 0.9 * losses.nbytes


@pytest.mark.parametrize(
    "data", [b"", b"\x02abcd", RAW + b"abc", PACKED + b"abc", PACKED + b"x\x9cK\x04\x00\x00b\x00b"]
)
def test_broken_losses_are_a_storage_error(data: bytes) -> None:
    with pytest.raises(StorageError, match="losses"):
        codec.decode_losses(data)


def test_json_has_every_digit_and_no_bare_nan() -> None:
    validations = (Validation(step=1, loss=math.nan), Validation(step=2, loss=0.1 + 0.2))
    text = codec.validations_to_json(validations)
    assert text == '[{"step":1,"loss":"NaN"},{"step":2,"loss":0.30000000000000004}]'
    assert repr(codec.validations_from_json(text)) == repr(validations)


def test_broken_json_is_a_storage_error_that_says_where() -> None:
    with pytest.raises(StorageError, match=r"LrBounds can't be read: max: "):
        codec.from_json(LrBounds, '{"min": 1, "max": "high"}')
    with pytest.raises(StorageError, match="LrBounds can't be read: JSON: "):
        codec.from_json(LrBounds, "{")
    with pytest.raises(StorageError, match=r"validations can't be read: 0\.loss: "):
        codec.validations_from_json('[{"step": 1}]')
