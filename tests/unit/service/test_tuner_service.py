"""The use cases on a real database: whatever arrives, how often and when, a directive is decided once."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.jobs.incomplete_rollback import NOTE, LeakingTraining
from tests.support.jobs.simulated_training import QUICK, SimulatedTraining, config, drive
from tuner_server.base.interest import Interest
from tuner_server.core.config import JobConfig, LrBounds
from tuner_server.core.errors import (
    AbandonedError,
    BusyError,
    ConflictError,
    InvalidInputError,
    NotFoundError,
    PreconditionError,
    TunerError,
)
from tuner_server.core.job.machine import Status
from tuner_server.core.messages import Directive, Phase, Report
from tuner_server.service import long_reads
from tuner_server.service.tuner_service import TunerService
from tuner_server.storage import StoredJob, open_storage

PROJECT = "default"
TIMEOUT_S = 30.0
CONFIG = config(400, **QUICK)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/lrpilot.db"


@pytest.fixture
def service(url: str) -> Iterator[TunerService]:
    with open_storage(url) as storage, TunerService(storage) as opened:
        yield opened


def advance(service: TunerService, job_id: str, report: Report) -> Directive:
    """Reports, and waits for the answer."""
    return service.advance(PROJECT, job_id, report).result(TIMEOUT_S)


def finish(service: TunerService, job_id: str, training: SimulatedTraining) -> list[tuple[Directive, Report]]:
    """Drives a job to its end: every directive with its report."""
    directive = service.get_job(PROJECT, job_id).state.directive
    done = []
    while directive.phase is not Phase.STOP:
        report = training.run(directive)
        done.append((directive, report))
        directive = advance(service, job_id, report)
    return done


def test_rows_that_contradict_one_another_are_told_and_not_asked_for_ever(service: TunerService, url: str) -> None:
    job = service.create_job(PROJECT, "request", CONFIG)
    training = SimulatedTraining()
    directive = advance(service, job.id, training.run(job.state.directive))
    advance(service, job.id, training.run(directive))
    with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection, connection:
        connection.execute("DELETE FROM entries WHERE number > 1")
    with pytest.raises(TunerError, match="its history is not that of its state"):
        service.resume_job(PROJECT, job.id, 1)


# --- creating ---------------------------------------------------------------------------------------------------------


def test_the_same_request_gets_the_same_job_as_it_then_stands(service: TunerService) -> None:
    first = service.create_job(PROJECT, "request", CONFIG)
    assert service.create_job(PROJECT, "request", CONFIG) == first
    report = SimulatedTraining().run(first.state.directive)
    advance(service, first.id, report)
    again = service.create_job(PROJECT, "request", CONFIG)
    assert again.id == first.id
    assert again.state.directive.number == 2
    assert len(service.list_jobs(PROJECT, 50).jobs) == 1


def test_a_request_id_with_another_config_is_refused(service: TunerService) -> None:
    service.create_job(PROJECT, "request", CONFIG)
    with pytest.raises(ConflictError, match="request_id"):
        service.create_job(PROJECT, "request", CONFIG.model_copy(update={"seed": 1}))


def test_another_request_gets_another_job(service: TunerService) -> None:
    assert service.create_job(PROJECT, "one", CONFIG).id != service.create_job(PROJECT, "two", CONFIG).id


@pytest.mark.parametrize("request_id", ["", "r" * 201])
def test_a_request_id_is_needed(service: TunerService, request_id: str) -> None:
    with pytest.raises(InvalidInputError, match="request_id"):
        service.create_job(PROJECT, request_id, CONFIG)


def test_a_refused_config_leaves_no_job(service: TunerService) -> None:
    with pytest.raises(InvalidInputError):
        service.create_job(PROJECT, "request", config(5))
    assert service.list_jobs(PROJECT, 50).jobs == ()
    service.create_job(PROJECT, "request", CONFIG)


def test_requests_at_once_make_one_job(service: TunerService) -> None:
    barrier = threading.Barrier(6)

    def create(_: int) -> str:
        barrier.wait()
        return service.create_job(PROJECT, "request", CONFIG).id

    with ThreadPoolExecutor(6) as pool:
        assert len(set(pool.map(create, range(6)))) == 1


# --- advancing --------------------------------------------------------------------------------------------------------


def test_a_job_comes_out_as_in_a_plain_loop(service: TunerService) -> None:
    alone = drive(CONFIG, SimulatedTraining())
    job_id = service.create_job(PROJECT, "request", CONFIG).id
    done = finish(service, job_id, SimulatedTraining())
    stored = service.get_job(PROJECT, job_id)
    assert [directive for directive, _ in done] + [stored.state.directive] == alone.directives
    assert stored.state.model_dump_json() == alone.state.model_dump_json()
    history = list(service.history(service.get_job(PROJECT, job_id)).read(losses=True))
    assert [entry.directive for entry in history] == alone.directives
    assert [entry.decision for entry in history] == [exchange.decision for exchange in alone.exchanges]
    losses = [entry.report.losses for entry in history if entry.report]
    assert [tuple(found.tolist()) for found in losses if found is not None] == [report.losses for _, report in done]


def test_repeated_reports_get_the_stored_answers_and_change_nothing(service: TunerService) -> None:
    job_id = service.create_job(PROJECT, "request", CONFIG).id
    training = SimulatedTraining()
    directive = service.get_job(PROJECT, job_id).state.directive
    answers: list[tuple[Report, Directive]] = []
    while directive.phase is not Phase.STOP:
        report = training.run(directive)
        directive = advance(service, job_id, report)
        answers.append((report, directive))
        assert advance(service, job_id, report) == directive  # the retry of a client that heard nothing
    before = service.get_job(PROJECT, job_id)
    assert [advance(service, job_id, report) for report, _ in answers] == [directive for _, directive in answers]
    assert service.get_job(PROJECT, job_id) == before


def test_another_report_under_a_number_that_was_taken_is_refused(service: TunerService) -> None:
    job_id = service.create_job(PROJECT, "request", CONFIG).id
    report = SimulatedTraining().run(service.get_job(PROJECT, job_id).state.directive)
    advance(service, job_id, report)
    before = service.get_job(PROJECT, job_id)
    other = report.model_copy(update={"losses": (*report.losses[:-1], report.losses[-1] + 1.0)})
    with pytest.raises(PreconditionError, match="another report on 1 was taken"):
        advance(service, job_id, other)
    assert service.get_job(PROJECT, job_id) == before


@pytest.mark.parametrize("number", [-1, 0])
def test_a_number_that_was_never_issued_is_refused(service: TunerService, number: int) -> None:
    job_id = service.create_job(PROJECT, "request", CONFIG).id
    report = SimulatedTraining().run(service.get_job(PROJECT, job_id).state.directive)
    with pytest.raises(PreconditionError, match="never issued"):
        advance(service, job_id, report.model_copy(update={"directive_number": number}))


def test_a_number_ahead_is_refused(service: TunerService) -> None:
    job_id = service.create_job(PROJECT, "request", CONFIG).id
    report = SimulatedTraining().run(service.get_job(PROJECT, job_id).state.directive)
    with pytest.raises(PreconditionError, match="not the outstanding 1"):
        advance(service, job_id, report.model_copy(update={"directive_number": 2}))


def test_a_refused_report_may_be_sent_again_as_it_should_be(service: TunerService) -> None:
    job_id = service.create_job(PROJECT, "request", CONFIG).id
    report = SimulatedTraining().run(service.get_job(PROJECT, job_id).state.directive)
    with pytest.raises(InvalidInputError):
        advance(service, job_id, report.model_copy(update={"losses": report.losses[1:]}))
    assert advance(service, job_id, report).number == 2


def test_concurrent_duplicates_at_two_servers_are_decided_once(url: str) -> None:
    """Two storages on one file, as two processes have them, and threads of each."""
    with (
        open_storage(url) as first,
        open_storage(url) as second,
        TunerService(first) as one,
        TunerService(second) as other,
    ):
        services = [one, other]
        job_id = services[0].create_job(PROJECT, "request", CONFIG).id
        training = SimulatedTraining()
        directive = services[0].get_job(PROJECT, job_id).state.directive
        alone = drive(CONFIG, SimulatedTraining()).directives
        with ThreadPoolExecutor(4) as pool:
            for expected in alone[1:8]:
                report = training.run(directive)
                barrier = threading.Barrier(4)

                def send(index: int, report: Report = report, barrier: threading.Barrier = barrier) -> Directive:
                    barrier.wait()
                    return advance(services[index % 2], job_id, report)

                answers = list(pool.map(send, range(4)))
                assert answers == [expected] * 4
                directive = answers[0]
        assert len(services[1].history(services[1].get_job(PROJECT, job_id)).outline.kept) == 8


def test_a_job_goes_on_where_it_was_after_the_database_was_opened_anew(url: str) -> None:
    alone = drive(CONFIG, SimulatedTraining())
    training = SimulatedTraining()
    with open_storage(url) as storage, TunerService(storage) as service:
        created = service.create_job(PROJECT, "request", CONFIG)
    directive, seen = created.state.directive, [created.state.directive]
    while directive.phase is not Phase.STOP:
        with open_storage(url) as storage, TunerService(storage) as service:
            directive = advance(service, created.id, training.run(directive))
        seen.append(directive)
    assert seen == alone.directives


# --- families ---------------------------------------------------------------------------------------------------------


def of_family(family: str, seed: int) -> JobConfig:
    return JobConfig(
        policy="budget",
        family=family,
        total_steps=4000,
        lr_bounds=LrBounds(min=1e-4, max=1.0),
        base_lr=0.1,
        seed=seed,
    )


def test_a_job_learns_from_the_jobs_of_its_family_and_from_no_others(service: TunerService) -> None:
    def searched(family: str, seed: int, project: str = PROJECT) -> StoredJob:
        job_id = service.create_job(project, f"{family} {seed}", of_family(family, seed)).id
        finish(service, job_id, SimulatedTraining(seed))
        return service.get_job(project, job_id)

    first = searched("resnet", 0)
    assert first.state.prior is None
    assert searched("vit", 1).state.prior is None
    second = searched("resnet", 2)
    assert second.state.prior is not None
    assert second.state.prior.n_jobs == 1
    assert second.state.search_steps < first.state.search_steps
    assert searched("", 3).state.prior is None


def test_a_job_with_a_prior_that_is_taken_back_comes_out_the_same(service: TunerService) -> None:
    finish(service, service.create_job(PROJECT, "first", of_family("resnet", 0)).id, SimulatedTraining())
    job = service.create_job(PROJECT, "second", of_family("resnet", 1))
    whole = finish(service, job.id, SimulatedTraining(1))
    # By now there are two jobs of the family; the prior of this one is still that of the first.
    assert service.resume_job(PROJECT, job.id, 3).state.prior == job.state.prior
    for directive, report in whole[2:]:
        assert service.get_job(PROJECT, job.id).state.directive == directive
        advance(service, job.id, report)


def test_a_job_whose_rollback_failed_and_that_is_taken_back_to_after_that_still_knows(service: TunerService) -> None:
    job = service.create_job(PROJECT, "first", CONFIG)
    whole = finish(service, job.id, LeakingTraining())
    ended = service.get_job(PROJECT, job.id).state
    before, after = (service.resume_job(PROJECT, job.id, number).state for number in (len(whole), 2))
    assert (before.unrepeatable, after.unrepeatable) == (NOTE, "")
    for directive, report in whole[1:]:
        assert service.get_job(PROJECT, job.id).state.directive == directive
        advance(service, job.id, report)
    assert service.get_job(PROJECT, job.id).state == ended


# --- cancelling -------------------------------------------------------------------------------------------------------


def test_cancel_then_report_then_stop(service: TunerService) -> None:
    job_id = service.create_job(PROJECT, "request", CONFIG).id
    report = SimulatedTraining().run(service.get_job(PROJECT, job_id).state.directive)
    cancelled = service.cancel_job(PROJECT, job_id, "wrong data")
    assert (cancelled.state.status, cancelled.state.message) == (Status.CANCELLED, "wrong data")
    stop = advance(service, job_id, report)
    assert stop.phase is Phase.STOP
    assert stop.restore
    assert advance(service, job_id, report) == stop
    with pytest.raises(PreconditionError, match="ended already"):
        service.cancel_job(PROJECT, job_id, "again")
    with pytest.raises(PreconditionError, match="ended"):
        advance(service, job_id, report.model_copy(update={"directive_number": stop.number}))


def test_a_cancel_among_reports_is_not_lost(service: TunerService) -> None:
    job_id = service.create_job(
        PROJECT, "request", config(None, **QUICK)
    ).id  # so that it can not end before the cancel
    barrier = threading.Barrier(2)

    def drive_on() -> None:
        barrier.wait()
        finish(service, job_id, SimulatedTraining())

    thread = threading.Thread(target=drive_on)
    thread.start()
    barrier.wait()
    service.cancel_job(PROJECT, job_id, "enough")
    thread.join()
    state = service.get_job(PROJECT, job_id).state
    assert (state.status, state.message) == (Status.CANCELLED, "enough")
    assert state.directive.phase is Phase.STOP


@pytest.mark.parametrize("number", [1, 2, 5, 9, 12])
def test_a_job_taken_back_comes_out_the_same(service: TunerService, number: int) -> None:
    """The client went back to a checkpoint in directive `number`, with its weights as they were then."""
    job = service.create_job(PROJECT, "request", CONFIG)
    whole = finish(service, job.id, SimulatedTraining())
    assert number < len(whole)
    resumed = service.resume_job(PROJECT, job.id, number)
    assert resumed.state.directive == whole[number - 1][0]
    entries = service.history(service.get_job(PROJECT, job.id)).read()
    assert [entry.report is None for entry in entries] == [False] * (number - 1) + [True]
    for directive, report in whole[number - 1 :]:
        assert service.get_job(PROJECT, job.id).state.directive == directive
        advance(service, job.id, report)
    again = list(service.history(service.get_job(PROJECT, job.id)).read())
    assert [entry.directive for entry in again[:-1]] == [directive for directive, _ in whole]
    assert service.get_job(PROJECT, job.id).state.status is Status.FINISHED


def test_a_job_can_be_taken_back_to_where_it_is_and_not_ahead(service: TunerService) -> None:
    job = service.create_job(PROJECT, "request", CONFIG)
    assert service.resume_job(PROJECT, job.id, 1) == job
    for number in (0, 2):
        with pytest.raises(PreconditionError, match="never issued"):
            service.resume_job(PROJECT, job.id, number)


def test_a_job_is_not_taken_back_while_another_long_one_is(
    service: TunerService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for that in a thread, not the same request when it comes again either."""
    monkeypatch.setattr(long_reads, "LONG_DIRECTIVES", 0)
    job, other = (service.create_job(PROJECT, request, CONFIG) for request in ("one", "another"))
    for each in (job, other):
        advance(service, each.id, SimulatedTraining().run(each.state.directive))
    begun, going_on = threading.Event(), threading.Event()

    def check() -> None:
        begun.set()
        assert going_on.wait(TIMEOUT_S)

    with ThreadPoolExecutor(1) as thread:
        first = thread.submit(service.resume_job, PROJECT, job.id, 1, "resume", check)
        assert begun.wait(TIMEOUT_S)
        for again in (job, other):
            with pytest.raises(BusyError, match="come again later"):
                service.resume_job(PROJECT, again.id, 1, "resume")
        going_on.set()
        resumed = first.result(TIMEOUT_S)
    assert service.resume_job(PROJECT, job.id, 1, "resume") == resumed
    assert service.resume_job(PROJECT, other.id, 1, "resume").state.directive.number == 1


