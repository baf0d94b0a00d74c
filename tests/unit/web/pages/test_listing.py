from __future__ import annotations

from typing import Any

import pytest

from tests.support.jobs.incomplete_rollback import LeakingTraining
from tests.support.jobs.sample_jobs import NOW, job_config, stored
from tests.support.jobs.simulated_training import SimulatedTraining, drive
from tuner_server.core.job import machine
from tuner_server.core.job.life import UNTOLD
from tuner_server.core.job.machine import JobState, Status
from tuner_server.web.pages.listing import ORDERS, PAGE_SIZE, Column, ListingQuery, Row, current_lr, listing


def _state(name: str, **changes: Any) -> JobState:
    return machine.create(job_config(name)).state.model_copy(update=changes)


JOBS = [
    stored(_state("c", last_loss=0.3, best_loss=0.05, search_steps=10, committed_steps=90), "a" * 32, age_s=1),
    stored(_state("a", last_loss=None, search_steps=0, committed_steps=0), "b" * 32, age_s=2),
    stored(_state("B", last_loss=0.1, best_loss=0.1, search_steps=50, committed_steps=50), "c" * 32, age_s=3),
]


def _names(query: ListingQuery) -> str:
    return "".join(row.name for row in listing(JOBS, query, now=NOW, complete=True).rows)


@pytest.mark.parametrize(
    ("sort", "names"),
    [
        ("-created", "caB"),
        ("created", "Bac"),
        ("name", "aBc"),
        ("-name", "cBa"),
        ("loss", "Bca"),
        ("-loss", "cBa"),
        ("best-loss", "cBa"),
        ("-best-loss", "Bca"),
        ("-search", "Bca"),
        ("-progress", "cBa"),
    ],
)
def test_jobs_come_in_the_order_asked_for_and_those_without_the_value_last(sort: str, names: str) -> None:
    assert _names(ListingQuery.parse({"sort": sort})) == names


def test_a_text_is_looked_for_in_names_ids_and_policies() -> None:
    assert _names(ListingQuery.parse({"q": " bbb "})) == "a"
    assert _names(ListingQuery.parse({"q": "aaaa"})) == "c"
    assert _names(ListingQuery.parse({"q": "budget"})) == "caB"
    assert ListingQuery.parse({"family": "a\0b"}).family == "ab", "no database takes a NUL"


def test_a_page_beyond_the_last_is_the_last() -> None:
    many = JOBS * PAGE_SIZE
    found = listing(many, ListingQuery.parse({"page": "99"}), now=NOW, complete=True)
    assert (found.page, found.n_pages, len(found.rows)) == (3, 3, PAGE_SIZE)
    assert listing([], ListingQuery.parse({"page": "2"}), now=NOW, complete=True).n_pages == 1


@pytest.mark.parametrize(
    "address",
    [
        {"sort": "nonsense"},
        {"page": "-1"},
        {"page": "²"},
        {"page": "9" * 5000},
        {"state": "nonsense"},
        {"sort": "--name"},
    ],
)
def test_nonsense_in_an_address_counts_as_not_said(address: dict[str, str]) -> None:
    found = ListingQuery.parse(address)
    assert (found.column, found.page, found.state) == (Column.CREATED, 1, "")


def test_an_address_says_what_differs_from_the_usual() -> None:
    query = ListingQuery.parse({"q": "a&b", "sort": "-loss", "page": "3"})
    assert query.address() == "?q=a%26b&sort=-loss&page=3"
    assert ListingQuery.parse({}).address() == "?"
    assert query.sorted_by(Column.LOSS) == "?q=a%26b&sort=loss"


def test_a_row_counts_search_steps_to_the_progress() -> None:
    row = Row.of(JOBS[0], UNTOLD, NOW)
    assert row.progress == 100 / 4000
    assert row.search == "10%"


def test_steps_that_were_given_back_are_no_search() -> None:
    changes = {"committed_steps": 40, "search_steps": 60, "given_back_steps": 50}
    jobs = [*JOBS, stored(_state("d", **changes), "d" * 32, age_s=4)]
    rows = listing(jobs, ListingQuery.parse({"sort": "search"}), now=NOW, complete=True).rows
    assert [(row.name, row.search) for row in rows if row.name in "cd"] == [("c", "10%"), ("d", "10%")]


@pytest.mark.parametrize("max_directives", [0, 2, 10_000])
def test_a_job_that_had_no_search_says_so(max_directives: int) -> None:
    short = job_config("short", total_steps=400)
    state = drive(short, SimulatedTraining(validates=True), max_directives=max_directives).state
    assert Row.of(stored(state), UNTOLD, NOW).search == "none"


def test_a_row_says_when_in_which_year_and_zone() -> None:
    assert Row.of(JOBS[0], UNTOLD, NOW).created_words == "2026-01-02 03:04 UTC"


def test_the_lr_of_a_probe_is_the_one_on_trial_and_not_where_its_warm_up_begins() -> None:
    state = _state("a")
    profile = state.directive.profile
    assert profile is not None
    assert profile.warmup > 0
    assert current_lr(stored(state)) == profile.start_lr > profile.lr(0)


def test_a_job_that_has_ended_has_its_peak_and_is_sorted_by_it() -> None:
    ended = drive(job_config("ended"), SimulatedTraining(validates=True)).state
    assert ended.peak_lr is not None
    lower = ended.model_copy(update={"peak_lr": ended.peak_lr / 2})
    never = ended.model_copy(update={"status": Status.CANCELLED, "peak_lr": None})
    jobs = [stored(never, "a" * 32), stored(lower, "b" * 32), stored(ended, "c" * 32)]
    rows = listing(jobs, ListingQuery.parse({"sort": "-lr"}), now=NOW, complete=True).rows
    assert [row.id[0] for row in rows] == ["c", "b", "a"]
    assert [row.live for row in rows] == [False] * 3
    assert [row.lr == "–" for row in rows] == [False, False, True]


def test_every_column_can_be_chosen_in_the_form() -> None:
    assert {order.removeprefix("-") for order in ORDERS} == set(Column)
    assert all(ListingQuery.parse({"sort": order}).order == order for order in ORDERS)


def test_an_order_that_a_columns_head_turned_round_is_in_the_form_too() -> None:
    assert ListingQuery.parse({"sort": "loss"}).orders is ORDERS
    turned = ListingQuery.parse({"sort": "-loss"}).orders
    assert turned["-loss"] == "lowest loss, the other way round"
    assert set(turned) == {"-loss", *ORDERS}


def test_a_job_whose_rollback_failed_says_so() -> None:
    state = drive(job_config("leaking"), LeakingTraining(validates=True)).state
    assert Row.of(stored(state), UNTOLD, NOW).search == "rollback failed"
