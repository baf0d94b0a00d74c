"""Answers that read histories: their memory, and that they end when their reader has left."""

from __future__ import annotations

import asyncio
import json
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lrpilot.schedule.schedule import Schedule
from lrpilot.wire.profile import Profile

from tests.support.jobs.sample_jobs import NOW, history, job_config, run_job, stored
from tests.support.jobs.simulated_training import SimulatedTraining, drive
from tuner_server.access.principal import DEFAULT_PROJECT
from tuner_server.access.shares import Shares
from tuner_server.base.interest import Interest
from tuner_server.core.errors import AbandonedError, BusyError
from tuner_server.core.messages import Directive, Outcome, Phase
from tuner_server.history.thinning import Window
from tuner_server.history.timeline import timeline
from tuner_server.service import long_reads
from tuner_server.service.tuner_service import TunerService
from tuner_server.storage import Entry, History, StoredHistory, StoredJob, StoredReport, open_storage
from tuner_server.web.charts.curves import job_curves
from tuner_server.web.server import answering, exports
from tuner_server.web.server.app import dashboard

N_REPORTS, N_STEPS = 20, 50_000
"""A million steps."""


class MadeHistory(History):
    """A long history that is made while it is read, as one in a database is."""

    def __init__(self) -> None:
        self.n_made = 0

    def read(self, *, losses: bool = False, measures: bool = False, after: int = 0) -> Iterator[Entry]:
        whole = N_REPORTS * N_STEPS + 1
        profile = Profile.constant(0.1, whole)
        for i in range(N_REPORTS + 1):
            self.n_made += 1
            directive = Directive(
                number=i + 1, phase=Phase.TRAIN, stage=0, n_steps=whole - i * N_STEPS, profile=profile, snapshot=i == 0
            )
            values = np.random.default_rng(i).random(N_STEPS, dtype=np.float32) if losses else None
            report = StoredReport(Outcome.PARTIAL, N_STEPS, (), 1.0, NOW, values)
            yield Entry(directive, None, report if i < N_REPORTS else None)
            profile = profile.after(N_STEPS)


@pytest.fixture(scope="module")
def job() -> StoredJob:
    return stored(drive(job_config("budget"), SimulatedTraining(validates=True), max_directives=3).state)


def peak_of(work: Callable[[], object]) -> float:
    """The memory that some work takes at most, as a multiple of the bytes of the losses."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1] / (4 * N_REPORTS * N_STEPS)
    finally:
        tracemalloc.stop()


def test_what_is_sent_in_parts_takes_little_more_than_its_losses(job: StoredJob) -> None:
    """As numbers of Python's in a list the losses alone are eight times their bytes."""

    def first_parts(parts: Iterator[str]) -> None:
        for _ in range(20):
            assert len(next(parts)) < 10**6

    assert peak_of(lambda: first_parts(exports.schedule_text(job, MadeHistory()))) < 3
    assert peak_of(lambda: first_parts(exports.data_csv(job, MadeHistory()))) < 1
    assert peak_of(lambda: first_parts(exports.data_json(job, MadeHistory()))) < 1


def test_a_timeline_and_its_curves_take_a_few_times_its_losses() -> None:
    found = timeline(MadeHistory())
    assert peak_of(lambda: timeline(MadeHistory())) < 1.5
    assert peak_of(lambda: job_curves(found, Window(0, found.n_steps, 500))) < 6


def test_a_schedule_in_parts_is_the_text_that_it_was(tmp_path: Path) -> None:
    run = drive(job_config("budget"), SimulatedTraining(validates=True))
    parts = list(exports.schedule_text(stored(run.state), history(run)))
    file = tmp_path / "schedule.json"
    file.write_text("".join(parts))
    document = json.loads(file.read_text())
    assert json.dumps(document, indent=1) + "\n" == file.read_text()
    assert Schedule.load(file).losses == tuple(document["losses"])
    assert len(parts) > 1


class GatedHistory(StoredHistory):
    """A history that waits before each entry, and counts them."""

    def __init__(self, check: Callable[[], None]) -> None:
        self._check, self._outline = check, None
        self._made = MadeHistory()
        self.begun, self.gate = threading.Event(), threading.Semaphore(0)

    def read(self, *, losses: bool = False, measures: bool = False, after: int = 0) -> Iterator[Entry]:
        for entry in self._made.read(losses=losses, measures=measures):
            self.begun.set()
            assert self.gate.acquire(timeout=10)
            self._check()
            yield entry

    @property
    def n_read(self) -> int:
        return self._made.n_made


class GatedService(TunerService):
    """A service of one job, whose history is read entry by entry as the test says."""

    histories: list[GatedHistory]

    def history(self, stored: StoredJob, check: Callable[[], None] = lambda: None) -> StoredHistory:
        self.histories.append(GatedHistory(check))
        return self.histories[-1]


@pytest.fixture
def service(tmp_path: Path) -> Iterator[GatedService]:
    with open_storage(f"sqlite:///{tmp_path}/jobs.db") as storage, GatedService(storage) as service:
        service.histories = []
        yield service


class Reader:
    """A browser that asks for a path, and leaves."""

    def __init__(self, service: TunerService, path: str, method: str = "GET") -> None:
        self._app = dashboard(service, asyncio.Event(), Shares())
        self._scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [(b"host", b"localhost")],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
        }
        self.left = asyncio.Event()
        self.sent: list[dict[str, Any]] = []
        self.takes = asyncio.Event()
        self.takes.set()
        self._asked = False

    async def run(self) -> None:
        await self._app(self._scope, self._receive, self._send)

    async def _receive(self) -> dict[str, Any]:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        await self.takes.wait()
        self.sent.append(message)