def test_a_job_that_is_not_replayed_to_its_end_stays_where_it_is(service: TunerService) -> None:
    """The server is stopped meanwhile."""
    job = service.create_job(PROJECT, "request", CONFIG)
    advance(service, job.id, SimulatedTraining().run(job.state.directive))
    interest = Interest()
    interest.end()
    with pytest.raises(AbandonedError):
        service.resume_job(PROJECT, job.id, 1, "resume", interest.check)
    assert service.get_job(PROJECT, job.id).state.directive.number == 2
    assert service.resume_job(PROJECT, job.id, 1, "resume").state.directive.number == 1


def test_a_request_to_go_back_that_comes_late_undoes_nothing(service: TunerService) -> None:
    """The client was answered when it sent the request again, and has reported since."""
    job = service.create_job(PROJECT, "request", CONFIG)
    training = SimulatedTraining()
    advance(service, job.id, training.run(job.state.directive))
    resumed = service.resume_job(PROJECT, job.id, 1, "resume")
    assert service.resume_job(PROJECT, job.id, 1, "resume") == resumed
    following = service.advance(PROJECT, job.id, training.run(job.state.directive), "resume").result()
    with pytest.raises(PreconditionError, match="has gone on since"):
        service.resume_job(PROJECT, job.id, 1, "resume")
    assert service.get_job(PROJECT, job.id).state.directive == following


