"""The strip above the list: how many jobs there are of each kind, what the search cost, what needs attention. Pure."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta

from tuner_server.core.job.life import UNTOLD, Life, Vitals
from tuner_server.core.job.state import Status
from tuner_server.history.words.numbers import share, steps
from tuner_server.history.words.verdict import LEAST_KEPT_SHARE
from tuner_server.storage import StoredJob

ATTENTION = "attention"
"""The word for jobs that somebody should see to, among the states that can be chosen."""
ATTENTION_FOR = timedelta(days=7)
"""How long after the last change of a job: what nobody has seen to by then, nobody will."""


@dataclasses.dataclass(frozen=True, slots=True)
class Tile:
    """A number of jobs, which leads to them."""

    words: str
    state: str
    """The state that the list is filtered by."""
    n_jobs: int


@dataclasses.dataclass(frozen=True, slots=True)
class Summary:
    """What is said of all jobs together."""

    tiles: tuple[Tile, ...]
    search: str
    """What the search cost in all, as a share; empty: nothing was run."""
    search_note: str


def attention(job: StoredJob, vitals: Vitals, now: datetime) -> str:
    """Why somebody should see to a job, in a few words; empty: there is no need."""
    state = job.state
    if now - max(job.update_time, job.signs.sign_time) > ATTENTION_FOR:
        return ""
    if state.status is Status.FAILED:
        return "its tuning failed"
    if vitals.life in (Life.SILENT, Life.ABANDONED):
        return f"no sign of its client {vitals.since}"
    if state.unrepeatable:
        return "a rollback failed"
    undone, run = state.given_back_steps, state.run_steps
    if state.status is Status.FINISHED and undone and state.committed_steps < LEAST_KEPT_SHARE * run:
        return "nearly all of its steps were rolled back"
    return ""


def summary(jobs: Sequence[StoredJob], vitals: Mapping[str, Vitals], now: datetime) -> Summary:
    """The strip over some jobs."""
    lives = Counter(vitals.get(job.id, UNTOLD).life for job in jobs)
    ends = Counter(job.state.status for job in jobs if not job.state.status.live)
    needing = sum(bool(attention(job, vitals.get(job.id, UNTOLD), now)) for job in jobs)
    tiles = (
        Tile("need attention" if needing != 1 else "needs attention", ATTENTION, needing),
        Tile("training", Life.ALIVE, lives[Life.ALIVE]),
        Tile("silent", Life.SILENT, lives[Life.SILENT]),
        Tile("stopped", Life.STOPPED, lives[Life.STOPPED]),
        Tile("abandoned", Life.ABANDONED, lives[Life.ABANDONED]),
        Tile("finished", Status.FINISHED, ends[Status.FINISHED]),
        Tile("failed", Status.FAILED, ends[Status.FAILED]),
        Tile("cancelled", Status.CANCELLED, ends[Status.CANCELLED]),
    )
    run = _total(jobs, lambda job: job.state.run_steps)
    searched = _total(jobs, lambda job: job.state.probe_steps)
    seldom = (Life.STOPPED, Status.CANCELLED)  # ends that somebody chose
    return Summary(
        tuple(tile for tile in tiles if tile.n_jobs or tile.state not in seldom),
        share(searched, run) if run else "",
        f"{steps(searched)} of {steps(run)}",
    )


def _total(jobs: Sequence[StoredJob], of: Callable[[StoredJob], int]) -> int:
    return sum(map(of, jobs))
