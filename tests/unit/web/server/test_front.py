"""The dashboard behind a proxy: under a base path, and with headers that are believed from some alone."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Iterator
from urllib.parse import unquote

import pytest
from starlette.testclient import TestClient
from structlog.testing import capture_logs

from tests.support.jobs.sample_jobs import job_config, run_job
from tests.support.jobs.simulated_training import SimulatedTraining
from tuner_server.access.principal import DEFAULT_PROJECT, Principal, Scope
from tuner_server.access.shares import Shares
from tuner_server.core.errors import InvalidInputError, UnauthenticatedError
from tuner_server.process.settings import load
from tuner_server.service.tuner_service import TunerService
from tuner_server.storage import open_storage
from tuner_server.web.server.access import COOKIE, local_path
from tuner_server.web.server.app import dashboard
from tuner_server.web.server.front import Front

PAGE = {"accept": "text/html"}
SIGNED_IN = {"cookie": f"{COOKIE}=reader"}
BASE, PROXY = "/tools/lrpilot", "10.1.2.3"
ADDRESS = re.compile(
    r'\b(?:href|action|src|data-src|data-events)="([^"]*)"|data-scripts="([^"]*)"|data-plotly="([^"]*)"'
)


async def authenticate(token: str) -> Principal:
    if token != "reader":
        raise UnauthenticatedError("the token is not valid")
    return Principal(DEFAULT_PROJECT, frozenset(Scope), "reader")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TunerService]:
    db = tmp_path_factory.mktemp("front") / "jobs.db"
    with open_storage(f"sqlite:///{db}") as storage, TunerService(storage) as service:
        yield service


@pytest.fixture(scope="module")
def job_id(service: TunerService) -> str:
    return run_job(service, job_config("live"), SimulatedTraining(validates=True), max_reports=3)


@contextlib.contextmanager
def asked(
    service: TunerService, front: Front, peer: str = PROXY, *, tokens: bool = True, local: bool = False
) -> Iterator[TestClient]:
    """A client at the address `peer`; whoever asks there has to name this machine, where the server is `local`."""
    app = dashboard(
        service, asyncio.Event(), Shares(), authenticate if tokens else None, loopback_only=local, front=front
    )
    with TestClient(app, base_url="http://tuner", follow_redirects=False, client=(peer, 5000)) as client:
        yield client


@pytest.mark.parametrize("passed_on", [BASE, ""], ids=["passed on", "stripped"])
def test_all_addresses_are_under_the_base_path(service: TunerService, job_id: str, passed_on: str) -> None:
    """As the browser asks for them: what has no base path would be another site's."""
    with asked(service, Front(BASE), tokens=False) as client:
        seen: set[str] = set()
        for path in ("/", f"/jobs/{job_id}", f"/compare?job={job_id}&job={job_id}", "/compare", "/nothing"):
            page = client.get(passed_on + path, headers=PAGE).text
            found = {address for match in ADDRESS.findall(page) for group in match for address in group.split(" ")}
            assert all(address.startswith((f"{BASE}/", "?", "#")) for address in found - {""}), found
            seen |= {address for address in found if address.startswith("/") and "events" not in address}
        assert client.get(BASE, headers=PAGE).text == client.get(f"{BASE}/", headers=PAGE).text
        assert any("/static/" in address for address in seen)
        assert any("/curves.json" in address for address in seen)
        for address in seen:
            if not address.endswith(("/cancel", "/plan", "/logout")):
                shown = client.get(passed_on + address.removeprefix(BASE).replace("&amp;", "&"))
                assert shown.status_code == 200, address
        versioned = next(address for address in seen if "style.css" in address)
        assert "immutable" in client.get(passed_on + versioned.removeprefix(BASE)).headers["cache-control"]


@pytest.mark.parametrize("passed_on", [BASE, ""], ids=["passed on", "stripped"])
def test_who_signs_in_stays_under_the_base_path(service: TunerService, job_id: str, passed_on: str) -> None:
    with asked(service, Front(BASE)) as client:
        login = client.get(f"{passed_on}/jobs/{job_id}", headers=PAGE).headers["location"]
        assert login.startswith(f"{BASE}/login?next=")
        onward = unquote(login.partition("next=")[2])
        assert onward == f"{BASE}/jobs/{job_id}"
        answer = client.post(f"{passed_on}/login", data={"token": "reader", "next": onward})
        assert answer.headers["location"] == onward
        assert f"path={BASE};" in answer.headers["set-cookie"].lower()
        out = client.post(f"{passed_on}/logout", headers=SIGNED_IN)
        assert out.headers["location"] == f"{BASE}/login"
        assert f"path={BASE};" in out.headers["set-cookie"].lower()
        cancelled = client.post(
            f"{passed_on}/jobs/{job_id}/plan", data={"kind": "extend", "steps": "5"}, headers=SIGNED_IN
        )
        assert cancelled.headers["location"] == f"{BASE}/jobs/{job_id}"


