from __future__ import annotations

import dataclasses
from datetime import timedelta
from typing import Any

from tests.support.jobs.sample_jobs import NOW, job_config, stored
from tuner_server.core.job import machine
from tuner_server.core.job.life import UNTOLD, Life, Vitals
from tuner_server.core.job.state import Status
from tuner_server.storage import StoredJob
from tuner_server.web.pages.listing import ListingQuery, listing
from tuner_server.web.pages.summary import ATTENTION, attention, summary

HOUR = timedelta(hours=1)


def _job(name: str, **changes: Any) -> StoredJob:
    state = machine.create(job_config(name)).state.model_copy(update=changes)
    return stored(state, f"{name:0>32}", age_s=60)


ALIVE, SILENT, GONE = _job("a1"), _job("a2"), _job("a3")
FINISHED = _job("a4", status=Status.FINISHED, committed_steps=90, search_steps=10)
FAILED = _job("a5", status=Status.FAILED)
JOBS = [ALIVE, SILENT, GONE, FINISHED, FAILED]
VITALS = {
    ALIVE.id: Vitals(Life.ALIVE),
    SILENT.id: Vitals(Life.SILENT, HOUR),
    GONE.id: Vitals(Life.ABANDONED, 30 * HOUR),
}


def test_jobs_are_counted_by_what_became_of_them() -> None:
    found = summary(JOBS, VITALS, NOW)
    counts = {tile.state: tile.n_jobs for tile in found.tiles}
    assert counts == {ATTENTION: 3, "alive": 1, "silent": 1, "abandoned": 1, "finished": 1, "failed": 1}
    assert (found.search, found.search_note) == ("10%", "10 steps of 100 steps")


def test_of_no_jobs_nothing_was_searched() -> None:
    found = summary([], {}, NOW)
    assert found.search == ""
    assert not any(tile.n_jobs for tile in found.tiles)


def test_each_count_leads_to_as_many_jobs() -> None:
    assert _names(ATTENTION) == ["a2", "a3", "a5"]


def _names(state: str) -> list[str]:
    found = listing(JOBS, ListingQuery.parse({"state": state, "sort": "name"}), VITALS, now=NOW, complete=True)
    return [row.name for row in found.rows]


def test_attention_has_its_reason_and_ends_with_a_week() -> None:
    assert attention(ALIVE, VITALS[ALIVE.id], NOW) == ""
    assert attention(SILENT, VITALS[SILENT.id], NOW) == "no sign of its client for 1 hour"
    assert attention(FAILED, UNTOLD, NOW) == "its tuning failed"
    assert attention(FAILED, UNTOLD, NOW + timedelta(days=8)) == ""
    leaking = _job("a6", unrepeatable="the loss differs")
    assert attention(leaking, Vitals(Life.ALIVE), NOW) == "a rollback failed"
    undone = _job("a7", status=Status.FINISHED, committed_steps=5, search_steps=95, given_back_steps=90)
    assert "rolled back" in attention(undone, UNTOLD, NOW)
    assert attention(FINISHED, UNTOLD, NOW) == ""


def test_the_strip_is_of_all_states_though_the_list_is_of_one() -> None:
    query = ListingQuery.parse({"state": "finished"})
    found = listing([FINISHED], query, VITALS, now=NOW, complete=True, every=JOBS)
    assert found.n_jobs == 1
    assert found.summary == summary(JOBS, VITALS, NOW)
    assert dataclasses.replace(found, summary=summary([], {}, NOW)).version != found.version
