"""What a job did, in a few sentences: for whoever opens its page and has five seconds."""

from __future__ import annotations

from collections.abc import Sequence

from tuner_server.core.job.state import JobState, Status
from tuner_server.core.messages import Directive, Phase
from tuner_server.history.stage import Stage
from tuner_server.history.timeline import Timeline
from tuner_server.history.words import lr_way
from tuner_server.history.words.changes import mark_sentence, waiting
from tuner_server.history.words.ending import ended_with
from tuner_server.history.words.numbers import count, number, share, steps, told_apart


def headline(state: JobState, found: Timeline, *, left_alone: bool = False) -> str:
    """What the job did so far: its LR, its loss, what the search cost.

    Args:
        state: where it is.
        found: how it came there.
        left_alone: whether its client is not there, so that nothing that it was doing is certain to go on.
    """
    doing = _doing(state)
    said = (
        f"It was {doing[0].lower()}{doing[1:]}" if left_alone and state.status.live else doing,
        _way(state, found),
        _loss(state, found),
        ended_with(state.ending, of_metric=state.config.maximises),
        _cost(state, found),
        _plan(state, found),
    )
    return " ".join(filter(None, said))


def _doing(state: JobState) -> str:
    match state.status:
        case Status.FAILED:
            return f"Tuning failed after {steps(state.committed_steps)}: {state.message}."
        case Status.CANCELLED:
            return f"Tuning was cancelled after {steps(state.committed_steps)}."
        case Status.FINISHED:
            return f"Finished after {steps(state.committed_steps)}."
    directive = state.directive
    profile = directive.profile
    assert profile is not None
    match directive.phase:
        case Phase.RANGE_TEST:
            return "Looking for the range of LRs that train at all."
        case Phase.PROBE:
            return f"Searching: trying LR {number(profile.start_lr)}, to be rolled back."
        case Phase.WARM_UP:
            return f"Warming up to LR {number(profile.end_lr)}."
    return f"Training at LR {number(profile.lr(0))}{lr_way.onward(profile)}."


def _way(state: JobState, found: Timeline) -> str:
    """What the LR did in the steps that stayed."""
    stages = [stage for stage in found.stages if stage.committed_steps and not _warms_up(stage)]
    if not stages:
        peak = found.peak_lr
        return "" if peak is None or state.status.live else f"The LR rose to {number(peak)}."
    if len(stages) > 1:
        return _ways(state, stages)
    if not state.status.live:
        return _one_way(stages[0])
    # Of a job that trains, where the LR is, and where it goes, was said.
    return "" if state.directive.phase is Phase.TRAIN else f"1 stage so far, at LR {number(stages[0].lr)}."


def led_to(found: Timeline) -> str:
    """How many probes led to the latest LR, and which LRs they tried, as a sentence; empty: none did."""
    searched = next((stage for stage in reversed(found.stages) if stage.lr is not None and stage.candidates), None)
    if searched is None or searched.undoing is not None:
        return ""
    lrs = sorted(candidate.lr for candidate in searched.candidates)
    if len(lrs) < 2:
        return ""
    latest = "the latest " if sum(bool(stage.candidates) for stage in found.stages) > 1 else ""
    words = f"{latest}{count(len(lrs))} probes, of LRs from {number(lrs[0])} to {number(lrs[-1])}, led to "
    return f"{words[0].upper()}{words[1:]}{number(searched.lr)}."


def _warms_up(stage: Stage) -> bool:
    return stage.directive is not None and stage.directive.phase is Phase.WARM_UP


def _one_way(stage: Stage) -> str:
    """The LR's way in a single stage, as far as it came."""
    if len(stage.lrs) > 1:
        return f"The LR went from {_between([*stage.lrs[:-1], _end(stage)])}."
    return lr_way.so_far(stage.spans[0].profile, stage.committed_steps, _end(stage))


