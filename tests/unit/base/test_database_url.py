"""URLs of databases: what can be given, and that nothing of a password is ever repeated."""

from __future__ import annotations

import traceback
from collections.abc import Mapping

import pytest
from typer.testing import CliRunner

from tuner_server.base.database_url import DatabaseUrl
from tuner_server.cli.app import app
from tuner_server.core.errors import InvalidInputError
from tuner_server.process.settings import load

SECRET = "SECRETPART"
WRONG = [
    f"postgresql://u:p@ss:{SECRET}@h/db",
    f"postgresql://u:p@{SECRET}@h/db",
    f"postgresql://u:{SECRET}@@h/db",
    f"postgresql://u:p/{SECRET}@h/db",
    f"postgresql://u:p?{SECRET}@h/db",
    f"postgresql://u:{SECRET}%zz@h/db",
    f"postgresql://u:{SECRET}%ff@h/db",
    f"postgresql://u:{SECRET}%00@h/db",
    f"postgresql://u:{SECRET}\n@h/db",
    f"postgresql://u:{SECRET}/db",
    f"postgres://u:p#@{SECRET}:99999999@h/db",
    f"postgresql://u@h/db?password={SECRET}&{SECRET}",
    f"postgresql://u@h/db?{SECRET}={SECRET}",
    f"postgresql:/u:{SECRET}@h/db",
    f"u:{SECRET}@h/db",
    f"mysql://u:{SECRET}@h/db",
    SECRET,
]


@pytest.mark.parametrize("url", WRONG)
def test_a_url_that_can_not_be_read_is_told_without_a_part_of_its_password(url: str) -> None:
    with pytest.raises(InvalidInputError, match=r"^db: ") as caught:
        DatabaseUrl.parse(url)
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("command", ["config", "serve", "db upgrade", "db backup -o x", "jobs prune --older-than 1"])
@pytest.mark.parametrize("where", ["environment", "flag"])
def test_no_command_repeats_it(command: str, where: str) -> None:
    arguments = command.split() + (["--db", WRONG[0]] if where == "flag" else [])
    runner = CliRunner(env={"LRPILOT_DB": WRONG[0] if where == "environment" else ""})
    result = runner.invoke(app, arguments)
    assert isinstance(result.exception, InvalidInputError)
    assert "%40" in str(result.exception)
    assert SECRET not in "".join(traceback.format_exception(result.exception)) + result.output


def test_a_file_of_settings_is_named_and_its_password_is_not() -> None:
    with pytest.raises(InvalidInputError, match=r"^db: .*%40.* \(environment LRPILOT_DB\)$"):
        load({}, {"LRPILOT_DB": WRONG[0]})
    with pytest.raises(InvalidInputError, match=r"^db: must be a text") as caught:
        load({"db": [WRONG[0]]}, {})
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "parameters", "label"),
    [
        ("postgresql://h/n", {"host": "h", "dbname": "n"}, "postgresql://h/n"),
        ("postgres://h/n", {"host": "h", "dbname": "n"}, "postgresql://h/n"),
        ("postgresql+psycopg://h/n", {"host": "h", "dbname": "n"}, "postgresql://h/n"),
        (
            "postgres://u:p%40ss%3Ax%2F%25@h:1/n?sslmode=require&connect_timeout=7",
            {
                "user": "u",
                "password": "p@ss:x/%",
                "host": "h",
                "port": "1",
                "dbname": "n",
                "sslmode": "require",
                "connect_timeout": "7",
            },
            "postgresql://u:***@h:1/n",
        ),
        ("postgresql://u:a:b@h", {"user": "u", "password": "a:b", "host": "h"}, "postgresql://u:***@h"),
        (
            "postgresql://u@h1:1,h2,[::1]:3/n?target_session_attrs=read-write",
            {
                "user": "u",
                "host": "h1,h2,::1",
                "port": "1,5432,3",
                "dbname": "n",
                "target_session_attrs": "read-write",
            },
            "postgresql://u@h1:1,h2:5432,[::1]:3/n",
        ),
        (
            "postgresql://%2Fvar%2Frun/n?options=-csearch_path%3Dx",
            {"host": "/var/run", "dbname": "n", "options": "-csearch_path=x"},
            "postgresql://%2Fvar%2Frun/n",
        ),
        ("postgresql:///n", {"dbname": "n"}, "postgresql:///n"),
    ],
)
def test_what_libpq_is_told(url: str, parameters: Mapping[str, str], label: str) -> None:
    found = DatabaseUrl.parse(url)
    assert (found.parameters, found.label, found.file) == (parameters, label, None)


@pytest.mark.parametrize(("url", "file"), [("sqlite:///a.db", "a.db"), ("sqlite:////var/a b#.db", "/var/a b#.db")])
def test_a_file_is_taken_as_it_is(url: str, file: str) -> None:
    found = DatabaseUrl.parse(url)
    assert (found.file, found.label, found.parameters) == (file, url, {})


def test_a_password_is_in_no_repr() -> None:
    assert SECRET not in repr(DatabaseUrl.parse(f"postgresql://u:{SECRET}@h/db"))
