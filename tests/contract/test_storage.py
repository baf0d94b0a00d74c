"""What `storage.base` promises, on every backend."""

from __future__ import annotations

import dataclasses
import json
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from typing import TypeVar

import hypothesis
import pytest
import sqlalchemy as sa
from hypothesis import strategies as st
from lrpilot.wire.profile import Profile

from tests.support.shapes import shapes
from tuner_server.core.config import JobConfig, LrBounds
from tuner_server.core.errors import ConflictError, InvalidInputError, NotFoundError, QuotaError
from tuner_server.core.job.life import Shown, Signs
from tuner_server.core.job.machine import JobState, Status, Transition
from tuner_server.core.messages import (
    MAX_STEPS,
    Asked,
    BatchSource,
    Candidate,
    Decision,
    Directive,
    Ending,
    Extrapolation,
    Outcome,
    Phase,
    PosteriorCurve,
    Replacement,
    Report,
    Validation,
    Weights,
)
from tuner_server.storage import (
    ALL_JOBS,
    Change,
    Database,
    DeadJobs,
    JobFilter,
    Storage,
    StoredJob,
    StoredReport,
    codec,
    job_queries,
    open_storage,
)
from tuner_server.storage.tables import ProjectRow

PROJECT = "default"
NOW = datetime(2026, 3, 29, 1, 30, 0, 123456, tzinfo=UTC)
LATER = NOW + timedelta(seconds=1)
T = TypeVar("T")


@pytest.fixture
def storage(database_url: str) -> Iterator[Storage]:
    with open_storage(database_url, upgrade=True) as opened:
        yield opened


def train(number: int, n_steps: int = 3) -> Directive:
    profile = Profile.constant(0.1, n_steps)
    return Directive(number=number, phase=Phase.TRAIN, n_steps=n_steps, profile=profile)


def transition(
    number: int = 1,
    *,
    status: Status = Status.TRAINING,
    family: str = "",
    decision: Decision | None = None,
    message: str = "",
) -> Transition:
    directive = train(number)
    state = JobState(
        config=JobConfig(name="digits", family=family, policy="budget", base_lr=0.1),
        status=status,
        directive=directive,
        lease=directive,
        message=message,
    )
    return Transition(state, directive, decision)


def report(number: int = 1, losses: tuple[float, ...] = (3.0, 2.0, 1.0)) -> Report:
    return Report(directive_number=number, outcome=Outcome.COMPLETED, losses=losses)


def create(storage: Storage, job_id: str = "job", now: datetime = NOW, **fields: object) -> StoredJob:
    made = transition(**fields)  # type: ignore[arg-type]  # the fields of `transition`, passed through
    return storage.create(PROJECT, job_id, f"request of {job_id}", b"content", made, now)


def versions(storage: Storage, limit: int, wanted: JobFilter = ALL_JOBS) -> list[tuple[str, int]]:
    """Ids and versions of the newest jobs."""
    return [(found.id, found.version) for found in storage.versions(PROJECT, limit, wanted=wanted)]


def record(
    storage: Storage, job: StoredJob, taken: Report, fingerprint: bytes, answer: Transition, now: datetime
) -> StoredJob:
    """Writes one report."""
    recorded = storage.record([Change(job, taken, fingerprint, answer)], now)[0]
    if recorded is None:
        raise ConflictError(job.id)
    return recorded


def at_once(*calls: Callable[[], T]) -> list[T | Exception]:
    """Runs all calls in threads that start together; what each gave, or raised."""
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[], T]) -> T | Exception:
        barrier.wait()
        try:
            return call()
        except Exception as error:
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


# Creation


def test_a_new_job_is_loaded_as_it_was_created(storage: Storage) -> None:
    made = transition()
    job = storage.create(PROJECT, "job", "request", b"content", made, NOW)
    assert job == StoredJob("job", PROJECT, made.state, 1, NOW, NOW, Signs(NOW))
    assert storage.load("job") == job
    assert [entry.directive for entry in storage.history("job", losses=True)] == [made.directive]


def test_a_repeated_request_gets_the_job_as_it_is_now(storage: Storage) -> None:
    job = storage.create(PROJECT, "job", "request", b"content", transition(), NOW)
    now = record(storage, job, report(), b"1", transition(2), LATER)
    assert storage.create(PROJECT, "other", "request", b"content", transition(), LATER) == now
    with pytest.raises(NotFoundError):
        storage.load("other")


