"""The dashboard's answers, without a browser: who is let in, what is refused, what can be taken along."""

from __future__ import annotations

import asyncio
import csv
import dataclasses
import io
import json
import re
from collections.abc import Iterator
from urllib.parse import unquote

import pytest
from lrpilot.wire import schedule_file
from lrpilot.wire.schedule_data import ScheduleData
from starlette.testclient import TestClient
from starlette.types import Message
from structlog.testing import capture_logs

from tests.support.jobs.annealing_training import AnnealingTraining
from tests.support.jobs.incomplete_rollback import LeakingTraining
from tests.support.jobs.sample_jobs import job_config, run_job
from tests.support.jobs.simulated_training import SimulatedTraining
from tuner_server.access.principal import DEFAULT_PROJECT, Principal, Scope
from tuner_server.access.shares import Shares
from tuner_server.core.errors import UnauthenticatedError
from tuner_server.core.job.machine import Status
from tuner_server.core.messages import ChangeKind, ChangeOrigin
from tuner_server.service.tuner_service import TunerService
from tuner_server.storage import open_storage
from tuner_server.web.server.access import COOKIE, local_path
from tuner_server.web.server.app import dashboard

PAGE = {"accept": "text/html"}
PRINCIPALS = {
    "reader": Principal(DEFAULT_PROJECT, frozenset({Scope.READ}), "reader"),
    "canceller": Principal(DEFAULT_PROJECT, frozenset({Scope.READ, Scope.CANCEL}), "canceller"),
    "planner": Principal(DEFAULT_PROJECT, frozenset({Scope.READ, Scope.PLAN}), "planner"),
    "editor": Principal(DEFAULT_PROJECT, frozenset({Scope.READ, Scope.EDIT}), "editor"),
    "deleter": Principal(DEFAULT_PROJECT, frozenset({Scope.READ, Scope.DELETE}), "deleter"),
    "trainer": Principal(DEFAULT_PROJECT, frozenset({Scope.TRAIN}), "trainer"),
    "stranger": Principal("another", frozenset(Scope), "stranger"),
}


async def authenticate(token: str) -> Principal:
    if token not in PRINCIPALS:
        raise UnauthenticatedError("the token is not valid")
    return PRINCIPALS[token]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TunerService]:
    db = tmp_path_factory.mktemp("dashboard") / "jobs.db"
    with open_storage(f"sqlite:///{db}") as storage, TunerService(storage) as service:
        yield service


@pytest.fixture(scope="module")
def finished(service: TunerService) -> str:
    return run_job(service, job_config('<b>"finished"</b>'), SimulatedTraining(validates=True))


@pytest.fixture
def live(service: TunerService) -> str:
    return run_job(service, job_config("live"), SimulatedTraining(validates=True), max_reports=3)


@pytest.fixture
def anyone(service: TunerService) -> Iterator[TestClient]:
    """A client of a server that asks for no tokens."""
    app = dashboard(service, asyncio.Event(), Shares(), loopback_only=True)
    with TestClient(app, base_url="http://localhost", follow_redirects=False) as client:
        yield client


@pytest.fixture
def client(service: TunerService) -> Iterator[TestClient]:
    """A client of a server that asks for tokens."""
    app = dashboard(service, asyncio.Event(), Shares(), authenticate)
    with TestClient(app, base_url="http://tuner", follow_redirects=False) as client:
        yield client


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def test_names_are_text_and_no_markup(anyone: TestClient, finished: str) -> None:
    for address in ("/", f"/jobs/{finished}", f"/compare?job={finished}"):
        page = anyone.get(address, headers=PAGE).text
        assert '<b>"finished"</b>' not in page
    assert "&lt;b&gt;" in page or "Choose at least two" in page


def test_a_page_says_what_annealing_now_would_give_once_that_can_be_told(
    anyone: TestClient, service: TunerService, live: str
) -> None:
    trained = run_job(service, job_config("planted"), AnnealingTraining(validates=True), max_reports=22)
    for address in (f"/jobs/{trained}", f"/jobs/{trained}/report.html"):
        page = anyone.get(address, headers=PAGE).text
        assert "What would annealing now give?" in page
        assert re.search(r"training loss after \d+ steps, falling [\d.]+ to 0 along a line", page)
        assert "By the annealing law, training loss = " in page
    assert "What would annealing now give?" not in anyone.get(f"/jobs/{live}", headers=PAGE).text


