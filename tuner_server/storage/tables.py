"""The tables, as they are at the newest schema version. A change here needs a migration beside it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, ClassVar

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

VERSION_TABLE = "lrpilot_schema_version"
"""Alembic's own table, under another name than its default, which another application may have taken."""


class UtcDateTime(sa.TypeDecorator[datetime]):
    """An aware time, to the microsecond. SQLite has no zones: there it is written, and read, as UTC."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """Raises ValueError: the time is naive."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value} has no time zone")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """The time in UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    """The root of the tables. Constraints have names, so that migrations can speak of them."""

    metadata = sa.MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "ix": "ix_%(table_name)s_%(column_0_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        datetime: UtcDateTime,
        str: sa.Text,
        bytes: sa.LargeBinary,
        float: sa.Double,
    }


class ProjectRow(Base):
    """A project, which jobs belong to: what one project has, another can't see."""

    __tablename__ = "projects"

    name: Mapped[str] = mapped_column(primary_key=True)
    max_alive_jobs: Mapped[int | None] = mapped_column("max_live_jobs", key="max_alive_jobs")
    """The limit; null: there is none."""
    max_calls_per_s: Mapped[float | None]
    """The limit; null: there is none."""
    create_time: Mapped[datetime]


class TokenRow(Base):
    """What a caller shows to act for a project. The secret itself is not kept."""

    __tablename__ = "tokens"

    id: Mapped[str] = mapped_column(primary_key=True)
    """The part of the token that is no secret."""
    project: Mapped[str] = mapped_column(sa.ForeignKey("projects.name"))
    name: Mapped[str]
    """What people call it."""
    secret_hash: Mapped[bytes]
    scopes: Mapped[str]
    """The names of the scopes, with blanks between."""
    create_time: Mapped[datetime]
    expire_time: Mapped[datetime | None]
    revoke_time: Mapped[datetime | None]

    __table_args__ = (sa.Index(None, "project", "create_time", "id"),)


class JobRow(Base):
    """A job: its state, and copies of the parts of it that listings look for."""

    __tablename__ = "jobs"

    id: Mapped[str] = mapped_column(primary_key=True)
    project: Mapped[str] = mapped_column(sa.ForeignKey("projects.name"))
    request_id: Mapped[str]
    request_fingerprint: Mapped[bytes]
    name: Mapped[str]
    family: Mapped[str]
    policy: Mapped[str]
    status: Mapped[str]
    """That of the state; or `GONE`."""
    state: Mapped[str]
    """A JobState as JSON."""
    version: Mapped[int]
    """Grows by one with every change."""
    create_time: Mapped[datetime]
    update_time: Mapped[datetime]
    # No part of the version: these change with every sign of the client, and tell nothing of what was decided. (Its
    # leaving makes another version, so that no server takes it to be there still.) The
    # defaults are for servers of the former version, which don't know the columns.
    sign_time: Mapped[datetime] = mapped_column(server_default=sa.func.current_timestamp())
    """The last sign of life of the job's client."""
    leave_time: Mapped[datetime | None]
    """When the client said that it leaves; null: it did not, or it came back."""
    note: Mapped[str] = mapped_column(server_default="")
    """What somebody has noted on the job."""

    # A page is a range of one of these, read backwards. Newest first, by id where times are equal.
    __table_args__ = (
        sa.UniqueConstraint("project", "request_id"),
        sa.Index("ix_jobs_project_create_time", "project", "create_time", "id"),
        sa.Index("ix_jobs_project_status", "project", "status", "create_time", "id"),
        sa.Index("ix_jobs_project_family", "project", "family", "create_time", "id"),
        # Jobs that live are counted in it alone, however many others there are.
        sa.Index("ix_jobs_life", "project", "sign_time", "status", "leave_time"),
    )


GONE = "gone"
"""The status of a job that was deleted, and whose row is there for its entries alone: they refer to it until the last
of them is deleted."""
THERE = JobRow.status != GONE
"""Whether a job is there for anybody who asks."""


class LastBackupRow(Base):
    """The last backup that was made of this database; there is one row, or none."""

    __tablename__ = "last_backup"

    time: Mapped[datetime] = mapped_column(primary_key=True)
    """When it was complete."""
    size: Mapped[int] = mapped_column(sa.BigInteger)
    """Its bytes."""


class EntryRow(Base):
    """A directive and what came of it. Whatever may be null is so until the report is there, but for the decision."""

    __tablename__ = "entries"

    job_id: Mapped[str] = mapped_column(sa.ForeignKey("jobs.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    directive: Mapped[str]
    """A Directive as JSON."""
    decision: Mapped[str | None]
    """A Decision as JSON; null where nothing was decided."""
    outcome: Mapped[str | None]
    n_steps: Mapped[int | None]
    losses: Mapped[bytes | None]
    """The losses as `codec` encodes them."""
    validations: Mapped[str | None]
    """A JSON list of Validation."""
    wall_time_s: Mapped[float | None]
    fingerprint: Mapped[bytes | None]
    """The digest of the report."""
    report_time: Mapped[datetime | None]
    replacement: Mapped[str | None]
    """A Replacement as JSON; null where the directive was carried out."""
    note: Mapped[str | None]
    """The note of the report; null where it has none."""
    measures: Mapped[bytes | None]
    """The measures as `codec` encodes them; null where the report has none."""
    change: Mapped[str | None]
    """A PlanChange as JSON; null where the report has none."""
    ending: Mapped[str | None]
    """An Ending as JSON; null where the report has none."""
