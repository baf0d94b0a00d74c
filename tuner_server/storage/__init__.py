"""Keeps jobs. `open_storage(url)` is the way in."""

from tuner_server.storage.base import Change, Entry, Page, Storage, StoredAnswer, StoredJob, StoredReport
from tuner_server.storage.codec import Series
from tuner_server.storage.database import Database
from tuner_server.storage.history import History, KnownHistory, StoredHistory
from tuner_server.storage.schema import Upgrade, current_version, open_storage, upgrade_schema

__all__ = [
    "Change",
    "Database",
    "Entry",
    "History",
    "KnownHistory",
    "Page",
    "Series",
    "Storage",
    "StoredAnswer",
    "StoredHistory",
    "StoredJob",
    "StoredReport",
    "Upgrade",
    "current_version",
    "open_storage",
    "upgrade_schema",
]