def test_what_a_client_says_of_a_failed_rollback_is_on_every_page_and_no_markup(
    anyone: TestClient, service: TunerService
) -> None:
    training = LeakingTraining(validates=True, note="<b>a counter</b> is not put back")
    job_id = run_job(service, job_config("leaking"), training)
    for address in (f"/jobs/{job_id}", f"/jobs/{job_id}/report.html"):
        page = anyone.get(address, headers=PAGE).text
        assert "&lt;b&gt;a counter&lt;/b&gt; is not put back" in page
        assert "<b>a counter" not in page
    assert "rollback failed" in anyone.get("/", headers=PAGE).text
    schedule = schedule_file.loads(anyone.get(f"/jobs/{job_id}/schedule.json").text, ScheduleData)
    assert schedule.unrepeatable == "<b>a counter</b> is not put back"


def test_every_answer_forbids_foreign_scripts_and_framing(anyone: TestClient, finished: str) -> None:
    for address in ("/", f"/jobs/{finished}", f"/jobs/{finished}/curves.json", "/nothing", "/static/style.css"):
        policy = anyone.get(address).headers["content-security-policy"]
        assert "default-src 'none'; script-src 'self';" in policy
        assert "frame-ancestors 'none'" in policy
        assert "connect-src 'self'" in policy


def test_what_may_change_is_not_stored_and_files_are(anyone: TestClient) -> None:
    page = anyone.get("/", headers=PAGE)
    assert page.headers["cache-control"] == "no-store"
    style = page.text.partition('rel="stylesheet" href="')[2].partition('"')[0]
    assert "immutable" in anyone.get(style).headers["cache-control"]


def test_a_miniature_is_kept_only_under_an_address_that_changes_with_it(anyone: TestClient, finished: str) -> None:
    page = anyone.get("/", headers=PAGE).text
    address = page.partition('<img src="')[2].partition('"')[0]
    assert "immutable" in anyone.get(address).headers["cache-control"]
    assert anyone.get(address.partition("?")[0]).headers["cache-control"] == "no-store"


def test_a_page_of_another_host_can_not_ask_an_open_server(anyone: TestClient) -> None:
    for foreign in ("rebound.example", "rebound.example:80", "localhost.example", "10.0.0.1", ""):
        assert anyone.get("/", headers={"host": foreign}).status_code == 400
    for own in ("localhost", "127.0.0.1:1234", "127.8.9.1", "[::1]:1234"):
        assert anyone.get("/", headers={"host": own}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "http://evil.example"},
        {"origin": "null"},
    ],
)
def test_another_site_can_not_cancel(
    anyone: TestClient, service: TunerService, live: str, headers: dict[str, str]
) -> None:
    assert anyone.post(f"/jobs/{live}/cancel", headers=headers).status_code == 403
    assert service.get_job(DEFAULT_PROJECT, live).state.status.live


@pytest.mark.parametrize("headers", [{"sec-fetch-site": "same-origin"}, {"origin": "http://localhost"}, {}])
def test_our_own_page_can_cancel(anyone: TestClient, service: TunerService, live: str, headers: dict[str, str]) -> None:
    answer = anyone.post(f"/jobs/{live}/cancel", headers=headers)
    assert (answer.status_code, answer.headers["location"]) == (303, f"/jobs/{live}")
    assert service.get_job(DEFAULT_PROJECT, live).state.status is Status.CANCELLED
    assert anyone.post(f"/jobs/{live}/cancel", headers=headers | PAGE).status_code == 409


def test_cancelling_by_get_does_nothing(anyone: TestClient, live: str) -> None:
    assert anyone.get(f"/jobs/{live}/cancel").status_code == 405


