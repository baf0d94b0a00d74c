"""The list of jobs: which jobs it has, in which order, and what a row says. Pure."""

from __future__ import annotations

import dataclasses
import enum
import zlib
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any
from urllib.parse import urlencode

from lrpilot.wire.text.job_names import called

from tuner_server.core.job.life import ALL_SHOWN, SHOWN, UNTOLD, Life, Shown, Vitals, shown_word
from tuner_server.core.job.state import Status
from tuner_server.core.messages import Phase
from tuner_server.history.words.numbers import about, age, ago, moment, number, share
from tuner_server.storage import StoredJob
from tuner_server.web.pages.pace import Pace
from tuner_server.web.pages.summary import ATTENTION, Summary, attention, summary

PAGE_SIZE = 25
NEWEST = 1000
"""Jobs that are filtered and sorted: the newest of the project. Older ones are for `lrpilot jobs`."""
LONGEST_QUERY = 200
"""Characters that are looked for: as long as a name may be."""

STATES: dict[str, Shown] = {"": ALL_SHOWN, ATTENTION: ALL_SHOWN, **SHOWN}
"""The states that can be chosen, with what each stands for; empty: all. What needs attention, no state tells alone."""


class Column(enum.StrEnum):
    """A column that the list can be sorted by."""

    CREATED = "created"
    NAME = "name"
    STATE = "state"
    POLICY = "policy"
    PROGRESS = "progress"
    LR = "lr"
    LOSS = "loss"
    BEST_LOSS = "best-loss"
    VALIDATION = "validation"
    SEARCH = "search"


ORDERS: dict[str, str] = {
    "-created": "newest first",
    "created": "oldest first",
    "name": "name",
    "state": "state",
    "policy": "policy",
    "-progress": "most progress",
    "-lr": "highest LR",
    "loss": "lowest loss",
    "best-loss": "lowest best loss",
    "validation": "best validation",
    "-search": "most search",
}
"""The orders that the form offers, in words; a column's head sorts the other way round too."""

_FIRST_UP = {Column.NAME, Column.STATE, Column.POLICY, Column.LOSS, Column.BEST_LOSS, Column.VALIDATION}
"""Columns whose first click sorts up: the lowest loss is the best, and words begin with A."""


