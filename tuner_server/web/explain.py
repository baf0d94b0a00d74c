"""What a job did, in sentences: for whoever opens its page and has five seconds."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Sequence

import numpy as np
from lrpilot.profile import Shape

from tuner_server.core.job import JobState, Status
from tuner_server.core.messages import Candidate, Outcome, Phase
from tuner_server.web.numbers import number, share, steps
from tuner_server.web.thinning import FloatArray
from tuner_server.web.timeline import Stage, Timeline, lowest

COMPARED_SHARE = 0.1
"""Of the committed steps so far: the mean loss of the last ones is compared with as many before them."""
FEWEST_COMPARED = 20
"""Losses of single batches are noise: means over fewer say nothing."""
SURE_SDS = 2.0
"""So many standard errors apart, two means differ."""
SAME_LR = 0.02
"""LRs closer than this part of them are one LR to whoever reads a sentence."""


class Tone(enum.StrEnum):
    """How a finding is to be taken."""

    GOOD = "good"
    NEUTRAL = "neutral"
    WARNING = "warning"
    BAD = "bad"


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    """Whether it goes well."""

    tone: Tone
    words: str
    why: str


def verdict(state: JobState, found: Timeline) -> Verdict:
    """Whether a job goes well, and by what that was judged."""
    losses = found.committed_losses()
    if state.status is Status.FAILED:
        return Verdict(Tone.BAD, "Tuning failed", "The training goes on without it, and anneals its LR.")
    if state.status is Status.CANCELLED:
        return Verdict(Tone.NEUTRAL, "Cancelled", state.message)
    if found.stages and found.stages[-1].diverged:
        return Verdict(
            Tone.WARNING, "Diverged", "The committed steps diverged and are rolled back; a lower LR is next."
        )
    if state.status is Status.FINISHED:
        if len(losses) and losses[-FEWEST_COMPARED:].mean() >= losses[:FEWEST_COMPARED].mean():
            return Verdict(Tone.WARNING, "Finished, not lower", "The loss is no lower than it was at the beginning.")
        return Verdict(Tone.GOOD, "Finished", "The budget is spent." if state.config.total_steps else "")
    if not len(losses):
        return Verdict(Tone.NEUTRAL, "Too early to say", "Nothing is committed yet.")
    return _trend(losses)


def _trend(losses: FloatArray) -> Verdict:
    n = max(int(len(losses) * COMPARED_SHARE), FEWEST_COMPARED)
    if len(losses) < 2 * n:
        return Verdict(Tone.NEUTRAL, "Too early to say", f"{steps(len(losses))} are committed.")
    last, before = losses[-n:], losses[-2 * n : -n]
    # What is compared are means over noise that two batches don't share; a trend within each only widens the bar.
    error = float(np.sqrt((last.var() + before.var()) / n))
    change = float(last.mean() - before.mean())
    now, then = number(float(last.mean())), number(float(before.mean()))
    why = f"Mean of the last {steps(n)}: {now}; of as many before: {then}."
    if change < -SURE_SDS * error:
        return Verdict(Tone.GOOD, "Loss is falling", why)
    if change > SURE_SDS * error:
        return Verdict(Tone.WARNING, "Loss is rising", why)
    return Verdict(Tone.NEUTRAL, "Loss is level", why)


def headline(state: JobState, found: Timeline) -> str:
    """What the job did so far: its LR, its loss, what the search cost."""
    return " ".join(filter(None, (_doing(state), _came(found), _cost(state))))


def _doing(state: JobState) -> str:
    profile = state.directive.profile
    match state.status:
        case Status.FAILED:
            return f"Tuning failed: {state.message}."
        case Status.CANCELLED:
            return f"Tuning was cancelled after {steps(state.committed_steps)}."
        case Status.FINISHED:
            return f"Finished after {steps(state.committed_steps)}."
    assert profile is not None
    if state.directive.phase is Phase.RANGE_TEST:
        return "Looking for the range of LRs that train at all."
    if state.directive.phase is Phase.PROBE:
        return f"Searching: trying LR {number(profile.start_lr)}, to be rolled back."
    words = {Phase.WARM_UP: "Warming up"}.get(state.directive.phase, "Training")
    lr, ends = profile.lr(0), profile.end_lr
    if profile.shape is Shape.CONSTANT or profile.start_lr == ends:
        return f"{words} at LR {number(lr)}."
    if state.directive.phase is Phase.WARM_UP:
        return f"{words} to LR {number(ends)}."
    return f"{words} at LR {number(lr)}, on its way from {number(profile.start_lr)} to {number(ends)}."


def _came(found: Timeline) -> str:
    losses = found.committed_losses()
    if len(losses) < 2:
        return ""
    n = min(FEWEST_COMPARED, len(losses) // 2)
    first, last = float(losses[:n].mean()), float(losses[-n:].mean())
    return f"The loss went from {number(first)} to {number(last)}."


def _cost(state: JobState) -> str:
    run = state.committed_steps + state.search_steps
    if not state.search_steps:
        return "No steps went into search."
    so_far = " so far" if state.status.live else ""
    return f"{share(state.search_steps, run)} of the {steps(run)}{so_far} went into search."


def why(stage: Stage) -> str:
    """Why a stage has its LR."""
    if stage.replaced:
        return (
            f"The client could not reach the server. It trained on by itself for {steps(stage.committed_steps)}, "
            f"at LR {number(stage.lr)} and falling."
            if stage.spans
            else "The client could not reach the server, and went on by itself."
        )
    if stage.directive is None:
        return _so_far(stage)
    if not stage.candidates:
        return f"No search came before it: {stage.directive.reason}."
    sentences = [_chosen(stage), _runner_up(stage), _diverged(stage.candidates), _came_true(stage)]
    return " ".join(filter(None, sentences))


def _so_far(stage: Stage) -> str:
    judged = [probe for probe in stage.probes if probe.candidate is not None]
    if not judged:
        return f"The search has begun: {stage.probes[-1].directive.reason}."
    best = stage.best
    lead = f"So far LR {number(best.lr)} leads, with loss {number(best.forecast)}." if best else "None has trained yet."
    return f"{steps_of(judged)} judged. {lead}"


def steps_of(probes: Sequence[object]) -> str:
    """`1 probe`, `3 probes`."""
    return "1 probe" if len(probes) == 1 else f"{len(probes)} probes"


def _chosen(stage: Stage) -> str:
    assert stage.decision is not None
    lr, best = stage.decision.lr, stage.best
    tried = f"{steps_of(stage.candidates)} tried LRs from {number(min(c.lr for c in stage.candidates))}"
    tried += f" to {number(max(c.lr for c in stage.candidates))}."
    if best is None:
        return f"{tried} All diverged, so LR {number(lr)}, below what was tried, is the safe choice."
    word = "forecast the lowest loss" if best.forecast_sd else "reached the lowest loss"
    found = f"LR {number(best.lr)} {word}, {number(best.forecast)}."
    if abs(lr / best.lr - 1) <= SAME_LR:
        return f"{tried} {found}"
    return f"{tried} {found} Committed was {number(lr)}: {stage.decision.reason}."


def _runner_up(stage: Stage) -> str:
    best = stage.best
    second = lowest([candidate for candidate in stage.candidates if candidate is not best])
    if best is None or second is None:
        return ""
    return f"Next came {number(second.lr)} with {number(second.forecast)}."


def _diverged(candidates: Sequence[Candidate]) -> str:
    lrs = sorted(candidate.lr for candidate in candidates if candidate.diverged)
    if not lrs or len(lrs) == len(candidates):
        return ""
    return f"Diverged: {', '.join(map(number, lrs))}."


def _came_true(stage: Stage) -> str:
    """What the winner's forecast was worth; a probe's own end is a measurement, and forecasts nothing."""
    best = stage.best
    if best is None or not best.forecast_sd:
        return ""
    actual = came_true(stage)
    if actual is None or best.forecast is None:
        return ""
    off = (actual - best.forecast) / best.forecast_sd
    direction = "above" if off > 0 else "below"
    return (
        f"{number(best.forecast)} ± {number(best.forecast_sd)} was forecast for its end; "
        f"{number(actual)} came true, {abs(off):.1f} standard errors {direction}."
    )


def came_true(stage: Stage) -> float | None:
    """What a stage's forecasts were about, the loss at its end; None: there were none, or it has not ended well."""
    if not _complete(stage) or not any(candidate.forecast_sd for candidate in stage.candidates):
        return None
    return stage.end_validation if _validated(stage) else stage.end_loss


def _complete(stage: Stage) -> bool:
    return bool(stage.spans) and stage.spans[-1].outcome is Outcome.COMPLETED and stage.spans[-1].kept


def _validated(stage: Stage) -> bool:
    """Whether its probes were judged by validation loss."""
    return any(probe.directive.validate_at for probe in stage.probes)
