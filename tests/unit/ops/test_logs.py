from __future__ import annotations

import json
import logging
import sys
import warnings
from collections.abc import Iterator

import pytest
import structlog

from tuner_server.ops import logs
from tuner_server.ops.line_limits import LINES_AT_ONCE

TOKEN = "lrp_0123456789ab_9-XyZ_abcdefghijklmnopqrstuvwxyz0123456789ABCDE"


@pytest.fixture(autouse=True)
def _former_configuration() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    root.handlers[:], root.level = handlers, level


@pytest.mark.parametrize("log_format", ["logfmt", "json"])
def test_no_secret_comes_through(log_format: str, capfd: pytest.CaptureFixture[str]) -> None:
    with logs.on_standard_error("json" if log_format == "json" else "logfmt", "info"):
        _tell_secrets()
    text = capfd.readouterr().err
    assert len(text.splitlines()) >= 6
    assert "geheim" not in text
    assert TOKEN.rpartition("ab_")[2] not in text
    assert "lrp_0123456789ab_***" in text  # which token it was may be known


def _tell_secrets() -> None:
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


def test_a_line_of_json_has_what_is_bound(capfd: pytest.CaptureFixture[str]) -> None:
    with logs.on_standard_error("json", "info"):
        structlog.contextvars.bind_contextvars(request_id="r-1")
        structlog.get_logger().info("call", code="OK", seconds=0.5)
        structlog.get_logger().debug("not this")
        logging.getLogger("library").warning("its trouble")
    ours, theirs = map(json.loads, capfd.readouterr().err.splitlines())
    assert ours.pop("timestamp").endswith("Z")
    assert ours == {"event": "call", "level": "info", "request_id": "r-1", "code": "OK", "seconds": 0.5}
    assert (theirs["event"], theirs["level"], theirs["logger"]) == ("its trouble", "warning", "library")


def test_a_line_of_logfmt_begins_with_its_time(capfd: pytest.CaptureFixture[str]) -> None:
    with logs.on_standard_error("logfmt", "debug"):
        structlog.get_logger().debug("call", code="OK", tls=False)
    assert capfd.readouterr().err.split(" ", 1)[1] == "level=debug event=call code=OK tls=false\n"


def test_what_is_printed_goes_the_same_way(capfd: pytest.CaptureFixture[str]) -> None:
    with logs.on_standard_error("logfmt", "info"):
        print("half a line", end="", file=sys.stderr)
        print(" and its rest", file=sys.stderr)
        with pytest.warns(UserWarning, match="old"):
            warnings.warn("old", UserWarning, stacklevel=1)
    assert capfd.readouterr().err == "half a line and its rest\n"


@pytest.mark.parametrize("log_format", ["logfmt", "json"])
def test_nobody_can_fill_the_log(log_format: str, capfd: pytest.CaptureFixture[str]) -> None:
    with logs.on_standard_error("json" if log_format == "json" else "logfmt", "info"):
        for i in range(10_000):
            structlog.get_logger().warning("call", code="UNAUTHENTICATED", request_id=f"r-{i}")
        for i in range(2_000):
            logging.getLogger("library").error("socket %d", i)
        structlog.get_logger().warning("call", code="UNAVAILABLE")
    lines = capfd.readouterr().err.splitlines()
    assert 2 * LINES_AT_ONCE < len(lines) < 6 * LINES_AT_ONCE  # of two kinds, and what comes up meanwhile
    assert "UNAVAILABLE" in lines[-1]  # no other kind is held back
