"""Arguments and files that no command can make sense of: one line and exit code 2, never a traceback."""

from __future__ import annotations

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


def test_what_is_nested_too_deeply_is_refused(tmp_path: Path) -> None:
    toml, schedule = tmp_path / "lrpilot.toml", tmp_path / "schedule.json"
    toml.write_text("listen = " + "[" * DEEP)
    assert_fails(lrpilot_command("config", "--config", toml), 2, "lrpilot.toml: it is nested too deeply")
    schedule.write_text("[" * DEEP)
    result = lrpilot_command("stretch", schedule, "--steps", 5, "-o", tmp_path / "longer.json")
    assert_fails(result, 2, "schedule.json: not a schedule: it is nested too deeply")