def _ways(state: JobState, stages: list[Stage]) -> str:
    """The LR's way over several stages: from where to where, and how far it went beyond."""
    so_far = " so far" if state.status.live else ""
    words = f"{len(stages)} stages{so_far}: LR {_between([lr for stage in stages for lr in stage.lrs])}"
    profile = stages[-1].spans[-1].profile
    way = f"{number(_end(stages[-1]))} {profile.shape.way.words}"
    if lr_way.falls(profile) and not state.status.live:
        words += f"; in the last it fell to {way}"
    elif lr_way.rises(profile) and not state.status.live:
        words += f"; in the last it rose from {number(profile.start_lr)} to {way}"
    return f"{words}."


def _between(lrs: Sequence[float]) -> str:
    """The way of the LR from the first to the last, and how far it went beyond."""
    first, last, low, high = lrs[0], lrs[-1], min(lrs), max(lrs)
    towards = "down to" if last < first else "up to" if last > first else "and again"
    words = f"{number(first)} {towards} {number(last)}"
    if low < min(first, last) or high > max(first, last):
        words += f", between {number(low)} and {number(high)}"
    return words


def _end(stage: Stage) -> float:
    """The LR that a stage came to."""
    span = [span for span in stage.spans if span.kept][-1]
    ended = span.profile.offset + span.n_steps >= span.profile.length
    return span.profile.last_lr if ended else span.profile.lr(span.n_steps - 1)


def _loss(state: JobState, found: Timeline) -> str:
    """What the loss did, by the two numbers of its card."""
    if found.first_loss is None or state.last_loss is None:
        return ""
    first, last = told_apart(found.first_loss, state.last_loss)
    return f"The loss went from {first} to {last}."


def _cost(state: JobState, found: Timeline) -> str:
    run = state.run_steps
    if found.unsearched is not None:
        words = f"No search: {_too_short(found.unsearched, state)}."
    elif not run:
        return "No steps have been reported yet."
    elif state.probe_steps:
        so_far = " so far" if state.status.live else ""
        words = f"{share(state.probe_steps, run)} of the {steps(run)}{so_far} went into search."
    else:
        words = "No steps went into search."
    if state.unrepeatable:
        words += " The search ended there, as a rollback failed."
    if state.given_back_steps:
        words += f" {rolled_back(state.given_back_steps, found.stages)}"
    return words


def _plan(state: JobState, found: Timeline) -> str:
    """The latest change of the plan, how many there were, and what waits."""
    sentences = waiting(state)
    if found.changes:
        times = len(found.changes)
        often = f" It was the last of {count(times)} changes." if times > 1 else ""
        sentences.insert(0, f"{mark_sentence(found.changes[-1])}{often}")
    return " ".join(sentences)


def _too_short(unsearched: Directive, state: JobState) -> str:
    """Why a run has no search: `400 steps are too few for one, so the LR decays from the 0.1 that was set`."""
    profile = unsearched.profile
    assert profile is not None
    verb = lr_way.verb(profile, lr_way.DECAY)
    way = verb.present if state.status.live else verb.past
    lr = number(profile.start_lr)
    if profile.start_lr == state.config.base_lr:
        lr = f"the {lr} that was set"
    return f"{steps(unsearched.n_steps)} are too few for one, so the LR {way} {lr}"


def rolled_back(n_steps: int, stages: Sequence[Stage]) -> str:
    """Such as `12 steps were rolled back after a divergence.`, as a sentence."""
    return f"{steps(n_steps)} {'was' if n_steps == 1 else 'were'} rolled back{after(stages)}."


def after(stages: Sequence[Stage]) -> str:
    """Such as ` after a divergence and 2 broken promises`; empty if nothing was rolled back in these stages."""
    found = [stage.undoing for stage in stages if stage.undoing is not None]
    n_diverged = sum(undoing.diverged for undoing in found)
    causes = [
        one if n == 1 else f"{count(n)} {several}"
        for n, one, several in (
            (n_diverged, "a divergence", "divergences"),
            (len(found) - n_diverged, "a broken promise", "broken promises"),
            (sum(stage.undone_annealing for stage in stages), "an undone annealing", "undone annealings"),
        )
        if n
    ]
    return f" after {' and '.join(causes)}" if causes else ""
