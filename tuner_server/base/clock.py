"""The time of day."""

from __future__ import annotations

import datetime


def utc_now() -> datetime.datetime:
    """The time now, for records and for what expires. No decision on an LR depends on it."""
    return datetime.datetime.now(datetime.UTC)
