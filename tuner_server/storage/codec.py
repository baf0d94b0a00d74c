"""Turns values of the core into what a column holds, and back.

Losses are stored as one byte that names the encoding, then n little-endian float32. Measures are stored as a JSON list
of their names, a line feed, and the values of one after the other as losses are. The encodings:

- RAW: as they are.
- PACKED: byte planes (all first bytes, then all second bytes, ...), compressed by zlib. The bytes of sign and exponent
  hardly change within a job, so that each plane compresses better than the numbers as they stand.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pydantic

from tuner_server.core.errors import StorageError
from tuner_server.core.messages import Validation, Value

_RAW, _PACKED = b"\x00", b"\x01"
_LINE_FEED = b"\n"
_LOSS = np.dtype("<f4")
_VALIDATIONS = pydantic.TypeAdapter(tuple[Validation, ...])

V = TypeVar("V", bound=Value)
Series = npt.NDArray[np.float32]
"""One value a step, in single precision: four bytes each, where Python's own numbers in a tuple take forty."""


def series(values: Sequence[float] | Series) -> Series:
    """Values as they are kept. What is no float32 is rounded; NaN and infinities stay what they are."""
    if isinstance(values, np.ndarray) and values.dtype == _LOSS:
        return values
    with np.errstate(over="ignore"):
        return np.asarray(values, dtype=np.float64).astype(_LOSS)


def encode_losses(losses: Sequence[float] | Series) -> bytes:
    """The shorter of the two encodings."""
    array = series(losses)
    raw = array.tobytes()
    planes = array.view(np.uint8).reshape(-1, _LOSS.itemsize).T
    packed = zlib.compress(planes.tobytes())
    return _PACKED + packed if len(packed) < len(raw) else _RAW + raw


def decode_losses(data: bytes) -> Series:
    """What `encode_losses` was given, in single precision. Raises: StorageError."""
    encoding, body = data[:1], data[1:]
    try:
        if encoding == _RAW:
            return np.frombuffer(body, dtype=_LOSS)
        if encoding == _PACKED:
            planes = np.frombuffer(zlib.decompress(body), dtype=np.uint8)
            numbers = planes.reshape(_LOSS.itemsize, -1).T.tobytes()
            return np.frombuffer(numbers, dtype=_LOSS)
    except (zlib.error, ValueError) as error:
        raise StorageError(f"stored losses can't be read: {error}") from error
    raise StorageError(f"stored losses have the unknown encoding {encoding!r}")


def encode_measures(measures: Mapping[str, Sequence[float] | Series]) -> bytes:
    """Series by name, all of one length, in single precision."""
    names = json.dumps(list(measures)).encode()
    return names + _LINE_FEED + encode_losses(np.concatenate([series(values) for values in measures.values()]))


def decode_measures(data: bytes) -> dict[str, Series]:
    """What `encode_measures` was given, in single precision. Raises: StorageError."""
    head, _, body = data.partition(_LINE_FEED)
    try:
        names = json.loads(head)
        values = decode_losses(body)
        length, left = divmod(len(values), len(names))
    except (ValueError, TypeError, ZeroDivisionError) as error:
        raise StorageError(f"stored measures can't be read: {error}") from error
    if left:
        raise StorageError(f"stored measures can't be read: {len(values)} values of {len(names)} measures")
    return {name: values[i * length : (i + 1) * length] for i, name in enumerate(names)}


def to_json(value: Value) -> str:
    """A value as JSON; floats with all their digits, NaN and infinities as strings."""
    return value.model_dump_json()


def from_json(kind: type[V], text: str) -> V:
    """What `to_json` was given. Raises: StorageError when the text is no such value."""
    try:
        return kind.model_validate_json(text)
    except pydantic.ValidationError as error:
        raise _unreadable(kind.__name__, error) from error


def validations_to_json(validations: tuple[Validation, ...]) -> str:
    """Validations as JSON, written as `to_json` does."""
    return _VALIDATIONS.dump_json(validations).decode()


def validations_from_json(text: str) -> tuple[Validation, ...]:
    """What `validations_to_json` was given. Raises: StorageError."""
    try:
        return _VALIDATIONS.validate_json(text)
    except pydantic.ValidationError as error:
        raise _unreadable("validations", error) from error


def _unreadable(what: str, error: pydantic.ValidationError) -> StorageError:
    first = error.errors(include_url=False)[0]
    where = ".".join(map(str, first["loc"]))
    return StorageError(f"stored {what} can't be read: {where or 'JSON'}: {first['msg']}")
