"""PostgreSQL's own programs for archives, which get their password where nobody else can read it."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tuner_server.core.errors import CorruptionError, StorageError
from tuner_server.storage.database import Database
from tuner_server.storage.postgresql import Session
from tuner_server.storage.schema import VERSION_TABLE
from tuner_server.storage.tables import Base

OUR_TABLES = (*Base.metadata.tables, VERSION_TABLE)
"""The tables that are LRPilot's; the database may hold others."""
_SERVICE = "lrpilot"
_TABLE = re.compile(r"^\d+; \d+ \d+ TABLE (?!DATA )(?P<schema>\S+) (?P<name>\S+) ", re.MULTILINE)
"""A table in an archive's list of contents."""


def run(name: str, *arguments: str | Path, database: Database | None = None) -> str:
    """Runs one of PostgreSQL's programs.

    Args:
        name: the program.
        arguments: what it is given.
        database: where it connects to; None: nowhere.

    Returns:
        Its output.

    Raises:
        StorageError: it is missing, or fails; the message is its first line.
    """
    program = shutil.which(name)
    if program is None:
        raise StorageError(f"{name} was not found: install PostgreSQL's client programs, of its version or a newer one")
    with _service(database) as (connecting, environment):
        done = subprocess.run(
            [program, *arguments, *connecting],
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if line.strip()] or [f"exit code {done.returncode}"]
        raise StorageError(f"{database.label if database else name}: {said[0]}")
    return done.stdout


def schema_of_archive(archive: Path) -> str:
    """The name of PostgreSQL's schema that the archive's tables are in, once it was read from end to end.

    Raises:
        CorruptionError: it can't be read, or not to its end.
        StorageError: it is no archive of LRPilot's; or PostgreSQL's `pg_restore` is missing.
    """
    try:
        contents = run("pg_restore", "--list", archive)
        run("pg_restore", f"--file={os.devnull}", archive)
    except StorageError as error:
        if "was not found" in str(error):
            raise
        raise CorruptionError(f"{archive} is no archive that pg_restore can read: {error}") from error
    found = {(match["schema"], match["name"]) for match in _TABLE.finditer(contents)}
    schemas, names = {schema for schema, _ in found}, {name for _, name in found}
    if len(schemas) != 1 or VERSION_TABLE not in names or not names <= set(OUR_TABLES):
        raise StorageError(
            f"{archive} is no archive of LRPilot's alone: it has {', '.join(sorted(names)) or 'no tables'}"
        )
    return schemas.pop()


def version_in_archive(archive: Path) -> str:
    """The schema version of an archive. Raises: StorageError: it has none."""
    text = run("pg_restore", "--data-only", f"--table={VERSION_TABLE}", "--file=-", archive)
    _, _, rows = text.partition(" FROM stdin;\n")
    version = rows.partition("\n")[0].strip()
    if not version or version == "\\.":
        raise StorageError(f"{archive} has no schema version")
    return version


def require_direct(database: Database) -> None:
    """Raises: StorageError: a pooler is in between. What the programs set stays with a session that others get."""
    with database.maintaining() as session:
        assert isinstance(session, Session)
        if session.pooled:
            raise StorageError(f"{database.label} is reached through a pooler: give the address of PostgreSQL itself")


@contextlib.contextmanager
def _service(database: Database | None) -> Iterator[tuple[Sequence[str], dict[str, str]]]:
    """The parameters of a connection where only we can read them: a command line shows its passwords to everybody."""
    if database is None:
        yield (), {}
        return
    lines = [f"[{_SERVICE}]", *(f"{name}={value}" for name, value in database.url.parameters.items())]
    with tempfile.NamedTemporaryFile("w", prefix="lrpilot-", suffix=".conf") as file:
        file.write("\n".join(lines) + "\n")
        file.flush()
        yield ("--no-password", f"--dbname=service={_SERVICE}"), {"PGSERVICEFILE": file.name}
