"""What a message from elsewhere may lack or get wrong."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TypeVar

import pydantic
from google.protobuf.message import Message
from lrpilot.wire.text.plain_text import plain, refusal

from tuner_server.core.errors import InvalidInputError

MAX_TEXT = 500
"""Characters of a text that is no name: a reason, a page's token."""

K = TypeVar("K")
E = TypeVar("E", bound=int)


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


def known(field: str, table: Mapping[K, E], value: int) -> K:
    """The key of an enum's value. Raises: InvalidInputError: it is unspecified, or from a newer version."""
    for key, number in table.items():
        if number == value:
            return key
    raise InvalidInputError.of(field, f"unknown or unspecified value {value}")


def text(field: str, value: str, longest: int = MAX_TEXT) -> str:
    """A text that can be stored. Raises: InvalidInputError: it is too long, or has a NUL character."""
    if len(value) > longest or "\0" in value:
        raise InvalidInputError.of(field, f"at most {longest} characters, none of them NUL")
    return value


def name(field: str, value: str, longest: int = MAX_TEXT) -> str:
    """A text by which something is called, or told from others.

    Raises:
        InvalidInputError: it is too long, or has a character that is an order to whoever shows it.
    """
    if len(value) > longest:
        raise InvalidInputError.of(field, f"at most {longest} characters, not {len(value)}")
    if why := refusal(value):
        raise InvalidInputError.of(field, why)
    return value


def sentence(field: str, value: str, longest: int = MAX_TEXT) -> str:
    """A text for people, as a reason, in one line: it may repeat what others wrote, so nothing in it is refused.

    Raises:
        InvalidInputError: it is too long.
    """
    if len(value) > longest:
        raise InvalidInputError.of(field, f"at most {longest} characters, not {len(value)}")
    return plain(value)
