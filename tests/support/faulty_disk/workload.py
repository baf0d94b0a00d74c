"""A small workload in steps, each of which may be done again: what a database goes through, from an upgrade on."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import re
import sqlite3
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from unittest import mock

from tests.support.jobs.simulated_training import QUICK, SimulatedTraining, config, drive
from tuner_server.core.errors import InvalidInputError, PreconditionError, StorageError
from tuner_server.core.messages import Report
from tuner_server.service import tuner_service
from tuner_server.service.tuner_service import TunerService
from tuner_server.storage import Database, open_storage
from tuner_server.storage.backups.backup import backup
from tuner_server.storage.backups.restore import restore
from tuner_server.storage.job_choice import DeadJobs
from tuner_server.storage.sql import SqlStorage
from tuner_server.storage.tables import LastBackupRow

PROJECT, REQUEST = "default", "request"
NOW = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)
BACK_TO = 2
PAUSE_S = 0.6
_TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)?")
_NOTED = f'"{LastBackupRow.__tablename__}"'
MOST_TRIES = 3
"""How often a step is tried: a client comes again as long as it is told UNAVAILABLE."""
CONFIG = config(120, **QUICK)


class Workload:
    """A database file and the steps on it. `done` are as many as were acknowledged."""

    def __init__(self, directory: Path, done: int = 0) -> None:
        self.file, self.copy = directory / "jobs.db", directory / "backup.db"
        self.done = done
        self.refusals: list[str] = []
        """Why steps were refused, in the order in which they were."""
        self._reports = _reports()
        self._steps: list[Callable[[TunerService], object]] = [
            self._create,
            *(self._report(report) for report in self._reports[:4]),
            lambda service: service.resume_job(PROJECT, self._job_id(service), BACK_TO, "resumed"),
            *(self._report(_otherwise(report), "resumed") for report in self._reports[BACK_TO - 1 : BACK_TO + 1]),
            lambda _: self._prune(),
            lambda _: self._back_up(),
            self._cancel,
        ]
        self.n_steps = 2 + len(self._steps)
        """How many there are; the first is the upgrade of the schema, and the last puts the backup in place."""

    def run(self, acknowledge: Callable[[int], None]) -> bool:
        """Does the steps that are left, and tells of each that is done. False: one could not be done."""
        if not self._tried(self._upgrade):
            return False
        self._tell(1, acknowledge)
        with contextlib.ExitStack() as stack:
            storage = stack.enter_context(SqlStorage(Database(self._url)))
            service = stack.enter_context(TunerService(storage, lambda: NOW))
            for i, step in enumerate(self._steps, start=2):
                if i <= self.done:
                    continue
                if not self._tried(lambda step=step: step(service)):  # type: ignore[misc]
                    return False
                self._tell(i, acknowledge)
        if self.done < self.n_steps:
            if not self._tried(self._restore):
                return False
            self._tell(self.n_steps, acknowledge)
        return True

    def _tell(self, step: int, acknowledge: Callable[[int], None]) -> None:
        if step > self.done:
            self.done = step
            acknowledge(step)

    def _tried(self, act: Callable[[], object]) -> bool:
        """Whether a step could be done. It fails with errors of ours alone."""
        for tried in range(MOST_TRIES):
            time.sleep(PAUSE_S * (tried > 0))  # others fail at once for a moment after one that had waited for long
            try:
                act()
            except StorageError as error:
                self.refusals.append(f"step {self.done + 1}: {error}")
            else:
                return True
        return False

    @property
    def _url(self) -> str:
        return f"sqlite:///{self.file}"

    def _upgrade(self) -> None:
        open_storage(self._url).close()

    def _create(self, service: TunerService) -> None:
        with mock.patch.object(tuner_service, "uuid") as names:
            names.uuid4.return_value = uuid.UUID(int=1)
            service.create_job(PROJECT, REQUEST, CONFIG)

    @staticmethod
    def _job_id(_service: TunerService) -> str:
        return uuid.UUID(int=1).hex

    def _report(self, report: Report, resume_id: str = "") -> Callable[[TunerService], object]:
        return lambda service: service.advance(PROJECT, self._job_id(service), report, resume_id).result()

    def _prune(self) -> None:
        with SqlStorage(Database(self._url)) as storage:
            storage.prune(DeadJobs(NOW, as_of=NOW), 1000)

    def _back_up(self) -> None:
        """A target that can't be written is told as a wrong argument; one that exists was acknowledged too late."""
        if self.copy.exists():
            return
        with contextlib.closing(Database(self._url)) as database:
            try:
                backup(database, self.copy)
            except InvalidInputError as error:
                raise StorageError(str(error)) from error

    def _restore(self) -> None:
        """Like a backup, it can't be told from a wrong argument where the directory can't be written."""
        with contextlib.closing(Database(self._url)) as database:
            try:
                restore(database, self.copy)
            except InvalidInputError as error:
                raise StorageError(str(error)) from error

    def _cancel(self, service: TunerService) -> None:
        with contextlib.suppress(PreconditionError):
            service.cancel_job(PROJECT, self._job_id(service), "enough")


def content_of(file: Path) -> str:
    """The digest of all that is in a database, which must be whole. Raises: AssertionError: it is not."""
    with contextlib.closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        # An upgrade writes the time of day to jobs without a sign of their client, and names constraints in any order.
        # A backup that is there may not have been noted: whoever was killed after it has no reason to make another.
        told = (line for line in connection.iterdump() if line.startswith("INSERT") and _NOTED not in line)
        rows = [_TIME.sub("TIME", line) for line in told]
        lines = "\n".join(sorted(rows))
        return hashlib.sha256(lines.encode()).hexdigest()


def _reports() -> list[Report]:
    """What a training reports on the directives of the job."""
    exchanges = drive(CONFIG, SimulatedTraining(0)).exchanges
    return [exchange.report for exchange in exchanges if exchange.report is not None]


def _otherwise(report: Report) -> Report:
    """The report of the next life of the training."""
    return report.model_copy(update={"wall_time_s": report.wall_time_s + 1.0})
