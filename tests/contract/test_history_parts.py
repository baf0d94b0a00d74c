"""A history is read part by part, and is one history all the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from tests.contract.test_storage import NOW, create, record, report, transition
from tuner_server.core.errors import ConflictError
from tuner_server.storage import Storage, StoredHistory, StoredJob, history_read, open_storage

N = 7


@pytest.fixture
def storage(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Storage]:
    """A storage that reads two entries at a time."""
    monkeypatch.setattr(history_read, "ROWS_AT_ONCE", 2)
    with open_storage(database_url, upgrade=True) as opened:
        yield opened


@pytest.fixture
def job(storage: Storage) -> StoredJob:
    found = create(storage)
    for number in range(1, N + 1):
        found = record(storage, found, report(number, (float(number),)), b"%d" % number, transition(number + 1), NOW)
    return found


def numbers(storage: Storage) -> list[int]:
    return [entry.directive.number for entry in storage.history("job", losses=True)]


@pytest.mark.parametrize("n_rows", [1, 2, 3, N, 100])
def test_no_entry_is_lost_between_parts(
    storage: Storage, job: StoredJob, n_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history_read, "ROWS_AT_ONCE", n_rows)
    assert numbers(storage) == list(range(1, N + 2))


@pytest.mark.parametrize("after", [0, 1, 4, N])
def test_what_follows_on_an_entry_is_read_by_itself(storage: Storage, job: StoredJob, after: int) -> None:
    entries = list(StoredHistory(storage, "job", N + 1, lambda: None).read(losses=True, after=after))
    assert entries == list(storage.history("job", losses=True))[after:]


def test_what_follows_on_an_entry_that_is_gone_is_another_history(storage: Storage, job: StoredJob) -> None:
    storage.rewind(job, transition(3).state, NOW)
    with pytest.raises(ConflictError, match="it went back"):
        list(storage.history("job", losses=True, after=4))


def test_a_part_is_no_larger_than_its_bytes_or_one_entry(
    storage: Storage, job: StoredJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history_read, "ROWS_AT_ONCE", 100)
    monkeypatch.setattr(history_read, "BYTES_AT_ONCE", 1)
    sizes: list[int] = []
    rows = history_read.HistoryRead.rows

    def counted(self: history_read.HistoryRead, connection: sa.Connection) -> Sequence[Any]:
        found = rows(self, connection)
        sizes.append(len(found))
        return found

    monkeypatch.setattr(history_read.HistoryRead, "rows", counted)
    assert numbers(storage) == list(range(1, N + 2))
    assert sizes == [1] * (N + 1)


def test_nothing_is_read_that_nobody_asks_for(
    storage: Storage, job: StoredJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    rows = history_read.HistoryRead.rows

    def counted(self: history_read.HistoryRead, connection: sa.Connection) -> Sequence[Any]:
        found = rows(self, connection)
        read.extend(row.number for row in found)
        return found

    monkeypatch.setattr(history_read.HistoryRead, "rows", counted)
    entries = storage.history("job", losses=True)
    assert [next(entries).directive.number for _ in range(3)] == [1, 2, 3]
    assert read == [1, 2, 3, 4]


def test_what_is_reported_while_a_history_is_read_is_no_part_of_it(storage: Storage, job: StoredJob) -> None:
    entries = storage.history("job", losses=True, until=N + 1)
    first = [next(entries) for _ in range(2)]
    later = record(storage, job, report(N + 1), b"later", transition(N + 2), NOW)
    record(storage, later, report(N + 2), b"last", transition(N + 3), NOW)
    rest = list(entries)
    assert [entry.directive.number for entry in (*first, *rest)] == list(range(1, N + 2))
    assert rest[-1].report is None
    assert numbers(storage) == list(range(1, N + 4))


def test_a_job_that_goes_back_while_its_history_is_read_is_noticed(storage: Storage, job: StoredJob) -> None:
    behind, ahead = storage.history("job", losses=True), storage.history("job", losses=True)
    for _ in range(4):
        next(behind)
    for _ in range(2):
        next(ahead)
    earlier = storage.rewind(job, transition(3).state, NOW)
    again = record(storage, earlier, report(3), b"again", transition(4), NOW + timedelta(seconds=1))
    record(storage, again, report(4), b"4", transition(5), NOW + timedelta(seconds=2))
    with pytest.raises(ConflictError, match="while its history was read; ask again"):
        list(behind)
    assert [entry.directive.number for entry in ahead] == [3, 4, 5], "what was read is part of what is there now"


def test_losses_can_be_had_without_measures(storage: Storage) -> None:
    measured = report().model_copy(update={"measures": {"norm": (1.0, 2.0, 3.0)}})
    record(storage, create(storage), measured, b"", transition(2), NOW)
    plain, whole = (next(storage.history("job", losses=True, measures=measures)).report for measures in (False, True))
    assert plain is not None
    assert whole is not None
    assert plain.losses is not None
    assert plain.losses.tolist() == [3.0, 2.0, 1.0]
    assert not plain.measures
    assert whole.measures["norm"].tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("number", [1, 3, N])
def test_a_job_that_went_back_since_it_was_loaded_has_no_such_history(
    storage: Storage, job: StoredJob, number: int
) -> None:
    known = StoredHistory(storage, "job", N + 1, lambda: None)
    assert len(list(known.read())) == N + 1
    storage.rewind(job, transition(number).state, NOW)
    with pytest.raises(ConflictError, match="gone back since it was loaded"):
        list(known.read(losses=True))
