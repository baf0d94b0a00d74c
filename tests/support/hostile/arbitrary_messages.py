"""Any protobuf message of a type, as hypothesis strategies: what a hostile client may send."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from google.protobuf import message_factory
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import strategies as st

MAX_DEPTH = 12
"""The depth of messages in messages: deeper than the server takes policy options."""

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | st.sampled_from(
    ["", "\0", "a\0b", "\u202e", "\ud7ff", "\U0010ffff", "e\u0301", "x" * 300, "\N{GRINNING FACE}" * 300, "' OR 1=1 --"]
)
floats = st.floats() | st.sampled_from([1e308, -1e308, 5e-324, 2.0**53, float("nan"), float("inf"), -0.0])


def integers(bits: int) -> st.SearchStrategy[int]:
    """Signed ones, and their limits."""
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    return st.integers(low, high) | st.integers(-2, 5) | st.sampled_from([low, high, 2**31 - 1 if bits > 31 else 0])


SCALARS: dict[int, st.SearchStrategy[Any]] = {
    FieldDescriptor.CPPTYPE_INT32: integers(32),
    FieldDescriptor.CPPTYPE_INT64: integers(64),
    FieldDescriptor.CPPTYPE_DOUBLE: floats,
    FieldDescriptor.CPPTYPE_FLOAT: st.floats(width=32),
    FieldDescriptor.CPPTYPE_BOOL: st.booleans(),
    FieldDescriptor.CPPTYPE_STRING: texts,
    FieldDescriptor.CPPTYPE_ENUM: st.integers(-1, 7) | integers(32),
}


@st.composite
def messages(draw: st.DrawFn, descriptor: Any, depth: int = 0) -> Message:
    """A message with any of its fields."""
    message: Message = message_factory.GetMessageClass(descriptor)()
    if depth < MAX_DEPTH:
        chosen = draw(st.sets(st.sampled_from(tuple(descriptor.fields)), max_size=4)) if descriptor.fields else set()
        for field in sorted(chosen, key=lambda field: field.number):
            _fill(draw, message, field, depth)
    return message


def _fill(draw: st.DrawFn, message: Message, field: FieldDescriptor, depth: int) -> None:
    value = getattr(message, field.name)
    if field.message_type is None:
        strategy = SCALARS[field.cpp_type]
        if field.is_repeated:
            value.extend(draw(st.lists(strategy, max_size=20)))
        else:
            setattr(message, field.name, draw(strategy))
        return
    if field.message_type.GetOptions().map_entry:
        entry = field.message_type.fields_by_name["value"].message_type
        for key in draw(st.lists(texts, max_size=3)):
            value[key].CopyFrom(draw(messages(entry, depth + 1)))
    elif field.is_repeated:
        value.extend(draw(st.lists(messages(field.message_type, depth + 1), max_size=3)))
    else:
        value.CopyFrom(draw(messages(field.message_type, depth + 1)))


def disturbed(valid: Callable[[], Message]) -> st.SearchStrategy[Message]:
    """A right message in which some fields are replaced, or added to, by any others."""

    def merged(disturbance: Message) -> Message:
        message = valid()
        message.MergeFrom(disturbance)
        return message

    return messages(valid().DESCRIPTOR).map(merged)
