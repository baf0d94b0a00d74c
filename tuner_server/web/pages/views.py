"""Turns a job and its timeline into the words and numbers of its page. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from tuner_server.core.config import JobConfig
from tuner_server.core.job.life import UNTOLD, Vitals, shown_word
from tuner_server.core.job.state import JobState
from tuner_server.core.messages import Candidate
from tuner_server.history.stage import Probe, Span, Stage
from tuner_server.history.timeline import Timeline
from tuner_server.history.words import lr_sensitivity
from tuner_server.history.words.changes import told
from tuner_server.history.words.headline import headline, led_to, rolled_back
from tuner_server.history.words.numbers import count, number, steps, told_apart, with_error
from tuner_server.history.words.reasons import bounded, why, why_restarts
from tuner_server.history.words.verdict import Verdict, verdict
from tuner_server.storage import StoredJob
from tuner_server.web.charts import forecasts
from tuner_server.web.pages.facts import Fact, details, facts
from tuner_server.web.pages.listing import title

MAX_SECTIONS = 50
"""Sections of a page, the latest ones: nobody reads more, and each costs a kilobyte or two at each fetch."""


@dataclasses.dataclass(frozen=True, slots=True)
class CandidateRow:
    """A candidate of a stage."""

    lr: str
    loss: str
    """The loss that it was judged by."""
    outcome: str
    steps: str
    chosen: bool


@dataclasses.dataclass(frozen=True, slots=True)
class StageView:
    """A stage, or several that diverged one after the other."""

    index: int
    """The index of the first one."""
    title: str
    lr: str
    why: str
    sensitivity: str
    """What an LR that is off would have cost over a probe; empty: nothing tells."""
    cost: str
    forecasts: bool
    """Whether its candidates were judged by forecasts; if not, by what their probes reached."""
    candidates: tuple[CandidateRow, ...]
    open: bool
    """Whether its details are shown at once; on a page only the latest that has something to show is open."""


@dataclasses.dataclass(frozen=True, slots=True)
class JobView:
    """A job's page."""

    id: str
    version: str
    """A text that differs when the page does."""
    title: str
    name: str
    """The name; empty: it has none, and its id is the title."""
    note: str
    """What somebody has noted on it."""
    state: str
    since: str
    """Since when its client is not there, after the state; empty: it is there, or the job has ended."""
    life: str
    """The same as a sentence."""
    live: bool
    policy: str
    progress: float | None
    headline: str
    led_to: str
    """What the latest LR goes back to; empty: no search."""
    forecasts: str
    """How good the forecasts were."""
    verdict: Verdict
    facts: tuple[Fact, ...]
    details: tuple[Fact, ...]
    stages: tuple[StageView, ...]
    """The stages, the latest first."""
    n_left_out: int
    """Stages that came before those."""
    nothing_drawn: str
    """Why there is nothing to draw, and when there will be, as sentences; empty: there is."""
    has_end: bool
    """Whether it has an end that could be moved."""
    plan_changes: tuple[str, ...]
    """The changes of its plan, and those that wait, as sentences."""


def version_of(job: StoredJob, vitals: Vitals) -> str:
    """A text that differs when the page of a job does, which tells how long its client has been silent."""
    return f"{job.version}-{vitals.life}-{vitals.ago}".replace(" ", "-") if vitals.troubled else f"{job.version}"


def job_view(job: StoredJob, found: Timeline, vitals: Vitals = UNTOLD) -> JobView:
    """What a job's page says."""
    state, config = job.state, job.state.config
    stages, n_left_out = _stages(found, config, live=state.status.live)
    return JobView(
        id=job.id,
        version=version_of(job, vitals),
        title=title(job),
        name=config.name,
        note=job.note,
        state=shown_word(state.status, vitals.life),
        since=vitals.since,
        life=vitals.sentence,
        live=state.status.live,
        policy=config.policy,
        progress=state.progress,
        headline=headline(state, found, left_alone=vitals.troubled),
        led_to=led_to(found),
        forecasts=forecasts.sentence(found),
        verdict=verdict(state, found, vitals),
        facts=facts(job, found, vitals),
        details=details(job, found),
        stages=stages,
        n_left_out=n_left_out,
        nothing_drawn="" if found.n_steps else _nothing_drawn(state, vitals),
        has_end=state.total_steps is not None,
        plan_changes=tuple(told(state, found.changes)),
    )


def _nothing_drawn(state: JobState, vitals: Vitals) -> str:
    """Why a job without steps has no chart, and when it will."""
    if not state.status.live:
        return "The job ended before its first report, so there is nothing to draw."
    if vitals.troubled:
        return "No steps were reported before its client was gone. The chart begins if that comes back."
    directive = state.directive
    first = min(directive.report_every or directive.n_steps, directive.n_steps)
    return f"No steps have been reported yet. The chart begins with the first report, after {steps(first)}."