@pytest.mark.parametrize("what", ["", "/curves.json", "/report.html", "/schedule.json", "/data.csv", "/data.json"])
def test_work_ends_when_its_reader_has_left(service: GatedService, what: str) -> None:
    job_id = run_job(service, job_config("budget"), SimulatedTraining(validates=True), 2)

    async def leave() -> None:
        reader = Reader(service, f"/jobs/{job_id}{what}")
        running = asyncio.create_task(reader.run())
        while not service.histories or not service.histories[0].begun.is_set():
            await asyncio.sleep(0.001)
        (gated,) = service.histories
        gated.gate.release()
        reader.left.set()
        await asyncio.sleep(0.02)
        for _ in range(100):
            gated.gate.release()
        await asyncio.wait_for(running, 10)
        await asyncio.sleep(0.02)
        assert gated.n_read < 5, "of a history of 21 entries, which is gone through twice"
        assert not any(message.get("status") == 200 for message in reader.sent)

    asyncio.run(leave())


def test_a_reader_that_takes_nothing_is_not_waited_for(service: GatedService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answering, "STALL_S", 0.05)
    job_id = run_job(service, job_config("budget"), SimulatedTraining(validates=True), 2)

    async def stall() -> None:
        reader = Reader(service, f"/jobs/{job_id}/data.csv")
        running = asyncio.create_task(reader.run())
        while not service.histories:
            await asyncio.sleep(0.001)
        reader.takes.clear()
        for _ in range(100):
            service.histories[0].gate.release()
        await asyncio.wait_for(running, 10)
        bodies = [message for message in reader.sent if message["type"] == "http.response.body"]
        assert all(body["more_body"] for body in bodies), "it is broken off"

    asyncio.run(stall())


def test_a_reader_drop_by_drop_is_broken_off_as_soon_as_another_one_waits(
    service: GatedService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(long_reads, "LONG_STEPS", 1)
    monkeypatch.setattr(long_reads, "GRACE_S", 0.0)
    monkeypatch.setattr(long_reads, "LEAST_BYTES_PER_S", 10**12)
    job_id = run_job(service, job_config("budget"), SimulatedTraining(validates=True), 2)

    async def drip() -> None:
        reader = Reader(service, f"/jobs/{job_id}/data.csv")
        running = asyncio.create_task(reader.run())
        while not reader.sent:
            await asyncio.sleep(0.001)
            for gated in service.histories:
                gated.gate.release()
        reader.takes.clear()
        turns = service.long_reads
        async with turns.turn(DEFAULT_PROJECT), turns.turn(DEFAULT_PROJECT):
            assert not running.done()
            async with asyncio.timeout(10), turns.turn(DEFAULT_PROJECT):
                await running
        bodies = [message for message in reader.sent if message["type"] == "http.response.body"]
        assert all(body["more_body"] for body in bodies), "it is broken off"
        for _ in range(100):
            service.histories[0].gate.release()

    asyncio.run(drip())


def test_who_comes_too_late_for_a_long_history_is_told_when_to_come_again(
    service: GatedService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(long_reads, "LONG_STEPS", 1)
    job_id = run_job(service, job_config("budget"), SimulatedTraining(validates=True), 2)

    def busy(_project: str, **_: bool) -> None:
        raise BusyError("too many", 5.0)

    monkeypatch.setattr(service.long_reads, "turn", busy)

    async def ask() -> None:
        for what in ("", "/schedule.json"):
            reader = Reader(service, f"/jobs/{job_id}{what}")
            await reader.run()
            assert reader.sent[0]["status"] == 503
            assert (b"retry-after", b"5") in reader.sent[0]["headers"]

    asyncio.run(ask())


def test_who_has_left_keeps_no_place_among_those_who_wait(
    service: GatedService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a page that somebody loads again a dozen times would keep all others out."""
    monkeypatch.setattr(long_reads, "LONG_STEPS", 1)
    job_id = run_job(service, job_config("budget"), SimulatedTraining(validates=True), 2)

    async def come_and_go() -> None:
        turns = service.long_reads
        of_all = DEFAULT_PROJECT
        async with turns.turn(of_all), turns.turn(of_all), turns.turn(of_all):
            for what in ("", "/schedule.json") * long_reads.WAITING:
                reader = Reader(service, f"/jobs/{job_id}{what}")
                running = asyncio.create_task(reader.run())
                while not turns.n_waiting:
                    assert not running.done()
                    await asyncio.sleep(0.001)
                reader.left.set()
                await asyncio.wait_for(running, 10)
                assert turns.n_waiting == 0
                assert reader.sent[0]["status"] == 499
            assert not service.histories

    asyncio.run(come_and_go())


@pytest.mark.parametrize("what", ["schedule.json", "data.csv", "data.json"])
def test_the_head_alone_is_not_made_with_its_body(service: GatedService, what: str) -> None:
    job_id = run_job(service, job_config("budget"), SimulatedTraining(validates=True), 2)

    async def ask() -> None:
        reader = Reader(service, f"/jobs/{job_id}/{what}", "HEAD")
        running = asyncio.create_task(reader.run())
        while not service.histories:
            await asyncio.sleep(0.001)
        for _ in range(100):
            service.histories[0].gate.release()
        await asyncio.wait_for(running, 10)
        start, body = reader.sent
        assert start["status"] == 200
        assert b"attachment" in dict(start["headers"])[b"content-disposition"]
        assert not body["body"]

    asyncio.run(ask())


def test_an_interest_ends_once() -> None:
    interest = Interest()
    interest.check()
    assert interest.lasts
    interest.end()
    assert not interest.lasts
    with pytest.raises(AbandonedError):
        interest.check()
