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
from tuner_server.storage.drivers.postgresql import Session
from tuner_server.storage.tables import VERSION_TABLE, Base

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
    with _service(database) as (connecting, environment):
        done = subprocess.run(
            [_found(name), *arguments, *connecting],
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    if done.returncode != 0:
        raise StorageError(f"{database.label if database else name}: {_first_line(done.stderr, done.returncode)}")
    return done.stdout


def load_archive(archive: Path, database: Database, before: Sequence[str]) -> None:
    """Loads an archive in one transaction, which is committed once `pg_restore` has said that it was all.

    Args:
        archive: what `pg_dump` wrote.
        database: where to.
        before: statements that come first.

    Raises:
        StorageError: a program is missing, or fails; nothing was changed.
    """
    loader, reader = _found("psql"), _found("pg_restore")
    options = ("--quiet", "--no-psqlrc", "--set=ON_ERROR_STOP=1", f"--output={os.devnull}", "--file=-")
    with _service(database) as (connecting, environment), tempfile.TemporaryFile("w+") as errors:
        with subprocess.Popen(
            [loader, *options, *connecting], env=os.environ | environment, stdin=subprocess.PIPE, stderr=errors
        ) as loading:
            assert loading.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # it has ended, and says below why
                loading.stdin.write("\n".join(["BEGIN;", *before, ""]).encode())
                loading.stdin.flush()
                unpack = [reader, "--no-owner", "--no-privileges", "--file=-", str(archive)]
                read = subprocess.run(
                    unpack, stdin=subprocess.DEVNULL, stdout=loading.stdin, stderr=errors, check=False
                )
                if read.returncode == 0:  # otherwise it ends without a commit
                    loading.stdin.write(b"COMMIT;\n")
                loading.stdin.close()
        if loading.returncode != 0 or read.returncode != 0:
            errors.seek(0)
            raise StorageError(f"{database.label}: {_first_line(errors.read(), loading.returncode)}")


def _found(name: str) -> str:
    """The path of a program. Raises: StorageError: there is none."""
    program = shutil.which(name)
    if program is None:
        raise StorageError(f"{name} was not found: install PostgreSQL's client programs, of its version or a newer one")
    return program


def _first_line(text: str, code: int) -> str:
    return next((line for line in text.splitlines() if line.strip()), f"exit code {code}")


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
    """The parameters of a connection where only we can read them: a command line shows its passwords to everybody.

    The password goes by the environment: a line of a service file loses the blanks at its end, and has an end, which
    passwords that a cloud makes up for an hour are beyond.
    """
    if database is None:
        yield (), {}
        return
    parameters = dict(database.url.parameters)
    secret = {"PGPASSWORD": parameters.pop("password")} if "password" in parameters else {}
    lines = [f"[{_SERVICE}]", *(f"{name}={value}" for name, value in parameters.items())]
    with tempfile.NamedTemporaryFile("w", prefix="lrpilot-", suffix=".conf") as file:
        file.write("\n".join(lines) + "\n")
        file.flush()
        yield ("--no-password", f"--dbname=service={_SERVICE}"), {"PGSERVICEFILE": file.name, **secret}
