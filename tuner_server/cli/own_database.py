"""The user's own database, read in this process: to look at one's jobs no server is started.

Importing this module brings SQLAlchemy, so a command does it when it has something to read.
"""

from __future__ import annotations

import os

from lrpilot.transport.embedded_server import DB_VARIABLE
from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.wire.messages.schedule_parts import merged

from tuner_server.access.principal import DEFAULT_PROJECT
from tuner_server.base.clock import utc_now
from tuner_server.base.closing import Closing
from tuner_server.core.job.life import Shown, Vitals
from tuner_server.process.settings import load
from tuner_server.rpc import convert, schedule_messages, untrusted
from tuner_server.storage import JobFilter, StoredHistory, StoredJob, open_storage


class OwnDatabase(Closing):
    """What a server on the user's database would answer to whoever only looks."""

    def __init__(self) -> None:
        """Opens it. Raises: TunerError: it can't be used."""
        # Its name is the only setting of this process that is meant for it: the others are of servers.
        settings = load({}, {name: value for name, value in os.environ.items() if name == DB_VARIABLE}).settings
        self._storage = open_storage(settings.db, limits=settings.life_limits)

    def list_jobs(self, request: pb.ListJobsRequest, timeout_s: float) -> pb.ListJobsResponse:
        """A page of jobs, newest first. Raises: TunerError."""
        statuses = sorted(untrusted.known("states", convert.STATES, state) for state in request.states)
        lives = sorted(untrusted.known("lives", convert.LIVES, life) for life in request.lives)
        wanted = JobFilter(Shown(tuple(statuses), tuple(lives)), utc_now(), request.family or None, request.called)
        page = self._storage.page(DEFAULT_PROJECT, request.page_size, request.page_token, wanted=wanted)
        return pb.ListJobsResponse(jobs=map(self._job, page.jobs), next_page_token=page.next_page_token)

    def get_schedule(self, request: pb.GetScheduleRequest, timeout_s: float) -> pb.GetScheduleResponse:
        """A job's schedule, however long it is. Raises: TunerError."""
        stored = self._storage.load(convert.job_id(request.job_id)).seen_from(DEFAULT_PROJECT)
        history = StoredHistory(self._storage, stored.id, stored.state.directive.number, lambda: None)
        full, vitals = request.view == pb.SCHEDULE_VIEW_FULL, self._vitals(stored)
        return merged(schedule_messages.schedule_to_pb(stored, history, full=full, vitals=vitals))

    def close(self) -> None:
        """Lets go of the database."""
        self._storage.close()

    def _job(self, stored: StoredJob) -> pb.Job:
        return convert.job_to_pb(stored, self._vitals(stored))

    def _vitals(self, stored: StoredJob) -> Vitals:
        return self._storage.life_limits.vitals(stored.state.status, stored.signs, utc_now())