def test_a_request_id_is_not_taken_for_other_content(storage: Storage) -> None:
    job = storage.create(PROJECT, "job", "request", b"content", transition(), NOW)
    with pytest.raises(ConflictError, match="request"):
        storage.create(PROJECT, "other", "request", b"other content", transition(), LATER)
    assert storage.page(PROJECT, 10).jobs == (job,)


def test_a_job_id_is_taken_once(storage: Storage) -> None:
    job = storage.create(PROJECT, "job", "request", b"content", transition(), NOW)
    with pytest.raises(ConflictError):
        storage.create(PROJECT, "job", "another request", b"content", transition(), LATER)
    assert storage.load("job") == job


def test_a_request_repeated_at_once_makes_one_job(database_url: str, storage: Storage) -> None:
    # Half of the callers share a pool; the others stand for processes of their own.
    others = [open_storage(database_url, upgrade=True) for _ in range(4)]

    def call(caller: Storage, job_id: str) -> Callable[[], StoredJob]:
        return lambda: caller.create(PROJECT, job_id, "request", b"content", transition(), NOW)

    callers = [storage] * 4 + others
    jobs = at_once(*(call(caller, f"job {i}") for i, caller in enumerate(callers)))
    for other in others:
        other.close()
    assert storage.page(PROJECT, 10).jobs == (jobs[0],)
    assert all(job == jobs[0] for job in jobs)


# Changes


def test_a_report_is_recorded_with_its_answer(storage: Storage) -> None:
    decision = Decision(stage=0, lr=0.1, reason="the lowest forecast")
    job = create(storage)
    answer = transition(2, decision=decision)
    given = report().model_copy(update={"validations": (Validation(step=3, loss=0.5),), "wall_time_s": 1.5})
    recorded = record(storage, job, given, b"fingerprint", answer, LATER)
    assert recorded == StoredJob("job", PROJECT, answer.state, 2, NOW, LATER, Signs(NOW))
    assert storage.load("job") == recorded
    first, second = list(storage.history("job", losses=True))
    assert first.report is not None
    assert first.report.outcome is given.outcome
    assert first.report.n_steps == 3
    assert first.report.losses is not None
    assert first.report.losses.tolist() == list(given.losses)
    assert first.report.validations == given.validations
    assert first.report.wall_time_s == given.wall_time_s
    assert first.report.report_time == LATER
    assert first.decision is None
    assert (second.directive, second.decision, second.report) == (answer.directive, decision, None)


def test_an_answer_is_kept_with_the_fingerprint_of_its_report(storage: Storage) -> None:
    job = record(storage, create(storage), report(1), b"first", transition(2), NOW)
    record(storage, job, report(2), b"second", transition(3), NOW)
    answers = [storage.answer("job", number) for number in (1, 2)]
    assert [(a.fingerprint, a.directive) for a in answers if a] == [
        (b"first", train(2)),
        (b"second", train(3)),
    ]
    assert storage.answer("job", 0) is None
    assert storage.answer("job", 3) is None
    assert storage.answer("no such job", 1) is None


def test_of_reports_at_once_one_is_taken(database_url: str, storage: Storage) -> None:
    job = create(storage)
    others = [open_storage(database_url, upgrade=True) for _ in range(4)]

    def call(caller: Storage, i: int) -> Callable[[], StoredJob]:
        answer = transition(2, message=f"answer {i}")
        return lambda: record(caller, job, report(losses=(i, i, i)), bytes([i]), answer, LATER)

    results = at_once(*(call(caller, i) for i, caller in enumerate([storage] * 4 + others)))
    for other in others:
        other.close()
    winners = [i for i, result in enumerate(results) if isinstance(result, StoredJob)]
    assert sum(isinstance(result, ConflictError) for result in results) == len(results) - 1
    assert len(winners) == 1
    assert storage.load("job") == results[winners[0]]
    first, second = list(storage.history("job", losses=True))
    assert first.report is not None
    assert first.report.losses is not None
    assert first.report.losses.tolist() == [winners[0]] * 3
    assert second.report is None


