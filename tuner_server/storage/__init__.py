"""Keeps jobs. `open_storage(url)` is the way in."""

from tuner_server.storage.base import (
    ALL_JOBS,
    Change,
    DeadJobs,
    Entry,
    JobFilter,
    Page,
    Storage,
    StoredAnswer,
    StoredJob,
    StoredReport,
    StoredVersion,
)
from tuner_server.storage.database import Database
from tuner_server.storage.schema import Upgrade, current_version, open_storage, upgrade_schema

__all__ = [
    "ALL_JOBS",
    "Change",
    "Database",
    "DeadJobs",
    "Entry",
    "JobFilter",
    "Page",
    "Storage",
    "StoredAnswer",
    "StoredJob",
    "StoredReport",
    "StoredVersion",
    "Upgrade",
    "current_version",
    "open_storage",
    "upgrade_schema",
]
