"""What a log has of texts from elsewhere: the reasons of a server, the errors of other libraries."""

from __future__ import annotations

import logging
from typing import Any

from lrpilot.wire.text.plain_text import plain


class PlainArguments(logging.Filter):
    """Makes the texts in a record's arguments plain, so that none writes a line of its own or moves a cursor."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Lets every record through."""
        if isinstance(record.args, tuple):
            record.args = tuple(map(_plain, record.args))
        return True


def _plain(argument: Any) -> Any:
    """The argument; its text in one line, where that is what the log writes of it."""
    return plain(str(argument)) if isinstance(argument, str | BaseException) else argument