def test_reports_of_many_jobs_are_recorded_together(storage: Storage) -> None:
    jobs = [create(storage, f"job {i}") for i in (2, 0, 1)]
    changes = [Change(job, report(losses=(float(i),)), b"%d" % i, transition(2)) for i, job in enumerate(jobs)]
    recorded = storage.record(changes, LATER)
    assert recorded == [storage.load(job.id) for job in jobs]
    for i, job in enumerate(jobs):
        first, _ = list(storage.history(job.id, losses=True))
        assert first.report is not None
        assert first.report.losses is not None
        assert first.report.losses.tolist() == [float(i)]
        answer = storage.answer(job.id, 1)
        assert answer is not None
        assert answer.fingerprint == b"%d" % i


def test_one_that_has_changed_is_left_out_of_a_group(storage: Storage) -> None:
    jobs = [create(storage, f"job {i}") for i in range(3)]
    moved = record(storage, jobs[1], report(), b"before", transition(2), LATER)
    changes = [Change(job, report(), b"late", transition(2)) for job in jobs]
    first, second, third = storage.record(changes, LATER)
    assert (first, second, third) == (storage.load("job 0"), None, storage.load("job 2"))
    assert storage.load("job 1") == moved
    answer = storage.answer("job 1", 1)
    assert answer is not None
    assert answer.fingerprint == b"before"


def test_groups_that_cross_do_not_wait_for_each_other(database_url: str, storage: Storage) -> None:
    """Two servers write the same jobs in opposite orders, many times: no deadlock, and each is written once a round."""
    with open_storage(database_url, upgrade=True) as other:
        jobs = [create(storage, f"job {i}") for i in range(8)]
        for number in range(1, 6):
            changes = [Change(job, report(number), b"", transition(number + 1)) for job in jobs]

            def call(caller: Storage, group: list[Change]) -> Callable[[], list[StoredJob | None]]:
                return lambda: caller.record(group, LATER)

            ours, theirs = at_once(call(storage, changes), call(other, changes[::-1]))
            assert isinstance(ours, list)
            assert isinstance(theirs, list)
            jobs = []
            for one, another in zip(ours, theirs[::-1], strict=True):
                (job,) = [each for each in (one, another) if each is not None]
                jobs.append(job)


def test_a_write_from_an_old_version_changes_nothing(storage: Storage) -> None:
    old = create(storage)
    cancelled = old.state.model_copy(update={"status": Status.CANCELLED})
    job = storage.update(old, cancelled, LATER)
    assert job == StoredJob("job", PROJECT, cancelled, 2, NOW, LATER, Signs(NOW))
    with pytest.raises(ConflictError):
        record(storage, old, report(), b"", transition(2), LATER)
    with pytest.raises(ConflictError):
        storage.update(old, old.state, LATER)
    assert storage.load("job") == job
    assert [entry.report for entry in storage.history("job", losses=True)] == [None]


def test_a_write_that_fails_half_way_changes_nothing(storage: Storage) -> None:
    job = create(storage)
    before = list(storage.history("job", losses=True))
    with pytest.raises(ConflictError):  # directive 1 exists
        record(storage, job, report(), b"", transition(1), LATER)
    assert storage.load("job") == job
    assert list(storage.history("job", losses=True)) == before


def test_an_unknown_job_is_not_found(storage: Storage) -> None:
    with pytest.raises(NotFoundError, match="nobody"):
        storage.load("nobody")
    with pytest.raises(NotFoundError, match="nobody"):
        next(storage.history("nobody", losses=False))


def test_times_are_utc_whatever_zone_they_came_in(storage: Storage) -> None:
    local = NOW.astimezone(timezone(timedelta(hours=5, minutes=45)))
    create(storage, now=local)
    loaded = storage.load("job").create_time
    assert loaded == NOW
    assert loaded.utcoffset() == timedelta(0)


def test_nothing_done_to_a_result_reaches_the_storage(storage: Storage) -> None:
    made = transition()
    state = made.state.model_copy(update={"policy_state": {"tau": [1]}})
    returned = storage.create(PROJECT, "job", "request", b"", dataclasses.replace(made, state=state), NOW)
    for job in (returned, storage.load("job")):
        assert job.state.policy_state is not None
        job.state.policy_state["tau"].append(2)
    assert state.policy_state == {"tau": [1]}
    assert storage.load("job").state == state


def test_what_was_written_is_there_after_reopening(database_url: str) -> None:
    with open_storage(database_url, upgrade=True) as storage:
        job = record(storage, create(storage), report(), b"1", transition(2), LATER)
        history = list(storage.history("job", losses=True))
    with open_storage(database_url) as storage:
        storage.ping()
        assert storage.load("job") == job
        assert list(storage.history("job", losses=True)) == history


