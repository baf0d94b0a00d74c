"""Writes the reference of the wire protocol, from the contract with its comments.

A path is protobuf's: field numbers of descriptors and indices, by which a comment is found (SourceCodeInfo).
"""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
)

PLACE = "<!-- every message -->"
PROTOS = Path(__file__).parents[2] / "protos"
CONTRACT = "lrpilot/v1/tuner.proto"

_SYNTAX = (FileDescriptorProto.SYNTAX_FIELD_NUMBER,)
_SERVICE = FileDescriptorProto.SERVICE_FIELD_NUMBER
_MESSAGE = FileDescriptorProto.MESSAGE_TYPE_FIELD_NUMBER
_ENUM = FileDescriptorProto.ENUM_TYPE_FIELD_NUMBER
_METHOD = ServiceDescriptorProto.METHOD_FIELD_NUMBER
_FIELD = DescriptorProto.FIELD_FIELD_NUMBER
_VALUE = EnumDescriptorProto.VALUE_FIELD_NUMBER

_SPECIAL = re.compile(r"[\\*_|\[]")
"""What Markdown would take for more than a character."""

Comments = Mapping[tuple[int, ...], str]


def on_page_markdown(markdown: str, **_others: object) -> str:
    """Puts services, messages and enumerations where a page wants them."""
    return markdown.replace(PLACE, "\n".join(_lines(_contract()))) if PLACE in markdown else markdown


def _contract() -> FileDescriptorProto:
    with tempfile.NamedTemporaryFile() as file:
        protoc = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTOS}", f"-I{files('grpc_tools') / '_proto'}"]
        subprocess.run([*protoc, "--include_source_info", f"-o{file.name}", CONTRACT], check=True)
        (contract,) = FileDescriptorSet.FromString(Path(file.name).read_bytes()).file
    return contract


def _lines(contract: FileDescriptorProto) -> Iterator[str]:
    comments = {tuple(at.path): at.leading_comments + at.trailing_comments for at in contract.source_code_info.location}
    yield from (f"## {contract.package}", "", *_text(comments[_SYNTAX]))
    for i, service in enumerate(contract.service):
        yield from _service(service, (_SERVICE, i), comments)
    yield from ("## Messages", "")
    for i, message in enumerate(contract.message_type):
        yield from _message(message, (_MESSAGE, i), comments)
    yield from ("## Enumerations", "")
    for i, enum in enumerate(contract.enum_type):
        yield from _enum(enum, (_ENUM, i), comments)


def _service(service: ServiceDescriptorProto, path: tuple[int, ...], comments: Comments) -> Iterator[str]:
    yield from (f"## {service.name}", "", *_text(comments.get(path, "")))
    for i, method in enumerate(service.method):
        answer = f"{'stream of ' if method.server_streaming else ''}{_link(method.output_type)}"
        yield from (f"### {method.name}", "", f"{_link(method.input_type)} → {answer}", "")
        yield from _text(comments.get((*path, _METHOD, i), ""))


def _message(message: DescriptorProto, path: tuple[int, ...], comments: Comments) -> Iterator[str]:
    yield from (f"### {message.name}", "", *_text(comments.get(path, "")))
    rows = [
        (str(field.number), f"`{field.name}`", _type(field), _cell(comments.get((*path, _FIELD, i), "")))
        for i, field in enumerate(message.field)
    ]
    yield from _table(("number", "field", "type", "meaning"), rows)


def _enum(enum: EnumDescriptorProto, path: tuple[int, ...], comments: Comments) -> Iterator[str]:
    yield from (f"### {enum.name}", "", *_text(comments.get(path, "")))
    rows = [
        (str(value.number), f"`{value.name}`", _cell(comments.get((*path, _VALUE, i), "")))
        for i, value in enumerate(enum.value)
    ]
    yield from _table(("number", "value", "meaning"), rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    for cells in (head, ["---"] * len(head), *rows):
        yield f"| {' | '.join(cells)} |"
    yield ""


def _type(field: FieldDescriptorProto) -> str:
    scalar = FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
    name = _link(field.type_name) if field.type_name else f"`{scalar}`"
    if field.label == FieldDescriptorProto.LABEL_REPEATED:
        return f"repeated {name}"
    return f"optional {name}" if field.proto3_optional else name


def _link(type_name: str) -> str:
    """To a message or an enumeration of the contract; types of others stay names."""
    package, _, name = type_name.removeprefix(".").rpartition(".")
    return f"`{package}.{name}`" if package.startswith("google.") else f"[{name}](#{name.lower()})"


def _cell(comment: str) -> str:
    return _escaped(" ".join(comment.split()))


def _text(comment: str) -> Iterator[str]:
    """A comment in Markdown; lines that are indented in it are a formula, and keep their form."""
    lines = [line.removeprefix(" ") for line in comment.splitlines()]
    for indented, block in itertools.groupby(lines, key=lambda line: line.startswith("  ")):
        if indented:
            yield from ("", "```text", *(line.removeprefix("  ") for line in block), "```", "")
        else:
            yield from map(_escaped, block)
    yield ""


def _escaped(text: str) -> str:
    """Words that Markdown takes as they stand, but for code between backticks."""
    words = text.split("`")
    return "`".join(part if i % 2 else _plain(part) for i, part in enumerate(words))


def _plain(text: str) -> str:
    """Text that Markdown shows as it is; before "<" it would show a backslash, too."""
    return _SPECIAL.sub(r"\\\g<0>", text).replace("<", "&lt;")
