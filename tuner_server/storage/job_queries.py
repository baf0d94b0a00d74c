"""Which jobs a query is about: by project, by what is said of them, by the life of their clients."""

from __future__ import annotations

import base64
import binascii
import json
from datetime import datetime
from typing import TypeVarTuple

import sqlalchemy as sa
from lrpilot.wire.text.job_names import UNSEEN, id_beginning

from tuner_server.core.errors import InvalidInputError, NotFoundError, QuotaError
from tuner_server.core.job.life import Life, LifeLimits, shown_word
from tuner_server.core.job.state import Status
from tuner_server.storage.job_choice import HALF_DELETED, DeadJobs, JobFilter
from tuner_server.storage.tables import GONE, THERE, JobRow, ProjectRow, UtcDateTime

_LIVE = [status.value for status in Status if status.live]
_ENDED = [status.value for status in Status if not status.live]
_Columns = TypeVarTuple("_Columns")
PAGE_BYTES = 2 * 2**20
"""What the jobs of a page take as they are stored: some 300 usual ones, or 30 whose decays have hundreds of points. Of
many readers each may have a page on its way. A larger job is a page by itself."""
Position = tuple[datetime, str]
"""The end of a page: the time and the id of its last job."""


def newest(query: sa.Select[*_Columns], project: str, wanted: JobFilter, limits: LifeLimits) -> sa.Select[*_Columns]:
    """A query for those of a project's jobs that a listing is about, newest first."""
    query = query.where(JobRow.project == project, THERE).order_by(JobRow.create_time.desc(), JobRow.id.desc())
    if not wanted.shown.everything:
        assert wanted.as_of is not None
        query = query.where(_is_shown(wanted, limits, wanted.as_of))
    if wanted.family is not None:
        query = query.where(JobRow.family == wanted.family)
    if wanted.called:
        ways = [JobRow.name == wanted.called, JobRow.id.startswith(wanted.called, autoescape=True)]
        if beginning := id_beginning(wanted.called):
            ways.append(sa.and_(sa.func.trim(JobRow.name, UNSEEN) == "", JobRow.id.startswith(beginning)))
        query = query.where(sa.or_(*ways))
    return query


def fitting(connection: sa.Connection, query: sa.Select[*_Columns], page_size: int) -> int:
    """How many of a query's jobs fit into a page, from the first on, up to `page_size`."""
    sizes = sa.func.length(JobRow.state) + sa.func.length(JobRow.note)
    total = 0
    for n, size in enumerate(connection.execute(query.with_only_columns(sizes).limit(page_size)).scalars()):
        total += size
        if n and total > PAGE_BYTES:
            return n
    return page_size


def kinds_of(dead: DeadJobs, limits: LifeLimits) -> list[tuple[str, sa.ColumnElement[bool]]]:
    """The kinds of jobs that nobody works on: the word for each (`core.job.life.shown_word`), and what selects it.

    The first is what deletions have left that were interrupted, however short a time ago.
    """
    ours = sa.true() if dead.project is None else JobRow.project == dead.project
    common = [JobRow.update_time < dead.unchanged_since, JobRow.sign_time < dead.unchanged_since, ours]
    ended = [(status, None, JobRow.status == status.value) for status in Status if not status.live]
    lives = [Life.STOPPED, Life.ABANDONED, *([Life.SILENT] if dead.silent else [])]
    left = [(Status.TRAINING, life, _has(life, limits, dead.as_of)) for life in lives]
    kinds = [(shown_word(status, life), sa.and_(kind, *common)) for status, life, kind in (*ended, *left)]
    return [(HALF_DELETED, sa.and_(JobRow.status == GONE, ours)), *kinds]


def living(limits: LifeLimits, now: datetime) -> sa.Select[str, str, int]:
    """Statuses, lives and numbers of jobs that have not ended."""
    life: sa.Label[str] = sa.case(*((_has(life, limits, now), life.value) for life in Life)).label("life")
    return sa.select(JobRow.status, life, sa.func.count()).where(JobRow.status.in_(_LIVE)).group_by(JobRow.status, life)