# History


def test_history_is_in_the_order_of_numbers(storage: Storage) -> None:
    job = create(storage)
    for number in range(1, 12):
        job = record(storage, job, report(number), b"", transition(number + 1), NOW)
    create(storage, "another job")
    numbers = [entry.directive.number for entry in storage.history("job", losses=True)]
    assert numbers == list(range(1, 13))


def test_history_without_losses_has_all_but_the_losses(storage: Storage) -> None:
    record(storage, create(storage), report(), b"", transition(2), NOW)
    full = list(storage.history("job", losses=True))
    assert full[0].report is not None
    lean = dataclasses.replace(full[0], report=dataclasses.replace(full[0].report, losses=None))
    assert list(storage.history("job", losses=False)) == [lean, full[1]]


# Listing


def listed(
    storage: Storage, page_size: int, *, statuses: Sequence[Status] = (), family: str | None = None
) -> list[list[str]]:
    """The ids on every page."""
    wanted = JobFilter(Shown(tuple(statuses)), NOW, family)
    pages, token = [], ""
    while True:
        page = storage.page(PROJECT, page_size, token, wanted=wanted)
        pages.append([job.id for job in page.jobs])
        token = page.next_page_token
        if not token:
            return pages


def test_pages_are_newest_first_and_cut_no_tie(storage: Storage) -> None:
    for i, second in enumerate([0, 1, 1, 1, 1, 2]):
        create(storage, f"job {i}", NOW + timedelta(seconds=second))
    newest_first = [f"job {i}" for i in (5, 4, 3, 2, 1, 0)]
    for page_size in range(1, 8):
        pages = listed(storage, page_size)
        assert [job_id for page in pages for job_id in page] == newest_first
        assert all(len(page) == page_size for page in pages[:-1])
        assert pages[-1]


