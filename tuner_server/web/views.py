"""What a job's page says. Pure: from a job and its timeline to the words and numbers of the template."""

from __future__ import annotations

import dataclasses

from tuner_server.core.messages import Candidate, Outcome
from tuner_server.core.standing import LOSS_WINDOW
from tuner_server.storage import StoredJob
from tuner_server.web import explain
from tuner_server.web.explain import Verdict
from tuner_server.web.listing import current_lr, title, words
from tuner_server.web.numbers import count, duration, number, share, steps
from tuner_server.web.timeline import Probe, Stage, Timeline


@dataclasses.dataclass(frozen=True, slots=True)
class Fact:
    """A number with its name."""

    name: str
    value: str
    note: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class CandidateRow:
    """A candidate of a stage."""

    lr: str
    loss: str
    """As it was judged."""
    outcome: str
    steps: str
    chosen: bool


@dataclasses.dataclass(frozen=True, slots=True)
class StageView:
    """A stage."""

    index: int
    title: str
    lr: str
    why: str
    cost: str
    forecasts: bool
    """Whether its candidates were judged by forecasts; if not, by what their probes reached."""
    candidates: tuple[CandidateRow, ...]
    has_charts: bool
    open: bool
    """Whether it is shown at once: the latest that has something to show, and a search that goes on."""


@dataclasses.dataclass(frozen=True, slots=True)
class JobView:
    """A job's page."""

    id: str
    version: int
    title: str
    state: str
    live: bool
    policy: str
    progress: float | None
    headline: str
    verdict: Verdict
    facts: tuple[Fact, ...]
    details: tuple[Fact, ...]
    stages: tuple[StageView, ...]
    """The latest first."""


def job_view(job: StoredJob, found: Timeline) -> JobView:
    """What is said of a job."""
    state, config = job.state, job.state.config
    run = state.committed_steps + state.search_steps
    return JobView(
        id=job.id,
        version=job.version,
        title=title(job),
        state=words(state.status),
        live=state.status.live,
        policy=config.policy,
        progress=None if config.total_steps is None else run / config.total_steps,
        headline=explain.headline(state, found),
        verdict=explain.verdict(state, found),
        facts=_facts(job, run),
        details=_details(job),
        stages=_stages(found),
    )


def _facts(job: StoredJob, run: int) -> tuple[Fact, ...]:
    state = job.state
    total = state.config.total_steps
    progress = Fact("Steps run", count(run), "no end is set")
    if total is not None:
        progress = Fact("Progress", share(run, total), f"{count(run)} of {count(total)} steps")
    loss = Fact("Loss", number(state.last_loss), f"mean of the last {LOSS_WINDOW} committed")
    if state.first_loss is not None:
        loss = dataclasses.replace(loss, note=f"from {number(state.first_loss)} at the start")
    best = Fact("Best loss", number(state.best_loss), f"lowest mean of {LOSS_WINDOW} in a row")
    lr = Fact("LR now", number(current_lr(job)), "" if state.status.live else "tuning has ended")
    search = Fact("Search", share(state.search_steps, run), f"{count(state.search_steps)} steps, rolled back")
    validation = Fact("Best validation", number(state.best_validation), "none so far")
    if state.best_validation is not None:
        validation = dataclasses.replace(validation, note=f"now {number(state.last_validation)}")
    return progress, lr, loss, best, validation, search


def _details(job: StoredJob) -> tuple[Fact, ...]:
    state, config = job.state, job.state.config
    bounds = "not known yet"
    if state.bounds is not None:
        bounds = f"{number(state.bounds.min)} to {number(state.bounds.max)}"
    options = ", ".join(f"{name}={value}" for name, value in sorted(config.policy_options.items()))
    details = {
        "Job": job.id,
        "Project": job.project,
        "Family": config.family or "–",
        "Policy": f"{config.policy} ({options})" if options else config.policy,
        "LR as it was set": number(config.base_lr),
        "LR bounds": bounds + ("" if config.lr_bounds else ", by a range test"),
        "Seed": str(config.seed),
        "Training time": duration(state.wall_time_s),
        "Created": job.create_time.isoformat(sep=" ", timespec="seconds"),
        "Last report": job.update_time.isoformat(sep=" ", timespec="seconds"),
        "Message": state.message or "–",
    }
    return tuple(Fact(name, value) for name, value in details.items())


def _stages(found: Timeline) -> tuple[StageView, ...]:
    telling = [stage.index for stage in found.stages if any(probe.span is not None for probe in stage.probes)]
    latest = telling[-1] if telling else 0
    return tuple(_stage(stage, is_open=stage.index >= latest) for stage in reversed(found.stages))


def _stage(stage: Stage, *, is_open: bool) -> StageView:
    forecasts = any(candidate.forecast_sd for candidate in stage.candidates)
    return StageView(
        index=stage.index,
        title=_stage_title(stage),
        lr="" if stage.lr is None else f"LR {number(stage.lr)}",
        why=explain.why(stage),
        cost=_stage_cost(stage),
        forecasts=forecasts,
        candidates=tuple(_candidate(probe, stage) for probe in stage.probes if probe.candidate or probe.span),
        has_charts=any(probe.span is not None for probe in stage.probes),
        open=is_open,
    )


def _stage_cost(stage: Stage) -> str:
    if stage.directive is None and not stage.replaced:
        return f"{steps(stage.search_steps)} of search so far."
    end = "" if stage.end_loss is None else f", loss {number(stage.end_loss)} at their end"
    return f"{steps(stage.search_steps)} of search, then {count(stage.committed_steps)} committed{end}."


def _stage_title(stage: Stage) -> str:
    if stage.replaced:
        return "On its own"
    if stage.directive is None:
        return "Searching"
    return f"Stage {stage.index + 1}"


def _candidate(probe: Probe, stage: Stage) -> CandidateRow:
    span = probe.span
    chosen = stage.best is not None and stage.best.directive_number == probe.directive.number
    return CandidateRow(
        lr=number(probe.lr),
        loss=_judged(probe.candidate),
        outcome=_outcome(probe, chosen=chosen),
        steps="–" if span is None else count(span.n_steps),
        chosen=chosen,
    )


def _judged(candidate: Candidate | None) -> str:
    if candidate is None:
        return "–"
    if candidate.forecast is None:
        return f"at least {number(candidate.at_least)}"
    spread = f" ± {number(candidate.forecast_sd)}" if candidate.forecast_sd else ""
    return number(candidate.forecast) + spread


def _outcome(probe: Probe, *, chosen: bool) -> str:
    if probe.span is None:
        return "running"
    if probe.span.outcome is Outcome.DIVERGED:
        return "diverged"
    return "lowest" if chosen else "completed"
