"""Logs: one event a line on standard error, as logfmt or JSON, with no secret in it."""

from __future__ import annotations

import contextlib
import logging
import re
import sys
from collections.abc import Iterator
from typing import Any, Literal

import structlog
from lrpilot.wire.text.plain_text import spelled_out
from structlog.typing import EventDict, Processor, WrappedLogger

from tuner_server.base.streams import STDERR
from tuner_server.ops.line_limits import LineLimits
from tuner_server.ops.log_writer import LogStream, LogWriter

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


def set_level(level: str) -> None:
    """Has this process write what is of that level, or above it, from now on."""
    global _least
    _least = logging.getLevelNamesMapping()[level.upper()]
    logging.getLogger().setLevel(max(_least, logging.WARNING))


_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "exception": logging.ERROR,
    "critical": logging.CRITICAL,
}
"""The levels of a logger's methods."""
_least = logging.INFO
"""The least level that is written. Loggers are kept, so it is looked up at every line."""


def _at_level(_logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """The first processor: it drops what is below the level."""
    if _LEVELS[method] < _least:
        raise structlog.DropEvent
    return event


@contextlib.contextmanager
def on_standard_error(log_format: Literal["logfmt", "json"], level: str) -> Iterator[None]:
    """Has the logs of this process, those of libraries included, written to standard error until the block ends.

    Nobody waits for them to be read: see `LogWriter`. What is printed to `sys.stderr` meanwhile goes the same way.
    """
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
    limits = LineLimits()

    def line(**fields: object) -> str:
        event = structlog.processors.TimeStamper(fmt="iso", utc=True)(None, "", {"level": "warning", **fields})
        return f"{renderer(None, '', event)!s}\n"

    def tell_left_out() -> None:
        for kind, count in limits.left_out().items():
            writer.write(line(event="lines left out", kind=" ".join(map(str, kind)), count=count))

    writer = LogWriter(
        STDERR, lambda count: line(event="lines lost: they could not be written", count=count), tell_left_out
    )
    stream = LogStream(writer)
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        logger_factory=structlog.WriteLoggerFactory(stream),  # type: ignore[arg-type]  # all that it asks of one
        processors=[_at_level, _Limited(limits), *shared, renderer, _redact],
        cache_logger_on_first_use=True,
    )
    # What libraries say is worth a line when something is wrong.
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_LibraryRecords(shared, renderer))
    handler.addFilter(_LimitedRecords(limits))
    logging.basicConfig(handlers=[handler], force=True)
    set_level(level)
    logging.captureWarnings(True)
    former, sys.stderr = sys.stderr, stream
    try:
        yield
    finally:
        sys.stderr = former
        writer.close()


class _Limited:
    """A processor that drops lines of which there are too many."""

    def __init__(self, limits: LineLimits) -> None:
        self._limits = limits

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        name, code = event["event"], event.get("code", "")
        left_out = self._limits.take((name, code) if code else (name,), answered_call=code == "OK")
        if left_out is None:
            raise structlog.DropEvent
        return {**event, "left_out": left_out} if left_out else event


class _LimitedRecords(logging.Filter):
    """Drops records of libraries of which there are too many, by where in the library they come from."""

    def __init__(self, limits: LineLimits) -> None:
        super().__init__()
        self._limits = limits

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is written."""
        return self._limits.take((record.name, record.funcName, record.lineno)) is not None


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