def test_of_large_jobs_a_page_has_fewer(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages wait in memory for their readers, and a job may be a hundred times as large as others."""
    for i in range(6):
        create(storage, f"job {i}", NOW + timedelta(seconds=i))
    size = len(codec.to_json(storage.load("job 0").state))
    for n_fitting, lengths in ((2.5, [2, 2, 2]), (4.5, [4, 2]), (0.5, [1] * 6), (9, [5, 1])):
        monkeypatch.setattr(job_queries, "PAGE_BYTES", int(n_fitting * size))
        pages = listed(storage, 5)
        assert [len(page) for page in pages] == lengths
        assert [job_id for page in pages for job_id in page] == [f"job {i}" for i in (5, 4, 3, 2, 1, 0)]


def test_an_empty_listing_is_one_empty_page(storage: Storage) -> None:
    assert listed(storage, 3) == [[]]


def test_a_new_job_does_not_shift_the_pages(storage: Storage) -> None:
    for i in range(4):
        create(storage, f"job {i}", NOW + timedelta(seconds=i))
    first = storage.page(PROJECT, 2)
    create(storage, "new job", NOW + timedelta(seconds=9))
    second = storage.page(PROJECT, 2, first.next_page_token)
    assert [job.id for job in first.jobs + second.jobs] == ["job 3", "job 2", "job 1", "job 0"]


def test_listings_are_filtered(storage: Storage) -> None:
    create(storage, "a", status=Status.TRAINING, family="resnet")
    create(storage, "b", status=Status.SEARCHING, family="resnet")
    create(storage, "c", status=Status.FAILED, family="")
    live = [Status.TRAINING, Status.SEARCHING]
    assert listed(storage, 1, statuses=live) == [["b"], ["a"]]
    assert listed(storage, 1, family="resnet") == [["b"], ["a"]]
    assert listed(storage, 1, family="") == [["c"]]
    assert listed(storage, 1, family="resnet", statuses=[Status.TRAINING]) == [["a"]]
    assert listed(storage, 1, family="resnet", statuses=[Status.FAILED]) == [[]]
    job = storage.load("a")
    storage.update(job, job.state.model_copy(update={"status": Status.CANCELLED}), LATER)
    assert listed(storage, 1, statuses=[Status.CANCELLED]) == [["a"]]


def test_versions_are_those_of_the_jobs_that_a_listing_has(storage: Storage) -> None:
    create(storage, "a", status=Status.TRAINING, family="resnet")
    create(storage, "b", status=Status.SEARCHING, family="resnet")
    create(storage, "c", NOW - timedelta(seconds=1), status=Status.FAILED)
    assert versions(storage, 10) == [("b", 1), ("a", 1), ("c", 1)]
    assert versions(storage, 2) == [("b", 1), ("a", 1)]
    shown = JobFilter(Shown((Status.TRAINING, Status.FAILED)), NOW)
    assert versions(storage, 10, shown) == [("a", 1), ("c", 1)]
    assert versions(storage, 10, JobFilter(family="resnet")) == [("b", 1), ("a", 1)]
    assert storage.versions("another", 10) == []


def test_every_change_shows_in_the_versions(storage: Storage) -> None:
    job = create(storage)
    job = record(storage, job, report(), b"", transition(2), NOW)
    assert versions(storage, 1) == [("job", job.version)]
    job = storage.update(job, job.state.model_copy(update={"message": "other"}), NOW)
    assert versions(storage, 1) == [("job", job.version)]
    job = storage.rewind(job, transition(1).state, NOW)
    assert versions(storage, 1) == [("job", job.version)]
    assert job.version == 4


def test_several_jobs_are_loaded_at_once(storage: Storage) -> None:
    jobs = {job_id: create(storage, job_id) for job_id in ("a", "b", "c")}
    found = {job.id: job for job in storage.load_all(["a", "c", "none"])}
    assert found == {"a": jobs["a"], "c": jobs["c"]}
    assert storage.load_all([]) == []


@pytest.mark.parametrize(
    "token",
    ["x", "é", "AAAA", "bnVsbA==", "WzEsMl0=", "WyIyMDI2LTAxLTAxIiwiYSJd", pytest.param("W1tb" * 50_000, id="deep")],
)
def test_a_token_that_is_none_is_refused(storage: Storage, token: str) -> None:
    with pytest.raises(InvalidInputError, match="page_token"):
        storage.page(PROJECT, 10, token)


def test_a_page_has_room_for_a_job(storage: Storage) -> None:
    with pytest.raises(InvalidInputError, match="page_size"):
        storage.page(PROJECT, 0)


# Values

floats = st.floats()
finite = st.floats(allow_nan=False, allow_infinity=False)
words = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
texts = words.filter(lambda word: "\0" not in word)
lrs = st.floats(0, exclude_min=True, allow_infinity=False)
steps = st.integers(0, 9)
profiles = st.builds(
    Profile,
    shapes.filter(lambda shape: "exponential" not in shape.name),
    st.floats(0, 1e300),
    st.floats(0, 1e300),
    st.integers(1, 2**31),
    st.integers(0, 2**31),
)
directives = st.builds(
    Directive,
    number=st.just(2),
    phase=st.sampled_from([phase for phase in Phase if phase is not Phase.STOP]),
    stage=st.integers(-1, 100),
    n_steps=st.integers(9, 2**31),
    profile=profiles,
    restore=st.booleans(),
    snapshot=st.booleans(),
    batches=st.sampled_from(BatchSource),
    validate_at=st.lists(steps).map(tuple),
    give_up_above=st.none() | floats,
    report_every=steps,
    measures=st.just(()) | st.just(("gradient_norm", "other")),
    reason=texts,
)
validations = st.lists(st.builds(Validation, step=steps, loss=floats)).map(tuple)


endings = st.builds(
    Ending,
    last=st.none() | floats,
    average=st.none() | floats,
    adopted=st.sampled_from(Weights),
    memory_steps=st.floats(1, 1e12),
)


def series(n: int) -> st.SearchStrategy[tuple[float, ...]]:
    return st.lists(st.floats(width=32), min_size=n, max_size=n).map(tuple)


@st.composite
def reports(draw: st.DrawFn) -> Report:
    n = draw(st.integers(0, 9))
    own = st.builds(Replacement, profile=st.none() | st.just(Profile.constant(0.1, 3)), wasted_steps=steps)
    return Report(
        directive_number=1,
        outcome=draw(st.sampled_from(Outcome)),
        losses=draw(series(n)),
        validations=draw(validations),
        wall_time_s=draw(st.floats(0, 1e300)),
        replacement=draw(st.none() | own),
        note=draw(words.filter(lambda word: "\0" not in word)),
        measures=draw(st.dictionaries(st.sampled_from(["gradient_norm", "other", "a"]), series(n))),
        ending=draw(st.none() | endings),
    )


candidates = st.builds(
    Candidate,
    directive_number=steps,
    lr=lrs,
    forecast=st.none() | floats,
    forecast_sd=st.none() | floats,
    raw_forecast=st.none() | floats,
)
asked = st.builds(Asked, acquisition=texts, kappa=st.none() | finite, low=lrs, high=lrs)
extrapolations = st.builds(Extrapolation, forecaster=texts, horizon=steps, losses=st.lists(floats).map(tuple))


@st.composite
def curves(draw: st.DrawFn) -> PosteriorCurve:
    n = draw(st.integers(1, 5))
    others = {name: draw(st.tuples(*[floats] * n)) for name in ("mean", "sd", "acquisition")}
    return PosteriorCurve(lr=draw(st.tuples(*[lrs] * n)), **others)


decisions = st.builds(
    Decision,
    stage=steps,
    lr=lrs,
    reason=texts,
    candidates=st.lists(candidates, max_size=3).map(tuple),
    posterior=st.none() | curves(),
    drawn_to=st.none() | lrs,
    lowered_by=st.none() | lrs,
    asked=st.none() | asked,
    extrapolation=st.none() | extrapolations,
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | finite | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=8,
)
configs = st.builds(
    JobConfig,
    name=texts,
    family=texts,
    policy=st.just("budget"),
    policy_options=st.dictionaries(words, json_values, max_size=3),
    total_steps=st.none() | st.integers(1, MAX_STEPS),
    lr_bounds=st.none() | st.just(LrBounds(min=1e-4, max=math.pi)),
    base_lr=st.floats(0, 1e300, exclude_min=True),
    seed=st.integers(0, 2**63 - 1),
)


@st.composite
def states(draw: st.DrawFn, directive: Directive) -> JobState:
    return JobState(
        config=draw(configs),
        status=draw(st.sampled_from(Status)),
        directive=directive,
        lease=draw(directives),
        committed_steps=draw(steps),
        snapshot_step=draw(st.none() | steps),
        recent_losses=draw(st.lists(floats, max_size=3).map(tuple)),
        last_loss=draw(st.none() | floats),
        best_validation=draw(st.none() | floats),
        wall_time_s=draw(floats),
        policy_state=draw(st.none() | st.dictionaries(words, json_values, max_size=3)),
        message=draw(words),
        unrepeatable=draw(words),
    )


# By `repr`: NaN equals nothing, itself included, and 0.0 equals -0.0.
@hypothesis.settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[
        hypothesis.HealthCheck.function_scoped_fixture,  # one database serves all examples
        hypothesis.HealthCheck.too_slow,
    ],
)
@hypothesis.given(data=st.data(), given=reports(), directive=directives, decision=st.none() | decisions)
def test_values_come_back_as_they_were(
    storage: Storage,
    data: st.DataObject,
    given: Report,
    directive: Directive,
    decision: Decision | None,
) -> None:
    state = data.draw(states(directive))
    job_id = f"job {len(storage.page(PROJECT, 1000).jobs)}"
    job = create(storage, job_id)
    answer = Transition(state, directive, decision)
    recorded = record(storage, job, given, b"", answer, LATER)
    assert repr(recorded.state) == repr(state)
    assert repr(storage.load(job_id).state) == repr(state)
    first, second = list(storage.history(job_id, losses=True))
    stored = first.report
    assert stored is not None
    assert repr(first.report_as_it_came()) == repr(given)
    assert stored.n_steps == given.n_steps
    assert repr(second.directive) == repr(directive)
    assert repr(second.decision) == repr(decision)


def test_a_policy_state_with_infinities_means_the_same_after_loading(storage: Storage) -> None:
    made = transition()
    state = made.state.model_copy(update={"policy_state": {"ceiling": math.inf, "low": -math.inf}})
    storage.create(PROJECT, "job", "request", b"", dataclasses.replace(made, state=state), NOW)
    loaded = storage.load("job").state.policy_state
    assert loaded is not None
    assert {name: float(value) for name, value in loaded.items()} == state.policy_state
    json.dumps(loaded, allow_nan=False)


# Projects


@pytest.fixture
def projects(database_url: str, storage: Storage) -> None:
    """A project of two live jobs at most, and one with no limit, beside the default one."""
    with Database(database_url) as database, database.writing() as connection:
        for name, limit in [("small", 2), ("large", None)]:
            row = sa.insert(ProjectRow).values(name=name, max_alive_jobs=limit, create_time=NOW)
            connection.execute(row)


def open_in(storage: Storage, project: str, job_id: str, request_id: str = "") -> StoredJob:
    return storage.create(project, job_id, request_id or f"request of {job_id}", b"content", transition(), NOW)


def test_a_job_needs_a_project_that_exists(storage: Storage) -> None:
    with pytest.raises(NotFoundError, match="nowhere"):
        open_in(storage, "nowhere", "job")


@pytest.mark.usefixtures("projects")
def test_projects_do_not_share_request_ids_or_listings(storage: Storage) -> None:
    here, there = open_in(storage, PROJECT, "here", "request"), open_in(storage, "large", "there", "request")
    assert (here.project, there.project) == (PROJECT, "large")
    assert storage.page(PROJECT, 10).jobs == (here,)
    assert storage.page("large", 10).jobs == (there,)
    assert storage.load("there") == there


@pytest.mark.usefixtures("projects")
def test_a_project_has_no_more_live_jobs_than_it_may(storage: Storage) -> None:
    first, _ = open_in(storage, "small", "1"), open_in(storage, "small", "2")
    with pytest.raises(QuotaError, match="small"):
        open_in(storage, "small", "3")
    assert open_in(storage, "small", "4", "request of 1") == first, "a repeated request opens nothing"
    open_in(storage, "large", "5")
    storage.update(first, first.state.model_copy(update={"status": Status.FINISHED}), LATER)
    open_in(storage, "small", "3")


@pytest.mark.usefixtures("projects")
def test_jobs_opened_at_once_count(storage: Storage) -> None:
    calls = [lambda i=i: open_in(storage, "small", str(i)) for i in range(6)]
    opened = at_once(*calls)
    assert sum(isinstance(each, StoredJob) for each in opened) == 2
    assert sum(isinstance(each, QuotaError) for each in opened) == 4


# Pruning


@pytest.mark.usefixtures("projects")
def test_what_ended_long_ago_is_pruned(storage: Storage) -> None:
    def ended(project: str, job_id: str, now: datetime, status: Status = Status.FINISHED) -> StoredJob:
        job = open_in(storage, project, job_id)
        return storage.update(job, job.state.model_copy(update={"status": status}), now)

    old = [ended(PROJECT, "old", NOW), ended(PROJECT, "cancelled", NOW, Status.CANCELLED)]
    young, elsewhere, live = (
        ended(PROJECT, "young", LATER),
        ended("large", "elsewhere", NOW),
        open_in(storage, PROJECT, "live"),
    )
    dead = DeadJobs(LATER, LATER, PROJECT)
    assert storage.prunable(dead) == {"finished": 1, "cancelled": 1}
    pruned = storage.prune(dead, 1)
    assert pruned in ({"finished": 1}, {"cancelled": 1})
    assert {**pruned, **storage.prune(dead, 10)} == {"finished": 1, "cancelled": 1}
    assert storage.prune(dead, 10) == storage.prunable(dead) == {}
    for job in old:
        with pytest.raises(NotFoundError):
            storage.load(job.id)
        with pytest.raises(NotFoundError):
            list(storage.history(job.id, losses=True))
    for job in (young, elsewhere, live):
        assert storage.load(job.id) == job
    assert storage.prune(DeadJobs(LATER, LATER), 10) == {"finished": 1}
    with pytest.raises(NotFoundError):
        storage.load("elsewhere")


def test_measures_come_and_go_with_the_losses(storage: Storage) -> None:
    job = create(storage, "job")
    measured = report().model_copy(update={"measures": {"norm": (0.5, math.nan, math.inf)}})
    now = record(storage, job, measured, b"1", transition(2), LATER)

    def stored(*, losses: bool) -> StoredReport | None:
        return next(storage.history("job", losses=losses)).report

    full, short = stored(losses=True), stored(losses=False)
    assert full is not None
    assert short is not None
    assert repr(full.measures["norm"].tolist()) == repr([0.5, math.nan, math.inf])
    assert not short.measures
    again = storage.rewind(now, transition(1).state, LATER)
    assert stored(losses=True) is None
    record(storage, again, report(), b"2", transition(2), LATER)
    bare = stored(losses=True)
    assert bare is not None
    assert not bare.measures