@pytest.mark.parametrize(
    ("fields", "kind", "steps"),
    [
        ({"kind": "extend", "steps": "50"}, ChangeKind.EXTEND, 50),
        ({"kind": "anneal", "steps": " 50 "}, ChangeKind.ANNEAL, 50),
        ({"kind": "replan", "reason": "other <data>"}, ChangeKind.REPLAN, None),
    ],
)
def test_our_own_page_can_change_the_plan(
    anyone: TestClient, service: TunerService, live: str, fields: dict[str, str], kind: ChangeKind, steps: int | None
) -> None:
    assert "Change the plan" in anyone.get(f"/jobs/{live}", headers=PAGE).text
    answer = anyone.post(f"/jobs/{live}/plan", data=fields, headers={"sec-fetch-site": "same-origin"})
    assert (answer.status_code, answer.headers["location"]) == (303, f"/jobs/{live}")
    [change] = service.get_job(DEFAULT_PROJECT, live).state.requested
    assert (change.kind, change.origin) == (kind, ChangeOrigin.OPERATOR)
    assert steps in (change.later_steps, change.anneal_steps)
    page = anyone.get(f"/jobs/{live}", headers=PAGE).text
    assert "Waiting for the next report" in page
    assert fields.get("reason", "").replace("<", "&lt;").replace(">", "&gt;") in page


def test_each_page_extends_once_however_often_its_form_is_sent(
    anyone: TestClient, service: TunerService, live: str
) -> None:
    pages = [anyone.get(f"/jobs/{live}", headers=PAGE).text for _ in range(2)]
    names = [re.findall(r'name="request_id" value="(.+?)" form="extend"', page) for page in pages]
    for [name] in (*names, *names):
        fields = {"kind": "extend", "steps": "50", "request_id": name}
        assert anyone.post(f"/jobs/{live}/plan", data=fields).status_code == 303
    requested = service.get_job(DEFAULT_PROJECT, live).state.requested
    assert [(change.later_steps, change.request_id) for change in requested] == [(50, name) for [name] in names]


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({}, "extend, anneal or replan"),
        ({"kind": "undo_annealing"}, "extend, anneal or replan"),
        ({"kind": "extend"}, "a whole number of steps"),
        ({"kind": "extend", "steps": "-5"}, "a whole number of steps"),
        ({"kind": "extend", "steps": "9" * 15}, "a whole number of steps"),
        ({"kind": "anneal", "steps": "0"}, "a whole number of steps"),
        ({"kind": "extend", "steps": str(2**40)}, "1099511627776"),
        ({"kind": "replan", "reason": "x" * 501}, "at most 500"),
        ({"kind": "extend", "steps": "5", "request_id": "a\0b"}, "character 2 is U+0000"),
        ({"kind": "extend", "steps": "5", "request_id": "x" * 101}, "at most 100"),
    ],
)
def test_a_change_that_can_not_be_made_is_refused(
    anyone: TestClient, service: TunerService, live: str, fields: dict[str, str], word: str
) -> None:
    answer = anyone.post(f"/jobs/{live}/plan", data=fields)
    assert answer.status_code == 400
    assert word in answer.text
    assert service.get_job(DEFAULT_PROJECT, live).state.requested == ()


def test_the_plan_changes_by_post_from_our_own_page_alone(
    anyone: TestClient, service: TunerService, live: str, finished: str
) -> None:
    assert anyone.get(f"/jobs/{live}/plan").status_code == 405
    fields = {"kind": "replan"}
    for headers in ({"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"}, {"origin": "null"}):
        assert anyone.post(f"/jobs/{live}/plan", data=fields, headers=headers).status_code == 403
    assert service.get_job(DEFAULT_PROJECT, live).state.requested == ()
    assert anyone.post(f"/jobs/{finished}/plan", data=fields).status_code == 409
    assert anyone.post("/jobs/%00/plan", data=fields).status_code == 404
    assert "Change the plan" not in anyone.get(f"/jobs/{finished}", headers=PAGE).text


