"""Jobs that are as long as jobs get, written into a database as their reports would have left them there.

A report over the wire is a transaction each, which is on the disk before the answer goes out: the history of a job of
50,000 directives would take an hour to make. Here it is decided by the server's own code and written in large parts.
"""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import itertools
import uuid
from collections.abc import Iterator
from typing import Any

import numpy as np
import sqlalchemy as sa
from lrpilot.wire.profile import Profile, Shape

from benchmarks.load.workload import Plan, SimulatedJob, load_curves
from tuner_server.access.principal import DEFAULT_PROJECT
from tuner_server.base.clock import utc_now
from tuner_server.core.config import JobConfig, LrBounds
from tuner_server.core.job import machine
from tuner_server.core.job.state import JobState, Status, Transition
from tuner_server.core.messages import Directive, Outcome, Phase, Report
from tuner_server.rpc import convert
from tuner_server.storage import Change, Database, codec, open_storage
from tuner_server.storage.tables import EntryRow

REPORT_STEPS = 500_000
"""Steps of a report: a twentieth of the longest job, as clients report."""
FAR = 10**8
"""Steps of a job that is to go on for longer than anybody looks. Without an end its stages would grow for ever."""
ROWS_AT_ONCE = 1000
"""Directives that are written in one transaction."""
BOUNDS = LrBounds(min=1e-3, max=1.0)


class WrittenJob(abc.ABC):
    """A job that can be written into a database."""

    @property
    @abc.abstractmethod
    def label(self) -> str:
        """What distinguishes it in a table."""

    @abc.abstractmethod
    def write(self, db: str) -> None:
        """Opens the job in the database of that URL, and writes its reports."""


@dataclasses.dataclass(frozen=True, slots=True)
class LongJob(WrittenJob):
    """A job with so many steps in one row of committed ones, few directives and no search."""

    n_steps: int

    @property
    def label(self) -> str:
        """Its length."""
        return f"{self.n_steps:,} steps"

    @property
    def config(self) -> JobConfig:
        """A job whose range is known, so that it begins with what it is told here."""
        return JobConfig(name=f"{self.n_steps} steps", total_steps=2 * self.n_steps, lr_bounds=BOUNDS, base_lr=0.1)

    def directive(self, number: int, done: int) -> Directive:
        """What is left after `done` steps."""
        whole = self.n_steps + 1
        return Directive(
            number=number,
            phase=Phase.TRAIN,
            stage=0,
            n_steps=whole - done,
            profile=Profile.to_zero(Shape.parse("cosine"), 0.1, whole).after(done),
            snapshot=done == 0,
            report_every=REPORT_STEPS,
        )

    def state(self, state: JobState, directive: Directive, done: int) -> JobState:
        """The job with that directive."""
        update = {"directive": directive, "lease": directive, "committed_steps": done, "status": Status.TRAINING}
        return state.model_copy(update=update)

    def write(self, db: str) -> None:
        """See `WrittenJob`."""
        noise = np.random.default_rng(0)
        opened, first = machine.create(self.config), self.directive(1, 0)
        begun = Transition(self.state(opened.state, first, 0), first)
        with contextlib.closing(open_storage(db)) as storage:
            job = storage.create(DEFAULT_PROJECT, uuid.uuid4().hex, "benchmark", b"", begun, utc_now())
            for done in range(0, self.n_steps, REPORT_STEPS):
                n = min(REPORT_STEPS, self.n_steps - done)
                steps = np.arange(done, done + n)
                losses = (2 / np.sqrt(1 + steps / 1000) + noise.normal(0, 0.05, n)).astype(np.float32)
                number = job.state.directive.number
                # The losses are not checked one by one: that takes far longer than to write them.
                report = Report(directive_number=number, outcome=Outcome.PARTIAL, losses=())
                report = report.model_copy(update={"losses": losses})
                following = self.directive(number + 1, done + n)
                change = Change(job, report, b"", Transition(self.state(job.state, following, done + n), following))
                (written,) = storage.record([change], utc_now())
                assert written is not None
                job = written


@dataclasses.dataclass(frozen=True, slots=True)
class SearchingJob(WrittenJob):
    """A job of the policy that takes most directives for its steps, and searches in every stage.

    Every decision is the server's own, and the losses are recorded ones. The last directive is outstanding.
    """

    n_directives: int

    @property
    def label(self) -> str:
        """Its number of directives."""
        return f"{self.n_directives:,} directives"

    def write(self, db: str) -> None:
        """See `WrittenJob`."""
        config = JobConfig(policy="autolrs", name=self.label, total_steps=FAR, lr_bounds=BOUNDS, base_lr=0.1)
        opened = machine.create(config)
        with contextlib.closing(open_storage(db)) as storage, contextlib.closing(Database(db)) as database:
            job = storage.create(DEFAULT_PROJECT, uuid.uuid4().hex, "benchmark", b"", opened, utc_now())
            played = self._played(opened)
            with database.writing() as connection:
                connection.execute(sa.delete(EntryRow).where(EntryRow.job_id == job.id))
            last = opened
            while part := list(itertools.islice(played, ROWS_AT_ONCE)):
                last = part[-1][0]
                with database.writing() as connection:
                    connection.execute(sa.insert(EntryRow), [_row(job.id, *exchange) for exchange in part])
            storage.update(job, last.state, utc_now())

    def _played(self, opened: Transition) -> Iterator[tuple[Transition, Report | None]]:
        """Each directive, as the transition that issued it, and the report on it."""
        training = SimulatedJob(Plan(0, opened.state.config.policy, 0, 0), load_curves())
        transition = opened
        for _ in range(1, self.n_directives):
            report = convert.report_from_pb(training.report(convert.directive_to_pb(transition.directive)))
            yield transition, report
            transition = machine.advance(transition.state, report)
        yield transition, None


def _row(job_id: str, transition: Transition, report: Report | None) -> dict[str, Any]:
    """A row of the entries."""
    decision = transition.decision
    row: dict[str, Any] = {
        "job_id": job_id,
        "number": transition.directive.number,
        "directive": codec.to_json(transition.directive),
        "decision": None if decision is None else codec.to_json(decision),
    }
    told = ("outcome", "n_steps", "losses", "validations", "wall_time_s", "fingerprint", "report_time")
    if report is None:
        return row | dict.fromkeys(told)
    losses, validations = codec.encode_losses(report.losses), codec.validations_to_json(report.validations)
    values = (report.outcome.value, report.n_steps, losses, validations, report.wall_time_s, b"", utc_now())
    return row | dict(zip(told, values, strict=True))
