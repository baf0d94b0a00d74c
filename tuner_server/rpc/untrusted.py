"""What a message from elsewhere may lack or get wrong."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pydantic
from google.protobuf.message import Message

from tuner_server.core.errors import InvalidInputError


@contextlib.contextmanager
def read_as(field: str) -> Iterator[None]:
    """Reads values that make up `field` of a message.

    Raises:
        InvalidInputError: the values make none; it names those that are wrong.
    """
    try:
        yield
    except pydantic.ValidationError as error:
        raise InvalidInputError.from_pydantic(error, prefix=field) from error
    except (ValueError, OverflowError) as error:
        raise InvalidInputError.of(field, str(error)) from error


def optional(message: Message, field: str) -> float | None:
    """A number that a message may have."""
    return getattr(message, field) if message.HasField(field) else None
