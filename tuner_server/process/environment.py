"""What a server needs of the process that it is started in, looked at before anything else."""

from __future__ import annotations

import os
import resource
import sys

import platformdirs

from tuner_server.core.errors import InvalidInputError

MIN_FILES = 256
"""Descriptors that a server with a few clients needs: those of its database, three for a connection, and theirs."""
_REMEDY = "set LRPILOT_DB=sqlite:///FILE, or HOME to a directory that can be written"


def check_environment(*, exits_with_stdin: bool) -> None:
    """Raises: InvalidInputError: a server can't run in this process, and what to set."""
    try:
        os.getcwd()
    except OSError as error:  # relative paths would fail one by one, each in words of its own
        raise InvalidInputError.of(
            "working directory", f"{error.strerror}; start the server in a directory that exists"
        ) from error
    if exits_with_stdin and sys.stdin is None:
        raise InvalidInputError.of(
            "exit_with_stdin",
            "standard input is closed, so its end would never be seen; give a pipe, or leave this out",
        )
    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= allowed < MIN_FILES:
        if 0 <= most < MIN_FILES:
            raise InvalidInputError.of(
                "open files", f"this process may have {most}, a server needs {MIN_FILES}; set `ulimit -n 1024` before"
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (MIN_FILES, most))


def own_data_directory() -> str:
    """The directory of this user's data, which is made if need be. Raises: InvalidInputError: there can be none."""
    try:
        where = platformdirs.user_data_path("lrpilot", appauthor=False)
    except RuntimeError as error:  # no HOME, and no entry for this user in the system's list
        raise InvalidInputError.of("db", f"there is no place for your own database: no HOME; {_REMEDY}") from error
    # Otherwise there would be another database in each directory that a process runs in.
    if not where.is_absolute():
        raise InvalidInputError.of("db", f"{where}: HOME or XDG_DATA_HOME is no absolute path; {_REMEDY}")
    try:
        directory = platformdirs.user_data_path("lrpilot", appauthor=False)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInputError.of("db", f"{where} can't be made: {error.strerror}; {_REMEDY}") from error
    if not os.access(where, os.W_OK | os.X_OK):
        raise InvalidInputError.of("db", f"{where} can't be written; {_REMEDY}")
    return str(where)