def test_our_own_page_can_name_a_job_and_note_something_on_it(
    anyone: TestClient, service: TunerService, live: str
) -> None:
    fields = {"name": " <i>new</i> ", "note": "two\nlines & more"}
    answer = anyone.post(f"/jobs/{live}/describe", data=fields, headers={"sec-fetch-site": "same-origin"})
    assert (answer.status_code, answer.headers["location"]) == (303, f"/jobs/{live}")
    job = service.get_job(DEFAULT_PROJECT, live)
    assert (job.state.config.name, job.note) == ("<i>new</i>", "two lines & more")
    page = anyone.get(f"/jobs/{live}", headers=PAGE).text
    assert "&lt;i&gt;new&lt;/i&gt;" in page
    assert "<i>new" not in page
    assert "Note: two lines &amp; more" in page
    assert "Note: two lines &amp; more" in anyone.get(f"/jobs/{live}/report.html").text
    for wrong in ({"name": "x" * 201}, {"note": "x" * 501}):
        assert anyone.post(f"/jobs/{live}/describe", data=wrong).status_code == 400


def test_a_page_and_the_list_say_that_a_client_is_not_there(
    anyone: TestClient, service: TunerService, live: str
) -> None:
    before = anyone.get(f"/jobs/{live}", headers=PAGE).text
    assert "Its client" not in before
    service.leave_job(DEFAULT_PROJECT, live)
    page = anyone.get(f"/jobs/{live}", headers=PAGE).text
    assert re.search(r'<span class="state stopped" title="Its client left .+">stopped \d+ seconds? ago</span>', page)
    assert re.search(r"Its client left \d+ seconds? ago, before the end of the run\.", page)
    assert version(page) != version(before)
    listed = anyone.get("/?state=stopped", headers=PAGE).text
    assert f"/jobs/{live}" in listed
    assert "stopped just now</span>" in listed
    assert f"/jobs/{live}" not in anyone.get("/?state=searching", headers=PAGE).text
    assert "Its client left" in anyone.get(f"/jobs/{live}/report.html").text


def version(page: str) -> str:
    """What a page compares with what it is told of its job."""
    [found] = re.findall(r'data-version="(.+?)"', page)
    return str(found)


def test_a_job_is_deleted_by_its_page_once_its_client_is_gone(
    anyone: TestClient, service: TunerService, live: str
) -> None:
    assert "Delete…" not in anyone.get(f"/jobs/{live}", headers=PAGE).text
    assert anyone.post(f"/jobs/{live}/delete").status_code == 409
    service.leave_job(DEFAULT_PROJECT, live)
    assert "Delete…" in anyone.get(f"/jobs/{live}", headers=PAGE).text
    assert anyone.post(f"/jobs/{live}/delete", headers={"sec-fetch-site": "cross-site"}).status_code == 403
    answer = anyone.post(f"/jobs/{live}/delete")
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert anyone.get(f"/jobs/{live}", headers=PAGE).status_code == 404


def test_describing_and_deleting_need_their_scopes(client: TestClient, service: TunerService, live: str) -> None:
    service.leave_job(DEFAULT_PROJECT, live)
    pages = {token: client.get(f"/jobs/{live}", headers=bearer(token)).text for token in ("editor", "deleter")}
    assert [token for token, page in pages.items() if "Name and note" in page] == ["editor"]
    assert [token for token, page in pages.items() if "Delete…" in page] == ["deleter"]
    for action, owner in (("describe", "editor"), ("delete", "deleter")):
        others = {"reader": 403, "canceller": 403, "planner": 403, "editor": 403, "deleter": 403, "stranger": 404}
        for token, status in {**others, owner: 303}.items():
            if (token, action) != ("deleter", "delete"):
                answer = client.post(f"/jobs/{live}/{action}", data={"name": "n"}, headers=bearer(token))
                assert answer.status_code == status, (token, action)
    assert client.post(f"/jobs/{live}/delete", headers=bearer("deleter")).status_code == 303


def test_without_a_token_pages_lead_to_the_form_and_data_is_refused(client: TestClient, finished: str) -> None:
    page = client.get(f"/jobs/{finished}?a=1", headers=PAGE)
    assert (page.status_code, page.headers["location"]) == (303, f"/login?next=/jobs/{finished}%3Fa%3D1")
    for address in ("curves.json", "data.csv", "schedule.json", "events", "sparkline.svg", "stages/0.json"):
        answer = client.get(f"/jobs/{finished}/{address}")
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert client.get("/events").status_code == 401


