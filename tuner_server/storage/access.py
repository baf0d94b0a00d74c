"""Projects and tokens in the database of the jobs."""

from __future__ import annotations

import dataclasses
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from tuner_server.access.principal import Scope
from tuner_server.access.records import Grant, Limits, Project, TokenRecord
from tuner_server.base.closing import Closing
from tuner_server.core.errors import ConflictError, InvalidInputError
from tuner_server.storage.database import Database
from tuner_server.storage.schema import open_storage
from tuner_server.storage.tables import ProjectRow, TokenRow

_TOKEN = (
    TokenRow.id,
    TokenRow.project,
    TokenRow.name,
    TokenRow.secret_hash,
    TokenRow.scopes,
    TokenRow.create_time,
    TokenRow.expire_time,
    TokenRow.revoke_time,
)
_LIMITS = (ProjectRow.max_alive_jobs, ProjectRow.max_calls_per_s)
# Built once: every call whose token is not fresh executes it.
_GRANT = (
    sa.select(*_TOKEN, *_LIMITS)
    .join(ProjectRow, ProjectRow.name == TokenRow.project)
    .where(TokenRow.id == sa.bindparam("token_id"))
)


def open_access(url: str) -> AccessStorage:
    """Opens a database as `open_storage` does: an embedded one is made, or upgraded, if need be. Raises: likewise."""
    open_storage(url).close()
    return AccessStorage(Database(url))


class AccessStorage(Closing):
    """Projects and tokens in a database that has the schema of this version, which it closes. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create_project(self, project: Project) -> None:
        """Adds a project. Raises: InvalidInputError: there is one of that name; StorageError."""
        values = {"name": project.name, "create_time": project.create_time, **_limits(project.limits)}
        try:
            with self._database.writing() as connection:
                connection.execute(sa.insert(ProjectRow).values(values))
        except ConflictError as error:
            raise InvalidInputError.of("project", f"{project.name!r} exists already") from error

    def update_project(self, name: str, limits: Limits) -> None:
        """Gives a project other limits. Raises: InvalidInputError: there is none of that name; StorageError."""
        change = sa.update(ProjectRow).where(ProjectRow.name == name).values(_limits(limits))
        with self._database.writing() as connection:
            if connection.execute(change).rowcount == 0:
                raise _unknown(name)

    def project(self, name: str) -> Project:
        """The project of that name. Raises: InvalidInputError: there is none of that name; StorageError."""
        found = next((project for project in self.projects() if project.name == name), None)
        if found is None:
            raise _unknown(name)
        return found

    def projects(self) -> list[Project]:
        """All projects, by name. Raises: StorageError."""
        query = sa.select(ProjectRow.name, ProjectRow.create_time, *_LIMITS).order_by(ProjectRow.name)
        with self._database.reading() as connection:
            rows = connection.execute(query).all()
        return [Project(row.name, Limits(row.max_alive_jobs, row.max_calls_per_s), row.create_time) for row in rows]

    def create_token(self, token: TokenRecord) -> None:
        """Adds a token. Raises: InvalidInputError: there is no such project; StorageError."""
        values = {field.name: getattr(token, field.name) for field in dataclasses.fields(token)}
        values["scopes"] = " ".join(sorted(token.scopes))
        with self._database.writing() as connection:
            known = sa.select(ProjectRow.name).where(ProjectRow.name == token.project)
            if connection.execute(known).first() is None:
                raise _unknown(token.project)
            connection.execute(sa.insert(TokenRow).values(values))

    def tokens(self, project: str | None = None) -> list[TokenRecord]:
        """The tokens of a project, or of all, oldest first.

        Raises:
            InvalidInputError: there is no such project.
            StorageError: the database can't be used.
        """
        if project is not None:
            self.project(project)
        query = sa.select(*_TOKEN).order_by(TokenRow.project, TokenRow.create_time, TokenRow.id)
        if project is not None:
            query = query.where(TokenRow.project == project)
        with self._database.reading() as connection:
            return [_token(row) for row in connection.execute(query).all()]

    def revoke_token(self, token_id: str, now: datetime) -> TokenRecord:
        """Ends a token; one that was revoked before stays as it was.

        Raises:
            InvalidInputError: there is no token of that id.
            StorageError: the database can't be used.
        """
        one = TokenRow.id == token_id
        with self._database.writing() as connection:
            change = sa.update(TokenRow).where(one, TokenRow.revoke_time.is_(None)).values(revoke_time=now)
            connection.execute(change)
            row = connection.execute(sa.select(*_TOKEN).where(one)).one_or_none()
        if row is None:
            raise InvalidInputError.of("token", f"no token has the id {token_id!r}; `lrpilot tokens list` shows them")
        return _token(row)

    def delete_token(self, token_id: str) -> None:
        """Takes a token back that nobody has. Raises: StorageError."""
        with self._database.writing() as connection:
            connection.execute(sa.delete(TokenRow).where(TokenRow.id == token_id))

    def find(self, token_id: str) -> Grant | None:
        """The token of that id with its project's limits, if there is one. Raises: StorageError."""
        with self._database.reading() as connection:
            row = connection.execute(_GRANT, {"token_id": token_id}).one_or_none()
        return None if row is None else Grant(_token(row), Limits(row.max_alive_jobs, row.max_calls_per_s))

    def close(self) -> None:
        """Closes the database's connections."""
        self._database.close()


def _limits(limits: Limits) -> dict[str, Any]:
    return {"max_alive_jobs": limits.max_alive_jobs, "max_calls_per_s": limits.max_calls_per_s}


def _token(row: Any) -> TokenRecord:
    """The token in a row, which has at least the columns of `_TOKEN`."""
    return TokenRecord(
        id=row.id,
        project=row.project,
        name=row.name,
        secret_hash=row.secret_hash,
        # One that a newer version knows allows nothing here.
        scopes=frozenset(scope for scope in Scope if scope in row.scopes.split()),
        create_time=row.create_time,
        expire_time=row.expire_time,
        revoke_time=row.revoke_time,
    )


def _unknown(name: str) -> InvalidInputError:
    return InvalidInputError.of("project", f"no project is called {name!r}; `lrpilot projects create` makes one")
