"""What a URL may ask of PostgreSQL, looked at before anything connects."""

from __future__ import annotations

import pytest

from tuner_server.base.database_url import DatabaseUrl
from tuner_server.core.errors import InvalidInputError
from tuner_server.storage import Database
from tuner_server.storage.drivers.postgresql import connection_parameters, session_settings


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("sslmod=require", "parameter sslmod is none of a PostgreSQL connection; is sslmode meant"),
        ("sslmode=on", "sslmode can be disable, allow, prefer, require, verify-ca, verify-full"),
        ("connect_timeout=soon", "connect_timeout must be a whole number"),
        ("target_session_attrs=master", "target_session_attrs can be any, read-write"),
        ("options=-d", "options takes -c NAME=VALUE alone"),
        ("options=-c", "options takes -c NAME=VALUE alone"),
        ("options=-c%20x", "options takes -c NAME=VALUE alone"),
    ],
)
def test_a_parameter_that_can_not_be_right_is_named(query: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        Database(f"postgresql://h/n?{query}")


def test_parameters_of_libpq_go_through_and_win() -> None:
    url = "postgresql://h/n?sslmode=verify-full&sslrootcert=/etc/ca.pem&connect_timeout=9&application_name=mine"
    found = connection_parameters(DatabaseUrl.parse(url))
    assert found["sslmode"] == "verify-full"
    assert found["sslrootcert"] == "/etc/ca.pem"
    assert found["connect_timeout"] == "9"
    assert found["application_name"] == "mine"
    assert found["keepalives_idle"] == "5"


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        ("", {}),
        ("-c search_path=a,b -cstatement_timeout=7s", {"search_path": "a,b", "statement_timeout": "7s"}),
        (r"--search-path=a\ b", {"search_path": "a b"}),
    ],
)
def test_options_are_settings_of_each_transaction(options: str, settings: dict[str, str]) -> None:
    assert session_settings(options) == settings