def _stages(found: Timeline, config: JobConfig, *, live: bool) -> tuple[tuple[StageView, ...], int]:
    """The latest sections, and how many stages came before them."""
    sections = _sections(found.stages)
    shown = sections[-MAX_SECTIONS:]
    telling = [section[0].index for section in shown if _tells(section[0])]
    latest = telling[-1] if telling else shown[-1][0].index if shown else 0
    views = (
        _stage(section[0], config, live=live, is_open=section[0].index == latest)
        if len(section) == 1
        else _restarts(section)
        for section in reversed(shown)
    )
    return tuple(views), sum(map(len, sections[:-MAX_SECTIONS]))


def _sections(stages: Sequence[Stage]) -> list[list[Stage]]:
    """Stages by themselves, but restarts that follow each other together."""
    found: list[list[Stage]] = []
    for stage in stages:
        if stage.restart and found and found[-1][-1].restart:
            found[-1].append(stage)
        else:
            found.append([stage])
    return found


def _tells(stage: Stage) -> bool:
    """Whether a probe of it has been run."""
    return any(probe.span is not None for probe in stage.tried)


def _restarts(stages: Sequence[Stage]) -> StageView:
    first, last = stages[0], stages[-1]
    return StageView(
        index=first.index,
        title=f"Stages {count(first.index + 1)} to {count(last.index + 1)}",
        lr=f"LR {number(first.lr)} down to {number(last.lr)}",
        why=why_restarts(stages),
        sensitivity="",
        cost=rolled_back(sum(stage.given_back_steps for stage in stages), stages),
        forecasts=False,
        candidates=(),
        open=False,
    )


def _stage(stage: Stage, config: JobConfig, *, live: bool, is_open: bool) -> StageView:
    return StageView(
        index=stage.index,
        title=_stage_title(stage, live=live),
        lr=_stage_lr(stage),
        why=why(stage, config),
        sensitivity=lr_sensitivity.words(stage),
        cost=_stage_cost(stage),
        forecasts=any(candidate.forecast_sd for candidate in stage.candidates),
        candidates=tuple(_candidate(probe, probe.span, stage) for probe in stage.tried if probe.span is not None),
        open=is_open,
    )


def _stage_lr(stage: Stage) -> str:
    """The LR that was committed; the first and the last one, where it was adapted on the way."""
    ends = stage.lrs if len(stage.lrs) < 2 else (stage.lrs[0], stage.lrs[-1])
    return f"LR {' to '.join(map(number, ends))}" if ends else ""


def _stage_cost(stage: Stage) -> str:
    parts = [f"{steps(stage.search_steps)} of search"] if stage.search_steps else []
    if stage.committed_steps:
        end = "" if stage.end_loss is None else f", loss {number(stage.end_loss)} at their end"
        parts.append(f"{steps(stage.committed_steps)} committed{end}")
    words = [f"{', then '.join(parts)}."] if parts else []
    if stage.given_back_steps:
        words.append(rolled_back(stage.given_back_steps, [stage]))
    return " ".join(words)


def _stage_title(stage: Stage, *, live: bool) -> str:
    if stage.replaced:
        return "On its own"
    if stage.directive is None:
        return "Searching" if live else "Search that was not finished"
    return f"Stage {count(stage.index + 1)}"


def _candidate(probe: Probe, span: Span, stage: Stage) -> CandidateRow:
    chosen = probe is stage.winner
    return CandidateRow(
        lr=f"{number(probe.lr)}, rising" if probe.is_range_test else number(probe.lr),
        loss=_judged(probe.candidate, stage),
        outcome=_outcome(probe, chosen=chosen),
        steps=count(span.n_steps),
        chosen=chosen,
    )


def _outcome(probe: Probe, *, chosen: bool) -> str:
    if probe.unrepeatable:
        return "not repeatable"
    if probe.is_range_test:
        return "range test"
    if probe.warned:
        return "ended early"
    return "diverged" if probe.diverged else "lowest" if chosen else "completed"


def _judged(candidate: Candidate | None, stage: Stage) -> str:
    if candidate is None:
        return "–"
    if candidate.forecast is None:
        bound = "at most" if stage.of_metric else "at least"
        return "–" if candidate.at_least is None else f"{bound} {number(stage.shown(candidate.at_least))}"
    forecast = stage.shown(candidate.forecast)
    if candidate.forecast_sd:
        loss = with_error(forecast, candidate.forecast_sd)
        return f"{loss}, bounded" if bounded(candidate) else loss
    rival = stage.second if candidate == stage.best else stage.best
    return number(forecast) if rival is None else told_apart(forecast, stage.shown(rival.loss))[0]