def test_a_token_opens_what_its_scopes_and_its_project_allow(client: TestClient, finished: str, live: str) -> None:
    for token, status in (("reader", 200), ("trainer", 403), ("stranger", 404), ("forged", 401)):
        assert client.get(f"/jobs/{finished}/curves.json", headers=bearer(token)).status_code == status
    assert "No jobs yet" in client.get("/", headers=bearer("stranger")).text
    assert "Cancel tuning" not in client.get(f"/jobs/{live}", headers=bearer("reader")).text
    assert "Cancel tuning" in client.get(f"/jobs/{live}", headers=bearer("canceller")).text
    assert "Change the plan" not in client.get(f"/jobs/{live}", headers=bearer("canceller")).text
    assert "Change the plan" in client.get(f"/jobs/{live}", headers=bearer("planner")).text
    for token, status in (("reader", 403), ("canceller", 403), ("stranger", 404), ("planner", 303)):
        fields = {"kind": "anneal", "steps": "5"}
        assert client.post(f"/jobs/{live}/plan", data=fields, headers=bearer(token)).status_code == status
    for token, status in (("reader", 403), ("planner", 403), ("stranger", 404), ("canceller", 303)):
        assert client.post(f"/jobs/{live}/cancel", headers=bearer(token)).status_code == status


def test_signing_in_sets_a_cookie_that_no_script_and_no_other_site_has(client: TestClient, finished: str) -> None:
    answer = client.post("/login", data={"token": " reader ", "next": f"/jobs/{finished}"})
    assert (answer.status_code, answer.headers["location"]) == (303, f"/jobs/{finished}")
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert client.get(f"/jobs/{finished}").status_code == 200

    client.post("/logout")
    assert COOKIE not in client.cookies
    assert client.get(f"/jobs/{finished}").status_code == 401


def test_a_cookie_is_for_https_alone_where_there_is_https(service: TunerService) -> None:
    with TestClient(dashboard(service, asyncio.Event(), Shares(), authenticate), base_url="https://tuner") as client:
        answer = client.post("/login", data={"token": "reader"}, follow_redirects=False)
    assert "secure" in answer.headers["set-cookie"].lower()


@pytest.mark.parametrize(("token", "status"), [("forged", 401), ("", 401), ("trainer", 403)])
def test_a_wrong_token_gets_the_form_again_and_no_cookie(client: TestClient, token: str, status: int) -> None:
    answer = client.post("/login", data={"token": token})
    assert answer.status_code == status
    assert 'role="alert"' in answer.text
    assert "set-cookie" not in answer.headers


def test_another_site_can_not_sign_anybody_in(client: TestClient) -> None:
    answer = client.post("/login", data={"token": "reader"}, headers={"sec-fetch-site": "cross-site"})
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers


def test_signing_in_leads_on_to_what_was_asked_for_with_its_filter(client: TestClient) -> None:
    asked = "/?q=a%20b&state=live&sort=-loss"
    login = client.get(asked, headers=PAGE).headers["location"]
    assert unquote(login.removeprefix("/login?next=")) == asked
    assert 'name="next" value="/?q=a%20b&amp;state=live&amp;sort=-loss"' in client.get(login, headers=PAGE).text
    answer = client.post("/login", data={"token": "reader", "next": asked})
    assert answer.headers["location"] == asked


@pytest.mark.parametrize("text", ["/", "/?", "/?q=//evil.example", "/jobs/3f?a=1", "/compare?job=a&job=b"])
def test_paths_of_ours_are_led_on_to(text: str) -> None:
    assert local_path(text, "") == text


@pytest.mark.parametrize(
    "text",
    [
        "//evil.example",
        "/\\evil.example",
        "https://evil.example",
        "/.evil",
        "/jobs//evil.example",
        "/jobs/../../evil",
        "/jobs/%2e%2E/evil",
        "/jobs/..",
        "",
        "/a\nb",
        "?q=1",
        "/?a\r\nb",
        "/\t/evil.example",
        "/?a#b",
    ],
)
def test_nobody_is_led_to_another_host(text: str) -> None:
    assert local_path(text, "") == "/"