def test_nobody_is_led_to_another_site_on_the_host() -> None:
    assert local_path("/tools/lrpilot/jobs/3f", BASE) == "/tools/lrpilot/jobs/3f"
    assert local_path("/tools/other", BASE) == local_path("/", BASE) == f"{BASE}/"


@pytest.mark.parametrize(("peer", "believed"), [(PROXY, True), ("192.0.2.1", False)])
def test_a_proxy_is_believed_what_others_are_not(service: TunerService, peer: str, believed: bool) -> None:
    """That the browser came over TLS, and for which host, counts from the proxy alone."""
    forwarded = {"x-forwarded-proto": "https", "x-forwarded-host": "tuner.example", "x-forwarded-for": "198.51.100.7"}
    with asked(service, Front(trusted=("10.0.0.0/8",)), peer) as client:
        answer = client.post("/login", data={"token": "reader"}, headers=forwarded)
        assert ("secure" in answer.headers["set-cookie"].lower()) is believed
        # An older browser says no more than its origin.
        old = {**forwarded, "origin": "https://tuner.example"}
        assert client.post("/login", data={"token": "reader"}, headers=old).status_code == (303 if believed else 403)
        with capture_logs() as lines:
            client.post("/login", data={"token": "forged"}, headers=forwarded)
        assert lines[-1]["client"] == ("198.51.100.7" if believed else peer)
        foreign = {**forwarded, "origin": "https://evil.example"}
        assert client.post("/login", data={"token": "reader"}, headers=foreign).status_code == 403


def test_nobody_is_believed_by_default(service: TunerService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")  # uvicorn's own
    with asked(service, Front(), "127.0.0.1") as client:
        answer = client.post("/login", data={"token": "reader"}, headers={"x-forwarded-proto": "https"})
        assert "secure" not in answer.headers["set-cookie"].lower()


def test_a_page_with_a_name_of_its_own_for_this_machine_gets_nothing_by_forged_headers(service: TunerService) -> None:
    """The page of a site that has its name point here may set any of these headers; not `Host`."""
    local = Front(trusted=("127.0.0.1",))
    with asked(service, local, "127.0.0.1", tokens=False, local=True) as client:
        forged = {"host": "evil.example", "x-forwarded-host": "localhost", "x-forwarded-for": "198.51.100.7"}
        assert client.get("/", headers=forged).status_code == 400
        proxied = {"host": "127.0.0.1:8080", "x-forwarded-host": "tuner.example", "x-forwarded-proto": "https"}
        assert client.get("/", headers=proxied).status_code == 200


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("base_path", "lrpilot", "as /lrpilot"),
        ("base_path", "//evil.example", "as /lrpilot"),
        ("base_path", "/a/../b", "as /lrpilot"),
        ("base_path", "/a b", "as /lrpilot"),
        ("base_path", "/jobs", "as a page of the dashboard"),
        ("trusted_proxies", "*", "as 127.0.0.1,10.0.0.0/8"),
        ("trusted_proxies", "10.0.0.1/8", "host bits"),
        ("trusted_proxies", "proxy.example", "as 127.0.0.1,10.0.0.0/8"),
    ],
)
def test_what_can_be_no_proxy_is_refused_at_the_start(field: str, value: str, words: str) -> None:
    with pytest.raises(InvalidInputError, match=re.escape(words)) as caught:
        load({field: value}, {})
    assert [violation.field for violation in caught.value.violations] == [field]


def test_a_slash_at_the_end_of_the_base_path_is_the_same() -> None:
    settings = load({"base_path": "/lrpilot/", "trusted_proxies": "127.0.0.1, ::1,10.0.0.0/8"}, {}).settings
    assert settings.base_path == "/lrpilot"
    assert settings.proxies == ("127.0.0.1", "::1", "10.0.0.0/8")
