"""Arguments and files that no command can make sense of: one line and exit code 2, never a traceback."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from tests.support.servers.command_line import assert_fails, lrpilot_command

BYTES = "r\udcff"
"""How Python has an argument whose bytes are `r` and 255."""
DEEP = 100_000


@pytest.mark.parametrize(
    "arguments",
    [
        ("show", BYTES),
        ("rename", "latest", BYTES),
        ("cancel", "latest", "--reason", BYTES),
        ("jobs", "--family", BYTES),
        ("jobs", "--server", BYTES),
        ("tokens", "revoke", BYTES),
        ("tokens", "create", "--project", BYTES),
    ],
)
def test_an_argument_that_is_not_utf_8_is_refused_before_any_command_sees_it(arguments: tuple[str, ...]) -> None:
    place = arguments.index(BYTES) + 1
    assert_fails(lrpilot_command(*arguments), 2, rf"argument {place}: b'r\xff' is not UTF-8")


def test_a_variable_that_is_not_utf_8_is_refused() -> None:
    assert_fails(lrpilot_command("jobs", LRPILOT_SERVER=BYTES), 2, "LRPILOT_SERVER: must be UTF-8")


@pytest.mark.parametrize("days", ["inf", "1e308", "1e12", "1e6"])
def test_days_before_all_calendars_are_refused(days: str, tmp_path: Path) -> None:
    result = lrpilot_command("jobs", "prune", "--older-than", days, "--db", f"sqlite:///{tmp_path}/jobs.db")
    assert_fails(result, 2, "older_than: ", " days ago is no date; give days, as 90")
    assert not list(tmp_path.iterdir())


def test_a_name_that_no_host_can_have_is_refused(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path}/jobs.db"
    result = lrpilot_command("serve", "--listen", "a..b:0", "--insecure", "--db", database)
    assert_fails(result, 2, "listen: a..b:0 can't be bound: no host can have that name")


@pytest.mark.parametrize("arguments", [("jobs", "prune", "--older-than", 1), ("tokens", "list")])
def test_a_project_that_is_not_there_is_told(arguments: tuple[str, ...], tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path}/jobs.db"
    result = lrpilot_command(*arguments, "--project", "nosuch", "--db", database)
    assert_fails(result, 2, "no project is called 'nosuch'")
    assert lrpilot_command(*arguments, "--project", "default", "--db", database).returncode == 0


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    huge = tmp_path / "huge.json"
    huge.touch()
    os.truncate(huge, 2**40)
    for command in (("stretch", huge, "--steps", 5, "-o", tmp_path / "longer.json"), ("forecast", huge)):
        assert_fails(lrpilot_command(*command), 2, "huge.json: it has more than 1073741824 bytes")
    assert_fails(lrpilot_command("config", "--config", huge), 2, "huge.json: it has more than 1048576 bytes")
    tls = ("--tls-cert", huge, "--tls-key", huge, "--db", f"sqlite:///{tmp_path}/jobs.db")
    assert_fails(lrpilot_command("serve", "--listen", "127.0.0.1:0", *tls), 2, "huge.json: it has more than")
    assert_fails(
        lrpilot_command("jobs", "--server", "127.0.0.1:1", LRPILOT_TOKEN_FILE=f"{huge}"), 2, "it has more than"
    )


def test_settings_that_never_end_are_cut(tmp_path: Path) -> None:
    pipe, full = tmp_path / "pipe", b"# \n" * 2**19
    os.mkfifo(pipe)
    # Open at both ends, so that it never ends; a pipe holds some of what is written, and the rest waits for the reader.
    end = os.open(pipe, os.O_RDWR)
    writer = threading.Thread(target=lambda: os.write(end, full))
    writer.start()
    assert_fails(lrpilot_command("config", "--config", pipe), 2, "pipe: it has more than 1048576 bytes")
    while writer.is_alive():
        os.read(end, 2**16)
    writer.join()
    os.close(end)


def test_a_certificate_s_file_is_a_regular_one(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    tls = ("--tls-cert", pipe, "--tls-key", pipe, "--db", f"sqlite:///{tmp_path}/jobs.db")
    assert_fails(lrpilot_command("serve", "--listen", "127.0.0.1:0", *tls), 2, "pipe: it is no regular file")


def test_what_is_nested_too_deeply_is_refused(tmp_path: Path) -> None:
    toml, schedule = tmp_path / "lrpilot.toml", tmp_path / "schedule.json"
    toml.write_text("listen = " + "[" * DEEP)
    assert_fails(lrpilot_command("config", "--config", toml), 2, "lrpilot.toml: it is nested too deeply")
    schedule.write_text("[" * DEEP)
    result = lrpilot_command("stretch", schedule, "--steps", 5, "-o", tmp_path / "longer.json")
    assert_fails(result, 2, "schedule.json: not a schedule: it is nested too deeply")