@pytest.mark.parametrize("text", ["/../other", "/%2e%2e/other", "/jobs/../../other", "/..//evil.example", "/..", "//x"])
def test_nobody_is_led_out_of_the_base_path(text: str) -> None:
    assert local_path(f"/lrpilot{text}", "/lrpilot") == "/lrpilot/"
    assert local_path("/lrpilot/jobs/3f", "/lrpilot") == "/lrpilot/jobs/3f"


def test_a_form_has_its_limit(client: TestClient) -> None:
    assert client.post("/login", data={"token": "a" * 10_000}).status_code == 400
    assert client.post("/login", content="&".join(f"a{i}=b" for i in range(20))).status_code == 400


def test_what_is_not_there_is_said_in_the_form_that_was_asked_for(anyone: TestClient) -> None:
    page = anyone.get("/jobs/none", headers=PAGE)
    assert page.status_code == 404
    assert "<h1>Not found</h1>" in page.text
    assert anyone.get("/jobs/none/curves.json").json() == {"error": "no job has the id 'none'"}
    assert anyone.get("/nothing", headers=PAGE).status_code == 404


@pytest.mark.parametrize("query", ["from=a", "from=5&to=5", "buckets=0", "buckets=99999", "from=-1", "to=" + "9" * 40])
def test_a_window_that_can_not_be_is_refused(anyone: TestClient, finished: str, query: str) -> None:
    assert anyone.get(f"/jobs/{finished}/curves.json?{query}").status_code == 400


def test_exports_hold_every_step(anyone: TestClient, service: TunerService, finished: str) -> None:
    state = service.get_job(DEFAULT_PROJECT, finished).state
    schedule = schedule_file.loads(anyone.get(f"/jobs/{finished}/schedule.json").text, ScheduleData)
    assert schedule.n_steps == state.committed_steps

    answer = anyone.get(f"/jobs/{finished}/data.csv")
    assert answer.headers["content-disposition"] == 'attachment; filename="job-b--finished---b--data.csv"'
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    committed = [row for row in rows if row["committed"] == "1"]
    assert len(rows) == state.committed_steps + state.search_steps
    assert [float(row["lr"]) for row in committed] == schedule.lrs()
    assert [float(row["loss"]) for row in committed] == list(schedule.losses)
    assert [row["committed_step"] for row in committed] == [str(i + 1) for i in range(len(committed))]

    data = json.loads(anyone.get(f"/jobs/{finished}/data.json").text)
    assert [row[0] for row in data["rows"]] == [int(row["step"]) for row in rows]


def test_the_page_says_what_matters_before_any_script(anyone: TestClient, finished: str) -> None:
    page = anyone.get(f"/jobs/{finished}", headers=PAGE).text
    assert "went into search" in page
    assert "probes tried LRs from" in page
    assert '<svg class="overview"' in page


def test_a_job_without_steps_says_so_instead_of_drawing_an_empty_chart(
    anyone: TestClient, service: TunerService
) -> None:
    job = service.create_job(DEFAULT_PROJECT, "empty", job_config("empty"))
    page = anyone.get(f"/jobs/{job.id}", headers=PAGE).text
    assert "No steps have been reported yet. The chart begins with the first report, after " in page
    assert "<svg class" not in page


def test_a_comparison_of_jobs_without_steps_says_so_until_one_has_some(
    anyone: TestClient, service: TunerService, live: str
) -> None:
    empty, other = (service.create_job(DEFAULT_PROJECT, name, job_config(name)).id for name in ("first", "second"))
    words = "No steps have been reported yet."
    assert words in anyone.get(f"/compare?job={empty}&job={other}", headers=PAGE).text
    assert words not in anyone.get(f"/compare?job={empty}&job={live}", headers=PAGE).text


