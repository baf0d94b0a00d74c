"""The time of day."""

from __future__ import annotations

import datetime


def utc_now() -> datetime.datetime:
    """For records, and for what expires; no decision on an LR depends on it."""
    return datetime.datetime.now(datetime.UTC)