@pytest.mark.parametrize("number", [1, 2])
def test_a_former_life_moves_nothing_any_more(service: TunerService, number: int) -> None:
    job = service.create_job(PROJECT, "request", CONFIG)
    former, present = SimulatedTraining(0), SimulatedTraining(1)
    first, second = former.run(job.state.directive), present.run(job.state.directive)
    directive = service.advance(PROJECT, job.id, first).result()
    service.resume_job(PROJECT, job.id, number, "present")
    if number == 1:
        directive = service.advance(PROJECT, job.id, second, "present").result()
    else:
        assert service.advance(PROJECT, job.id, first).result() == directive  # what was answered is answered again
    with pytest.raises(PreconditionError, match="another process has gone on"):
        service.advance(PROJECT, job.id, former.run(directive)).result()
    assert service.advance(PROJECT, job.id, present.run(directive), "present").result().number == 3
    with pytest.raises(PreconditionError, match="has gone on since"):
        service.resume_job(PROJECT, job.id, 1, "present")


def test_whoever_goes_back_without_a_name_ends_a_former_life_too(service: TunerService) -> None:
    job = service.create_job(PROJECT, "request", CONFIG)
    training = SimulatedTraining()
    service.resume_job(PROJECT, job.id, 1, "named")
    service.resume_job(PROJECT, job.id, 1)
    report = training.run(job.state.directive)
    with pytest.raises(PreconditionError, match="another process"):
        service.advance(PROJECT, job.id, report, "named").result()
    assert service.advance(PROJECT, job.id, report).result().number == 2


def test_a_cancelled_job_that_is_taken_back_stays_cancelled(service: TunerService) -> None:
    job = service.create_job(PROJECT, "request", CONFIG)
    training = SimulatedTraining()
    advance(service, job.id, training.run(job.state.directive))
    service.cancel_job(PROJECT, job.id, "enough")
    resumed = service.resume_job(PROJECT, job.id, 1)
    assert (resumed.state.status, resumed.state.message) == (Status.CANCELLED, "enough")
    assert resumed.state.directive == job.state.directive


@pytest.mark.parametrize("method", ["get_job", "history", "cancel_job", "advance"])
def test_an_unknown_job(service: TunerService, method: str) -> None:
    report = SimulatedTraining().run(drive(CONFIG, SimulatedTraining(), max_directives=0).directives[0])
    calls: dict[str, Callable[[], object]] = {
        "get_job": lambda: service.get_job(PROJECT, "none"),
        "history": lambda: service.history(service.get_job(PROJECT, "none")),
        "cancel_job": lambda: service.cancel_job(PROJECT, "none", ""),
        "advance": lambda: advance(service, "none", report),
    }
    with pytest.raises(NotFoundError, match="none"):
        calls[method]()