@dataclasses.dataclass(frozen=True, slots=True)
class ListingQuery:
    """What is asked of the list, as the address says it. What makes no sense there counts as not said."""

    text: str = ""
    state: str = ""
    family: str = ""
    column: Column = Column.CREATED
    descending: bool = True
    page: int = 1

    @classmethod
    def parse(cls, parameters: Mapping[str, str]) -> ListingQuery:
        """Reads the parameters of an address."""
        sort = parameters.get("sort", "-created")
        column = sort.removeprefix("-")
        page = parameters.get("page", "1")
        state = parameters.get("state", "")
        return cls(
            text=parameters.get("q", "").strip()[:LONGEST_QUERY],
            state=state if state in STATES else "",
            family=parameters.get("family", "").replace("\0", "").strip()[:LONGEST_QUERY],  # PostgreSQL takes no NUL
            column=Column(column) if column in set(Column) else Column.CREATED,
            descending=sort.startswith("-"),
            page=max(int(page), 1) if page.isascii() and page.isdigit() and len(page) < 10 else 1,
        )

    def address(self, **changes: Any) -> str:
        """The relative address of this query, or of one that differs in `changes`."""
        query = dataclasses.replace(self, **changes)
        sort = query.order
        fields = {"q": query.text, "state": query.state, "family": query.family}
        fields |= {"sort": "" if sort == "-created" else sort, "page": "" if query.page == 1 else str(query.page)}
        return "?" + urlencode({name: value for name, value in fields.items() if value})

    @property
    def order(self) -> str:
        """The order as an address has it."""
        return ("-" if self.descending else "") + self.column

    @property
    def orders(self) -> dict[str, str]:
        """The orders that the form offers, and this query's own, which a column's head may have turned round."""
        if self.order in ORDERS:
            return ORDERS
        opposite = dataclasses.replace(self, descending=not self.descending).order
        return {self.order: f"{ORDERS[opposite]}, the other way round", **ORDERS}

    def sorted_by(self, column: Column) -> str:
        """The address after a click on a column's head: down first where much is best, and back."""
        descending = not self.descending if column is self.column else column not in _FIRST_UP
        return self.address(column=column, descending=descending, page=1)

    def aria_sort(self, column: Column) -> str:
        """How a column is sorted, in ARIA's words."""
        if column is not self.column:
            return "none"
        return "descending" if self.descending else "ascending"


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """A job in the list."""

    id: str
    name: str
    family: str
    version: int
    state: str
    since: str
    """Since when its client is not there, after its state: `for 12 min`; empty: it is there, or the job has ended."""
    life: str
    """The same as a sentence."""
    attention: str
    """Why somebody should see to it, where its state does not tell; empty: it does, or there is no need."""
    note: str
    """What somebody has noted on it."""
    policy: str
    progress: float | None
    """The part that was run, 0 to 1; None: no end is known."""
    steps: int
    """Steps that were run, search included."""
    total_steps: int | None
    left: str
    """How long it still takes; empty: nothing tells, or nobody trains."""
    took: str
    """How long a job trained that has ended."""
    pace: str
    """Steps a second."""
    pace_words: str
    lr: str
    """The LR now; of a job that has ended, the highest one."""
    loss: str
    best_loss: str
    validation: str
    search: str
    live: bool
    there: bool
    """Whether its client is there."""
    created: str
    """The time, as ISO 8601 writes it."""
    created_words: str
    created_ago: str

    @classmethod
    def of(cls, job: StoredJob, vitals: Vitals, now: datetime) -> Row:
        """The row of a job, as it is now."""
        state, live, there = job.state, job.state.status.live, not vitals.troubled
        config, pace = state.config, Pace.of(job.state)
        return cls(
            id=job.id,
            name=title(job),
            family=config.family,
            version=job.version,
            state=shown_word(state.status, vitals.life),
            since=_since(vitals),
            life=vitals.sentence,
            attention="" if vitals.troubled or state.status is Status.FAILED else attention(job, vitals, now),
            note=job.note,
            policy=config.policy,
            progress=state.progress,
            steps=state.run_steps,
            total_steps=state.total_steps,
            left=pace.left if there else "",
            took="" if live or not state.wall_time_s else about(state.wall_time_s),
            pace=pace.short if live and there else "",
            pace_words=pace.words,
            lr=number(shown_lr(job)),
            loss=number(state.last_loss),
            best_loss=number(state.best_loss),
            validation=number(config.metric(state.best_validation)),
            search=_search(job),
            live=live,
            there=live and there,
            created=job.create_time.isoformat(timespec="seconds"),
            created_words=moment(job.create_time),
            created_ago=ago(now - job.create_time),
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Listing:
    """A page of the list."""

    rows: tuple[Row, ...]
    n_jobs: int
    """The number of jobs that match."""
    page: int
    n_pages: int
    complete: bool
    """Whether all jobs of the project were looked at, and not just the newest."""
    summary: Summary
    """What is said of all jobs that match, whatever their state."""

    @property
    def version(self) -> str:
        """A text that differs when the page does; the same in every process."""
        rows = [(row.id, row.version, row.state, row.since, row.created_ago) for row in self.rows]
        shown = (self.n_jobs, self.page, self.summary, rows)
        return f"{zlib.crc32(repr(shown).encode()):08x}"


def listing(
    jobs: Sequence[StoredJob],
    query: ListingQuery,
    vitals: Mapping[str, Vitals] = MappingProxyType({}),
    *,
    now: datetime,
    complete: bool,
    every: Sequence[StoredJob] | None = None,
) -> Listing:
    """The page that a query asks for.

    Args:
        jobs: those that have its state and family, newest first.
        query: what is asked for.
        vitals: the lives of jobs, by their ids, as far as something is said of them.
        now: the time.
        complete: whether these are all jobs of the project.
        every: the jobs of its family, whatever their state; None: `jobs`.
    """
    found = [job for job in jobs if _is_meant(job, query)]
    if query.state == ATTENTION:
        found = [job for job in found if attention(job, vitals.get(job.id, UNTOLD), now)]
    if query.column is Column.CREATED:
        ordered = found if query.descending else found[::-1]
    else:
        key = _KEYS[query.column]
        if query.column is Column.STATE:
            key = lambda job: _STATE_ORDER[shown_word(job.state.status, vitals.get(job.id, UNTOLD).life)]  # noqa: E731  # one of _KEYS
        # Jobs without the value come last in either order.
        known = [job for job in found if key(job) is not None]
        known.sort(key=key, reverse=query.descending)
        ordered = known + [job for job in found if key(job) is None]
    n_pages = max(-(-len(ordered) // PAGE_SIZE), 1)
    page = min(query.page, n_pages)
    shown = ordered[(page - 1) * PAGE_SIZE : page * PAGE_SIZE]
    rows = tuple(Row.of(job, vitals.get(job.id, UNTOLD), now) for job in shown)
    told = summary([job for job in (jobs if every is None else every) if _is_meant(job, query)], vitals, now)
    return Listing(rows, len(ordered), page, n_pages, complete, told)


def _is_meant(job: StoredJob, query: ListingQuery) -> bool:
    """Whether a job has the text that is looked for."""
    return query.text.lower() in f"{title(job)} {job.id} {job.state.config.policy} {job.note}".lower()


def _since(vitals: Vitals) -> str:
    """The words of `Vitals.since`, for where there is little room."""
    if not vitals.troubled:
        return ""
    return ago(vitals.silence) if vitals.life is Life.STOPPED else f"for {age(vitals.silence)}"


def title(job: StoredJob) -> str:
    """A job's name: the one that it was given, or the one that its id makes."""
    return called(job.state.config.name, job.id)


def current_lr(job: StoredJob) -> float | None:
    """The LR that the job runs at now: a probe's is on trial, others begin with it; None: the job has ended."""
    directive = job.state.directive
    if directive.profile is None or not job.state.status.live:
        return None
    return directive.profile.start_lr if directive.phase is Phase.PROBE else directive.profile.lr(0)


def shown_lr(job: StoredJob) -> float | None:
    """The LR in the list: the one now, or, of a job that has ended, the highest of its committed steps."""
    return current_lr(job) if job.state.status.live else job.state.peak_lr


def _search(job: StoredJob) -> str:
    """What the search cost, that there was none, or that it ended since no probe told anything."""
    if job.state.unrepeatable:
        return "rollback failed"
    return "none" if job.state.unsearched else share(job.state.probe_steps, job.state.run_steps)


_KEYS: dict[Column, Callable[[StoredJob], Any]] = {
    Column.NAME: lambda job: title(job).lower(),
    Column.POLICY: lambda job: job.state.config.policy,
    Column.PROGRESS: lambda job: job.state.progress,
    Column.LR: shown_lr,
    Column.LOSS: lambda job: job.state.last_loss,
    Column.BEST_LOSS: lambda job: job.state.best_loss,
    Column.VALIDATION: lambda job: job.state.best_validation,
    Column.SEARCH: lambda job: job.state.probe_steps / max(job.state.run_steps, 1),
}
_STATE_ORDER = {
    word: place
    for place, word in enumerate(
        [
            *(shown_word(status, Life.ALIVE) for status in Status if status.live),
            *(life.value for life in Life),
            *(status.value for status in Status if not status.live),
        ]
    )
}
"""The order of the words for jobs: those whose client is there, those whose client is not, those that have ended."""