def check_quota(
    connection: sa.Connection, project: str, limits: LifeLimits, now: datetime, *, besides: str = ""
) -> None:
    """Whether a project may have one more job that is alive. Locks its row, so that jobs that are opened at once count.

    A job counts while its client is there: what nobody trains any more takes nobody's place.

    Args:
        connection: a transaction that writes.
        project: the project.
        limits: by which a job is alive.
        now: the time.
        besides: a job that does not count, as it is the one that is to be alive.

    Raises:
        NotFoundError: no such project.
        QuotaError: it has as many as it may have.
    """
    query = sa.select(ProjectRow.max_alive_jobs).where(ProjectRow.name == project).with_for_update()
    found = connection.execute(query).one_or_none()
    if found is None:
        raise NotFoundError(f"no project has the name {project!r}")
    if found.max_alive_jobs is None:
        return
    alive = sa.select(sa.func.count()).where(
        JobRow.project == project, _has(Life.ALIVE, limits, now), JobRow.id != besides
    )
    if connection.execute(alive).scalar_one() >= found.max_alive_jobs:
        jobs = "1 job" if found.max_alive_jobs == 1 else f"{found.max_alive_jobs} jobs"
        raise QuotaError(f"project {project!r} has {jobs} that are alive, and may not have more")


def after(query: sa.Select[*_Columns], position: Position) -> sa.Select[*_Columns]:
    """The part of a listing that comes after a page."""
    time, job_id = position
    last = sa.tuple_(sa.literal(time, UtcDateTime), sa.literal(job_id))
    return query.where(sa.tuple_(JobRow.create_time, JobRow.id) < last)


def page_token(position: Position) -> str:
    """A token that has the end of a page."""
    time, job_id = position
    return base64.urlsafe_b64encode(json.dumps([time.isoformat(), job_id]).encode()).decode()


def position_of(token: str) -> Position:
    """Reads a token back. Raises: InvalidInputError."""
    try:
        text, job_id = json.loads(base64.b64decode(token, altchars=b"-_", validate=True))
        time = datetime.fromisoformat(text)
        if time.tzinfo is None or not isinstance(job_id, str):
            raise ValueError(token)
    except (binascii.Error, ValueError, TypeError, RecursionError) as error:
        raise InvalidInputError.of(
            "page_token", "not a token of a page before; give next_page_token as it was"
        ) from error
    return time, job_id


def _is_shown(wanted: JobFilter, limits: LifeLimits, now: datetime) -> sa.ColumnElement[bool]:
    """`Shown.shows`, in SQL."""
    statuses = wanted.shown.statuses
    ended = [status.value for status in statuses if not status.live]
    live = [status.value for status in statuses if status.live]
    ways = [_has(life, limits, now) for life in wanted.shown.lives]
    if ended:
        ways.append(JobRow.status.in_(ended))
    if live:
        ways.append(sa.and_(JobRow.status.in_(live), _has(Life.ALIVE, limits, now)))
    return sa.or_(*ways)


def _has(life: Life, limits: LifeLimits, now: datetime) -> sa.ColumnElement[bool]:
    """`LifeLimits.vitals`, in SQL: whether a job is in that life."""
    live: sa.ColumnElement[bool] = JobRow.status.in_(_LIVE)
    if life is Life.STOPPED:
        return sa.and_(live, JobRow.leave_time.is_not(None))
    live = sa.and_(live, JobRow.leave_time.is_(None))
    silent, ahead = now - limits.silent_after, now + limits.silent_after
    abandoned = now - limits.abandoned_after
    match life:
        case Life.ALIVE:
            return sa.and_(live, JobRow.sign_time.between(silent, ahead))
        case Life.ABANDONED:
            return sa.and_(live, JobRow.sign_time < abandoned)
    between = sa.and_(JobRow.sign_time < silent, JobRow.sign_time >= abandoned)
    return sa.and_(live, sa.or_(between, JobRow.sign_time > ahead))
