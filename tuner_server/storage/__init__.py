"""Keeps jobs. `open_storage(url)` is the way in."""

from tuner_server.storage.base import Change, Entry, Page, Storage, StoredAnswer, StoredJob, StoredReport
from tuner_server.storage.database import Database
from tuner_server.storage.schema import Upgrade, current_version, open_storage, upgrade_schema

__all__ = [
    "Change",
    "Database",
    "Entry",
    "Page",
    "Storage",
    "StoredAnswer",
    "StoredJob",
    "StoredReport",
    "Upgrade",
    "current_version",
    "open_storage",
    "upgrade_schema",
]
