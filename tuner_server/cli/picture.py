"""A job as text, in the words of its page in the dashboard.

Importing this module takes most of a second (SQLAlchemy), so a command does it when it has a job to draw. What the page
says of each stage is for `lrpilot report`.
"""

from __future__ import annotations

import array
from collections.abc import Iterator, Sequence

import numpy as np
from lrpilot.schedule.curves import Piece
from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.wire.text.plain_text import plain
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tuner_server.cli.common import vitals_now
from tuner_server.cli.curve import curves
from tuner_server.core.messages import Phase
from tuner_server.history.from_wire import job_and_history
from tuner_server.history.stage import Probe, Span, Stage
from tuner_server.history.timeline import Timeline, timeline
from tuner_server.history.words import lr_sensitivity
from tuner_server.history.words.changes import mark_sentence
from tuner_server.history.words.headline import headline
from tuner_server.history.words.numbers import count, number, steps
from tuner_server.history.words.outlook import outlook_of_job
from tuner_server.history.words.setback import setback
from tuner_server.history.words.stopping import stopping
from tuner_server.history.words.unsought import unsought
from tuner_server.history.words.verdict import verdict

LAST_LOSSES = 10
"""Losses at the end of a probe, whose mean is its loss so far: one batch says little."""
MAX_STAGES = 20
"""Stages that are told one by one, the latest: with the curves below them they fill a screen."""


def laid_out(found: pb.GetScheduleResponse) -> Timeline:
    """A job's history. Raises: InvalidInputError: as `job_and_history`."""
    return timeline(job_and_history(found)[1], maximises=found.job.config.maximises)


def picture(job: pb.Job, history: Timeline) -> RenderableType:
    """What a job does and how it came there, its stages, its loss and LR.

    Args:
        job: the job as it is now.
        history: its history when it was fetched, which may be some steps ago.

    Raises:
        InvalidInputError: as `job_and_history`.
    """
    state = job_and_history(pb.GetScheduleResponse(job=job))[0].state
    vitals = vitals_now(job)
    said = verdict(state, history, vitals)
    how = f"{said.words}. {said.why}".strip()
    ahead = outlook_of_job(state, history)
    doing = headline(state, history, left_alone=vitals.troubled)
    told = [doing, how, *([] if ahead is None else [ahead.words])]
    words = "\n\n".join(map(plain, told))
    return Group(Text(f"\n{words}\n"), *_parts(history, live=state.status.live))


def _parts(history: Timeline, *, live: bool) -> Iterator[RenderableType]:
    every = [stage for stage in history.stages if stage.lr is not None]
    chosen = every[-MAX_STAGES:]
    if chosen:
        if n_earlier := len(every) - len(chosen):
            were = "stage is" if n_earlier == 1 else "stages are"
            yield Text(f"{count(n_earlier)} earlier {were} not shown; `lrpilot export` writes them all.")
        yield _stages(chosen)
        yield from (Text(f"{words}\n") for words in map(_setback, chosen) if words)
        yield from (Text(f"{words}\n") for words in map(_stopping, chosen) if words)
        for what in (unsought, lr_sensitivity.words):
            told = [words for words in map(what, chosen) if words]
            yield from (Text(f"{words}\n") for words in told[-1:])
    else:
        yield Text("Nothing is committed yet.")
    latest = history.stages[-1] if history.stages else None
    if latest is not None and latest.lr is None and latest.probes:
        yield _search(latest.probes, live=live)
    if history.changes:
        yield Text("\n".join(["changes of the plan", *(f"  {mark_sentence(mark)}" for mark in history.changes), ""]))
    if history.spans:
        undone = any(stage.given_back_steps for stage in history.stages)
        yield curves([_piece(span) for span in history.spans], undone=undone)


def _setback(stage: Stage) -> str:
    """Why the steps before a stage fell short; empty if they did not."""
    undoing = stage.retreats_from
    if undoing is None or undoing.diverged or stage.directive is None or stage.probes:
        return ""
    return setback(stage, undoing)


def _stopping(stage: Stage) -> str:
    """Why a stage is the annealing that ends the run before its end; empty if it is none."""
    evidence = None if stage.decision is None else stage.decision.stopping
    return "" if evidence is None else stopping(evidence, of_metric=stage.maximises)


def _search(probes: Sequence[Probe], *, live: bool) -> Table:
    """The LRs that a search which goes on, or was not finished, has tried."""
    table = Table("LR tried", "steps", "loss so far", "", box=box.SIMPLE, title="search", title_justify="left")
    for probe in probes:
        n_steps, loss, outcome = "", "", "running" if live else "not reported"
        if probe.span is not None:
            n_steps, loss = (
                count(probe.span.n_steps),
                _end(probe.span),
            )
            outcome = "diverged" if probe.diverged else "not repeatable" if probe.unrepeatable else ""
            outcome = "ended early" if probe.warned else outcome
        table.add_row(_tried(probe), n_steps, loss, outcome)
    return table


def _end(span: Span) -> str:
    return number(float(span.losses[-LAST_LOSSES:].mean(dtype=np.float64)))


def _tried(probe: Probe) -> str:
    profile = probe.directive.profile
    if profile is not None and probe.directive.phase is Phase.RANGE_TEST:
        return f"{number(profile.start_lr)} to {number(profile.end_lr)}"
    return number(probe.lr)


def _stages(stages: Sequence[Stage]) -> Table:
    """Stages have their numbers, as on the page."""
    table = Table("stage", "search steps", "from step", "committed steps", "LR", "to LR", "", box=box.SIMPLE)
    for stage in stages:
        planned = None if stage.directive is None else stage.directive.profile
        profile = stage.spans[-1].profile if stage.spans else planned
        table.add_row(
            stage.called,
            count(stage.search_steps),
            count(stage.spans[0].committed_start) if stage.spans else "",
            count(stage.committed_steps),
            number(stage.lrs[0]),
            number(profile.last_lr) if profile is not None else "",
            _came_of(stage),
        )
    return table


def _came_of(stage: Stage) -> str:
    """Why a stage's steps were not to stay, or what it began with; empty if it is a stage like any other."""
    if stage.undone_annealing:
        return f"annealing, {steps(stage.given_back_steps)} rolled back"
    if stage.undoing is None:
        return "" if stage.change is None else stage.change.kind.value.replace("_", " ")
    what = "diverged" if stage.undoing.diverged else "fell short"
    return f"{what}, {steps(stage.given_back_steps)} rolled back"


def _piece(span: Span) -> Piece:
    losses = array.array("f", span.losses.tobytes())  # of a long run, tens of times smaller than a list
    return Piece(span.start, span.end, span.profile, losses, span.kept, span.stage)
