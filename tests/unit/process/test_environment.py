from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

import pytest

from tuner_server.core.errors import InvalidInputError
from tuner_server.process import environment
from tuner_server.process.environment import check_environment, own_data_directory


@pytest.fixture(autouse=True)
def _no_directory_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)


def test_own_data_are_below_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    where = Path(own_data_directory())
    assert where.is_relative_to(tmp_path)
    assert where.is_dir()


def test_a_home_that_is_a_file_is_one_line_that_says_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    with pytest.raises(InvalidInputError, match=r"db: .* can't be made: Not a directory; set LRPILOT_DB=") as refused:
        own_data_directory()
    assert "\n" not in str(refused.value)


def test_a_user_without_home_and_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 7)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInputError, match=r"db: .*no HOME; set LRPILOT_DB="):
        own_data_directory()
    assert not list(tmp_path.iterdir())


def test_a_directory_that_can_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setattr(os, "access", lambda _path, _mode: False)
    with pytest.raises(InvalidInputError, match=r"lrpilot can't be written; set LRPILOT_DB="):
        own_data_directory()


def test_an_end_of_standard_input_that_would_never_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    check_environment(exits_with_stdin=False)
    with pytest.raises(InvalidInputError, match="exit_with_stdin: standard input is closed"):
        check_environment(exits_with_stdin=True)


def test_files_are_raised_to_what_is_allowed_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {"now": (64, 4096)}
    monkeypatch.setattr(resource, "getrlimit", lambda _what: limits["now"])
    monkeypatch.setattr(resource, "setrlimit", lambda _what, pair: limits.update(now=pair))
    check_environment(exits_with_stdin=False)
    assert limits["now"] == (environment.MIN_FILES, 4096)
    limits["now"] = (64, 128)
    with pytest.raises(InvalidInputError, match="this process may have 128, a server needs 256; set `ulimit -n 1024`"):
        check_environment(exits_with_stdin=False)


def test_a_working_directory_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(InvalidInputError, match="working directory: No such file"):
        check_environment(exits_with_stdin=False)
