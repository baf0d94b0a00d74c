from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from tuner_server.ops import logs

TOKEN = "lrp_0123456789ab_9-XyZ_abcdefghijklmnopqrstuvwxyz0123456789ABCDE"


@pytest.fixture(autouse=True)
def _former_configuration() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    root.handlers[:], root.level = handlers, level


def logged(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err


@pytest.mark.parametrize("log_format", ["logfmt", "json"])
def test_no_secret_comes_through(log_format: str, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("json" if log_format == "json" else "logfmt", "info")
    log = structlog.get_logger()
    log.info("told", token=TOKEN, header=f"Bearer {TOKEN}", other="authorization: bearer eyJhbGciOi.geheim")
    log.info("db", url="postgresql://me:geheim@db/lrpilot", dsn="host=db password=geheim user=me", password="geheim")
    log.info("nested", settings={"password": "geheim", "token": [TOKEN]})
    logging.getLogger("library").warning("can't reach postgresql://me:geheim@db with %s", TOKEN)
    try:
        raise RuntimeError(f"refused {TOKEN} for postgresql://me:geheim@db/x")
    except RuntimeError:
        log.exception("failed")
        logging.getLogger("library").exception("failed too")
    text = logged(capsys)
    assert len(text.splitlines()) >= 6
    assert "geheim" not in text
    assert TOKEN.rpartition("ab_")[2] not in text
    assert "lrp_0123456789ab_***" in text  # which token it was may be known


def test_a_line_of_json_has_what_is_bound(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("json", "info")
    structlog.contextvars.bind_contextvars(request_id="r-1")
    structlog.get_logger().info("call", code="OK", seconds=0.5)
    structlog.get_logger().debug("not this")
    logging.getLogger("library").warning("its trouble")
    ours, theirs = map(json.loads, logged(capsys).splitlines())
    assert ours.pop("timestamp").endswith("Z")
    assert ours == {"event": "call", "level": "info", "request_id": "r-1", "code": "OK", "seconds": 0.5}
    assert (theirs["event"], theirs["level"], theirs["logger"]) == ("its trouble", "warning", "library")


def test_a_line_of_logfmt_begins_with_its_time(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("logfmt", "debug")
    structlog.get_logger().debug("call", code="OK", tls=False)
    assert logged(capsys).split(" ", 1)[1] == "level=debug event=call code=OK tls=false\n"
