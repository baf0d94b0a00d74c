from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tuner_server.cli.app import app
from tuner_server.core.errors import InvalidInputError
from tuner_server.process.settings import ServerSettings, flag, load, variable


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "lrpilot.toml"
    path.write_text('listen = "127.0.0.1:1"\nworkers = 3\nlog_level = "error"\n')
    return path


def test_a_flag_wins_over_the_environment_that_over_the_file_that_over_the_default(file: Path) -> None:
    environment = {"LRPILOT_CONFIG": str(file), "LRPILOT_LISTEN": "127.0.0.1:2", "LRPILOT_WORKERS": "5"}
    found = load({"workers": 7, "grace_s": None}, environment)
    settings = found.settings
    assert (settings.workers, settings.listen, settings.log_level, settings.grace_s) == (7, "127.0.0.1:2", "error", 10)
    origins = {name: found.origins[name] for name in ("workers", "listen", "log_level", "grace_s")}
    assert origins == {
        "workers": "flag --workers",
        "listen": "environment LRPILOT_LISTEN",
        "log_level": f"file {file}",
        "grace_s": "default",
    }


def test_a_file_named_by_a_flag_wins_over_one_named_by_the_environment(file: Path) -> None:
    assert load({"config": file}, {"LRPILOT_CONFIG": "/nowhere"}).settings.workers == 3


def test_an_empty_variable_is_not_set() -> None:
    assert load({}, {"LRPILOT_METRICS": "", "LRPILOT_CONFIG": ""}).settings.metrics is None


@pytest.mark.parametrize(
    ("flags", "environment", "message"),
    [
        ({"workers": 0}, {}, "workers: .* greater than or equal to 1 .*flag --workers"),
        ({}, {"LRPILOT_WORKERS": "many"}, "workers: .*'many'.*environment LRPILOT_WORKERS"),
        ({"listen": "here"}, {}, r"^listen: must be HOST:PORT, as 127.0.0.1:50051 \(got 'here'\) \(flag --listen\)$"),
        ({"metrics": ":"}, {}, r"metrics: must be HOST:PORT.* \(got ':'\)"),
        ({"grace_s": float("inf")}, {}, "grace_s: .*finite"),
        ({"auth": "password"}, {}, "auth: .*'none' or 'tokens'"),
        ({"tls_cert": "a.pem"}, {}, "tls_key: tls_cert and tls_key are given together"),
        ({"tls_key": "a.pem"}, {}, "tls_key: tls_cert and tls_key are given together"),
        ({"tls_client_ca": "a.pem"}, {}, "tls_client_ca: needs tls_cert and tls_key"),
        *(
            ({"otlp_endpoint": url}, {}, "otlp_endpoint: must be http://HOST:PORT or https://HOST:PORT")
            for url in (
                "",
                "foo",
                "collector:4317",
                "http://[::1",
                "http://",
                "http://:4317",
                "http://host:x",
                "ftp://a:1",
            )
        ),
        ({"config": "/nowhere/lrpilot.toml"}, {}, "config: /nowhere/lrpilot.toml: No such file"),
    ],
)
def test_what_is_refused_is_named(flags: dict[str, object], environment: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        load(flags, environment)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('lisen = "127.0.0.1:1"\n', "no setting is named lisen; there are listen, db"),
        ("[server]\nworkers = 2\n", "no setting is named server"),
        ("workers 2\n", "lrpilot.toml: Expected '='"),
        ("workers = 'two'\n", "workers: .*'two'.*file "),
    ],
)
def test_a_file_that_can_not_be_right_is_refused(file: Path, text: str, message: str) -> None:
    file.write_text(text)
    with pytest.raises(InvalidInputError, match=message):
        load({"config": file}, {})


@pytest.mark.parametrize(("listen", "auth"), [("127.0.0.1:0", "none"), ("[::1]:0", "none"), ("0.0.0.0:0", "tokens")])
def test_tokens_are_asked_for_by_default_where_others_can_call(listen: str, auth: str) -> None:
    assert load({"listen": listen}, {}).settings.auth == auth


@pytest.mark.parametrize("url", ["http://127.0.0.1:4317", "https://collector.example/", "http://[::1]:4317"])
def test_a_collector_has_the_address_of_a_web_page(url: str) -> None:
    assert load({"otlp_endpoint": url}, {}).settings.otlp_endpoint == url


def test_passwords_are_not_shown() -> None:
    url = "postgresql://me:geheim@db/lrpilot?sslpassword=geheim&application_name=x"
    shown = load({"db": url}, {}).settings.shown()
    assert shown["db"] == "postgresql://me:***@db/lrpilot"


def test_every_setting_is_a_flag_of_serve_with_its_variable_in_the_help() -> None:
    runner = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})
    for command in ("serve", "config"):
        text = runner.invoke(app, [command, "--help"]).output
        for name in ServerSettings.model_fields:
            assert f"{flag(name)} " in text
            assert variable(name) in text


def test_config_prints_values_and_where_they_come_from(file: Path) -> None:
    environment = {"LRPILOT_CONFIG": str(file), "LRPILOT_DB": "postgresql://me:geheim@db/lrpilot"}
    result = CliRunner(env=environment).invoke(app, ["config", "--json", "--workers", "4", "--insecure"])
    assert result.exit_code == 0
    printed = json.loads(result.output)
    assert printed.keys() == ServerSettings.model_fields.keys()
    assert printed["workers"] == {"value": 4, "from": "flag --workers"}
    assert printed["insecure"] == {"value": True, "from": "flag --insecure"}
    assert printed["listen"] == {"value": "127.0.0.1:1", "from": f"file {file}"}
    assert printed["db"] == {"value": "postgresql://me:***@db/lrpilot", "from": "environment LRPILOT_DB"}
    text = CliRunner(env=environment).invoke(app, ["config"]).output
    assert "geheim" not in text
    assert "LRPILOT_DB" in text


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"db: must be UTF-8 \(environment LRPILOT_DB\)"):
        load({}, {"LRPILOT_DB": "sqlite:///\udcff.db"})
