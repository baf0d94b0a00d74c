"""Logs: one event a line on standard error, as logfmt or JSON, with no secret in it."""

from __future__ import annotations

import contextlib
import logging
import re
import sys
from typing import Any, Literal, TextIO

import structlog
from lrpilot.wire.plain_text import spelled_out
from structlog.typing import EventDict, Processor, WrappedLogger

HIDDEN = "***"
_SECRET = re.compile(
    r"(?P<token>lrp_[0-9a-fA-F]{1,64}_)[A-Za-z0-9_\-]+"
    r"|(?P<scheme>\b[Bb]earer\s+)[^\s\"',]+"
    r"|(?P<user>://[^/\s:@]*:)[^/\s@]+(?=@)"
    r"|(?P<key>\b(?:password|passwd|sslpassword|secret)\\?[\"']?\s*[=:]\s*\\?[\"']?)[^\s\"'&,\\}]+"
)
"""Finds our tokens and others', passwords in URLs, and whatever is called a password or a secret."""


_MARKS = ("lrp_", "earer", "://", "passw", "secret")
"""Marks of which one is in whatever `_SECRET` finds. To look for them takes a tenth of the time, at every call."""


def hidden(text: str) -> str:
    """A text with its secrets blotted out."""
    if not any(mark in text for mark in _MARKS):
        return text
    return _SECRET.sub(lambda found: "".join(filter(None, found.groups())) + HIDDEN, text)


def _redact(_logger: WrappedLogger, _method: str, line: EventDict | str) -> str:
    """The last processor: it sees the line as it would be written, stack traces included."""
    assert isinstance(line, str)
    return spelled_out(hidden(line))


def configure(log_format: Literal["logfmt", "json"], level: str) -> None:
    """Sets up the logs of this process, those of libraries included."""
    number = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    renderer: Processor = (
        structlog.processors.JSONRenderer(default=str)
        if log_format == "json"
        else structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"], bool_as_flag=False)
    )
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(_DroppingStream(sys.stderr)),  # type: ignore[arg-type]  # all that it asks of one
        processors=[*shared, renderer, _redact],
        cache_logger_on_first_use=True,
    )
    # What libraries say is worth a line when something is wrong.
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_LibraryRecords(shared, renderer))
    logging.basicConfig(handlers=[handler], level=max(number, logging.WARNING), force=True)


class _DroppingStream:
    """A stream that drops what can't be written: a full disk must not fail the call that has something to tell."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            self._stream.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()


class _LibraryRecords(structlog.stdlib.ProcessorFormatter):
    """Records of the standard library's logging, written like ours."""

    def __init__(self, shared: list[Processor], renderer: Processor) -> None:
        super().__init__(
            foreign_pre_chain=[*shared, _name],
            processors=[self.remove_processors_meta, renderer],
        )

    def format(self, record: logging.LogRecord) -> str:
        """A line without secrets, and with nothing in it that a terminal obeys."""
        return spelled_out(hidden(super().format(record)))


def _name(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    record: Any = event.get("_record")
    if record is not None:
        event["logger"] = record.name
    return event
