"""Commands that change something, where nobody can be told: no token stays that nobody saw, and all else is said."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from tuner_server.access.records import Limits, Project
from tuner_server.base.clock import utc_now
from tuner_server.cli import main
from tuner_server.storage.access import open_access


class FailingOutput(io.StringIO):
    """A standard output that takes nothing."""

    def __init__(self, error: OSError) -> None:
        super().__init__()
        self._error = error

    def flush(self) -> None:
        raise self._error


def full() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def unread() -> OSError:
    return BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


def untold(error: Callable[[], OSError], *arguments: object) -> tuple[int, str]:
    """Runs a command whose output can't be written; its exit code, and what it says on standard error."""
    said = io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        redirect_stdout(FailingOutput(error())),
        redirect_stderr(said),
    ):
        patch.setattr(sys, "argv", ["lrpilot", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
    assert isinstance(ended.value.code, int)
    return ended.value.code, said.getvalue()


@pytest.fixture
def db(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path}/jobs.db"
    with open_access(url) as access:
        access.create_project(Project.checked("vision", Limits(), utc_now()))
    return url


def tokens(db: str) -> int:
    with open_access(db) as access:
        return len(access.tokens())


CREATE = ("tokens", "create", "--project", "vision", "--scope", "train")


@pytest.mark.parametrize("error", [full, unread])
def test_a_token_that_nobody_has_seen_is_none(db: str, error: Callable[[], OSError]) -> None:
    code, said = untold(error, *CREATE, "--db", db)
    assert (code, said.count("\n")) == (1, 1)
    assert "standard output" in said
    assert tokens(db) == 0


def test_a_token_is_not_made_for_a_standard_output_that_is_closed(db: str) -> None:
    command = f'"$0" -m tuner_server {" ".join(CREATE)} --db {db} >&-'
    ran = subprocess.run(["bash", "-c", command, sys.executable], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (1, "lrpilot: standard output: it is closed\n")
    assert tokens(db) == 0


def test_what_was_done_is_said_where_it_can_be(db: str) -> None:
    for arguments, done in (
        (("projects", "create", "speech"), "speech created"),
        (("projects", "update", "speech", "--max-alive-jobs", 3), "speech: 3 jobs alive"),
        (("db", "compact"), "jobs.db: "),
        (("db", "backup", "-o", f"{db.removeprefix('sqlite:///')}.copy"), "verified"),
    ):
        code, said = untold(full, *arguments, "--db", db)
        assert (code, said.count("\n")) == (1, 1)
        assert done in said
        assert "No space left" in said


def test_a_reader_who_has_seen_enough_is_no_failure(db: str) -> None:
    assert untold(unread, "projects", "create", "speech", "--db", db) == (0, "")