def test_no_id_that_no_job_can_have_reaches_the_database(
    anyone: TestClient, service: TunerService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL takes no NUL, and would be said to be out of order."""
    monkeypatch.setattr(service, "get_job", lambda *_: pytest.fail("asked for"))
    paths = ("jobs/%00", "jobs/%00/events", "jobs/%00/schedule.json")
    for address in (*paths, "compare?job=%00", "compare/events?job=%00"):
        assert anyone.get(f"/{address}").status_code == 404
    assert anyone.post("/jobs/%00/cancel").status_code == 404


def test_the_list_can_be_sorted_in_its_form_which_keeps_the_filter(anyone: TestClient, finished: str) -> None:
    page = anyone.get("/?state=finished&sort=-loss", headers=PAGE).text
    assert '<option value="finished" selected>' in page
    assert '<option value="-loss" selected>lowest loss, the other way round</option>' in page
    assert page.count(" selected>") == 2


def test_a_job_that_changed_is_read_anew(anyone: TestClient, service: TunerService) -> None:
    training = SimulatedTraining(validates=True)
    job = service.create_job(DEFAULT_PROJECT, "anew", job_config("anew"))
    assert anyone.get(f"/jobs/{job.id}/curves.json").json()["n_steps"] == 0
    report = training.run(job.state.directive)
    service.advance(DEFAULT_PROJECT, job.id, report).result()
    assert anyone.get(f"/jobs/{job.id}/curves.json").json()["n_steps"] == report.n_steps


def test_a_stream_says_how_a_job_is_and_ends_with_it(anyone: TestClient, finished: str) -> None:
    answer = anyone.get(f"/jobs/{finished}/events")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert "event: change" in answer.text
    assert answer.text.endswith("event: end\r\ndata: \r\n\r\n")


def test_streams_end_when_the_server_stops(service: TunerService, live: str) -> None:
    stopping = asyncio.Event()
    stopping.set()
    with TestClient(dashboard(service, stopping, Shares()), base_url="http://localhost") as client:
        assert client.get(f"/jobs/{live}/events").text == "retry: 2000\r\n\r\n"
        assert client.get("/events").text == "retry: 2000\r\n\r\n"


def limited(service: TunerService, max_calls_per_s: float) -> TestClient:
    """A client of a server that lets a project ask so often."""

    async def authenticate(token: str) -> Principal:
        return dataclasses.replace(PRINCIPALS[token], max_calls_per_s=max_calls_per_s)

    app = dashboard(service, asyncio.Event(), Shares(clock=lambda: 0.0), authenticate)
    return TestClient(app, base_url="http://tuner", follow_redirects=False)


def test_too_many_requests_are_refused_in_the_form_that_was_asked_for(service: TunerService, finished: str) -> None:
    with limited(service, 2.0) as client:
        answers = [client.get(f"/jobs/{finished}", headers=PAGE | bearer("reader")) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert "<h1>Too much at once</h1>" in answers[-1].text
        assert answers[-1].headers["retry-after"] == "1"
        data = client.get(f"/jobs/{finished}/curves.json", headers=bearer("reader"))
        assert data.status_code == 429
        assert "more than 2 calls a second" in data.json()["error"]
        assert client.get("/", headers=bearer("stranger")).status_code == 200, "another project has a share of its own"


def test_a_refusal_says_when_to_come_again(service: TunerService, finished: str) -> None:
    with limited(service, 0.1) as client:
        assert client.post("/login", data={"token": "reader"}).status_code == 303, "it counts too"
        assert client.post("/login", data={"token": "reader"}).headers["retry-after"] == "10"


def test_what_is_no_projects_counts_for_none(service: TunerService) -> None:
    with limited(service, 0.1) as client:
        for address in ("/login", "/static/style.css", "/login", "/static/style.css"):
            assert client.get(address).status_code == 200
        assert client.get("/", headers=bearer("trainer")).status_code == 403
        assert client.get("/", headers=bearer("reader")).status_code == 200


def test_a_form_whose_sender_leaves_in_the_middle_is_no_fault_of_ours(service: TunerService) -> None:
    app = dashboard(service, asyncio.Event(), Shares(), authenticate)
    sent: list[Message] = []
    coming: Iterator[Message] = iter(
        [{"type": "http.request", "body": b"token=rea", "more_body": True}, {"type": "http.disconnect"}]
    )

    async def receive() -> Message:
        return next(coming)

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"host", b"tuner"), (b"content-type", b"application/x-www-form-urlencoded")]
    scope = {"type": "http", "method": "POST", "path": "/login", "query_string": b"", "headers": headers}
    with capture_logs() as lines:
        asyncio.run(app(scope, receive, send))  # and raises nothing, of which uvicorn would tell
    assert sent[0]["status"] == 499
    assert lines == []
