"""Keeps jobs. `open_storage(url)` is the way in."""

from tuner_server.storage.base import (
    Backup,
    Change,
    Entry,
    Page,
    Storage,
    StoredAnswer,
    StoredJob,
    StoredReport,
    StoredVersion,
)
from tuner_server.storage.codec import Series
from tuner_server.storage.database import Database
from tuner_server.storage.history import History, KnownHistory, StoredHistory
from tuner_server.storage.job_choice import ALL_JOBS, DeadJobs, JobFilter
from tuner_server.storage.schema import Upgrade, current_version, open_storage, upgrade_schema

__all__ = [
    "ALL_JOBS",
    "Backup",
    "Change",
    "Database",
    "DeadJobs",
    "Entry",
    "History",
    "JobFilter",
    "KnownHistory",
    "Page",
    "Series",
    "Storage",
    "StoredAnswer",
    "StoredHistory",
    "StoredJob",
    "StoredReport",
    "StoredVersion",
    "Upgrade",
    "current_version",
    "open_storage",
    "upgrade_schema",
]
