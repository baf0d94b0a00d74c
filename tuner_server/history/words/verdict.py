"""Whether a job goes well, and by what that was judged."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Sequence

import numpy as np

from tuner_server.core.job.life import UNTOLD, Life, Vitals
from tuner_server.core.job.state import JobState, Status
from tuner_server.history.timeline import Timeline
from tuner_server.history.words.headline import after
from tuner_server.history.words.numbers import count, number, steps, told_apart
from tuner_server.history.words.promise import SURE_SDS, Promise
from tuner_server.storage import Series

COMPARED_SHARE = 0.1
"""This part of the committed steps so far, the last ones, is compared by its mean loss with as many before it."""
FEWEST_COMPARED = 20
"""Losses of single batches are noise: means over fewer say nothing."""
MOST_LOST = 0.1
"""An end that lost again more than this part of what the loss fell at its best is above its best."""
LEAST_KEPT_SHARE = 0.1
"""A job that ends with fewer than this part of the steps that were run, the others rolled back, did next to nothing."""
MOST_NAMED = 3
"""LRs that are named one by one."""


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


_TONES = {Life.SILENT: Tone.WARNING, Life.STOPPED: Tone.NEUTRAL, Life.ABANDONED: Tone.BAD}
"""How it is to be taken that the client of a job is not there."""


def verdict(state: JobState, found: Timeline, vitals: Vitals = UNTOLD) -> Verdict:
    """Whether a job goes well, and by what that was judged; `vitals` tells whether its client is there."""
    said, life = _with_rollback(state, _verdict(state, found)), vitals.life
    if life is None or life not in _TONES:
        return said
    # Nothing goes well, nor badly, where nobody trains.
    was = f"{said.words[0].lower()}{said.words[1:]}"
    why = f"When it was last heard of: {was}. {said.why}".strip()
    return Verdict(_TONES[life], f"{life.value.capitalize()} {vitals.since}", why)


def _with_rollback(state: JobState, said: Verdict) -> Verdict:
    """Adds to what is said of a job that a rollback failed, where one did."""
    if not state.unrepeatable:
        return said
    tone = Tone.BAD if said.tone is Tone.BAD else Tone.WARNING
    why = (
        "A rollback was not complete, so no probe tells anything: the search ended, and the training went on at the LR "
        f"that was set. The client says: {state.unrepeatable}"
    )
    return Verdict(tone, f"{said.words}; a rollback failed", f"{said.why} {why}".strip())


def _verdict(state: JobState, found: Timeline) -> Verdict:
    if state.status is Status.FAILED:
        return Verdict(Tone.BAD, "Tuning failed", "The training goes on without it, and anneals its LR.")
    if state.status is Status.CANCELLED:
        return Verdict(Tone.NEUTRAL, "Cancelled", state.message)
    if state.status is Status.FINISHED:
        return _finished(state, found)
    undoing = found.stages[-1].retreats_from if found.stages and not found.stages[-1].spans else None
    if undoing is not None and undoing.diverged:
        return Verdict(
            Tone.WARNING, "Diverged", "The committed steps diverged and are rolled back; a lower LR is next."
        )
    if undoing is not None:
        why = "The committed steps did worse than their probe had promised and are rolled back; a lower LR is next."
        return Verdict(Tone.WARNING, "Fell short", why)
    first_step = found.first_comparable_step
    losses, since = found.committed_losses(first_step), " since the LR was planned anew" if first_step else ""
    if not len(losses):
        return Verdict(Tone.NEUTRAL, "Too early to say", f"Nothing is committed yet{since}.")
    n = max(int(len(losses) * COMPARED_SHARE), FEWEST_COMPARED)
    if len(losses) < 2 * n:
        return Verdict(Tone.NEUTRAL, "Too early to say", f"{steps(len(losses))} are committed{since}.")
    change = _Change.between(losses[-2 * n : -n], losses[-n:])
    why = f"Mean of the last {steps(n)}: {change.now}; of as many before: {change.then}."
    if change.fell:
        return Verdict(Tone.GOOD, "Loss is falling", why)
    if change.rose:
        return Verdict(Tone.WARNING, "Loss is rising", why)
    return Verdict(Tone.NEUTRAL, "Loss is level", why)


def _finished(state: JobState, found: Timeline) -> Verdict:
    undone = state.given_back_steps
    if undone and state.committed_steps < LEAST_KEPT_SHARE * state.run_steps:
        why = f"{count(undone)} of {steps(state.run_steps)} were rolled back{after(found.stages)}."
        return Verdict(Tone.BAD, "Finished, with nearly nothing", why)
    promise, losses = Promise.of(found), found.committed_losses(found.first_comparable_step)
    n = min(FEWEST_COMPARED, len(losses) // 2)
    if n:
        change = _Change.between(losses[:n], losses[-n:])
        if not change.fell:
            why = f"Mean of the last {steps(n)}: {change.now}; of the first: {change.then}."
            return Verdict(Tone.BAD, "Finished, not lower", _with_undone(why, found))
    if promise is not None and not promise.kept:
        why = _with_undone(promise.words, found)
        worse = "below" if promise.of_metric else "above"
        return Verdict(Tone.BAD, f"Finished {worse} what its search promised", why)
    if n:
        best = _lowest_row(losses, n)
        lost = _Change.between(best, losses[-n:])
        if lost.rose and lost.difference > MOST_LOST * (_mean(losses[:n]) - _mean(best)):
            why = f"Mean of the last {steps(n)}: {lost.now}; of the best: {lost.then}."
            return Verdict(Tone.WARNING, "Finished, above its best", why)
    return _well(state, found, promise)


def _well(state: JobState, found: Timeline, promise: Promise | None) -> Verdict:
    """The verdict on an end that nothing is to be said against."""
    if found.unsearched is not None:
        # Why there was none, the headline says, which stands beside this wherever a job is told.
        return Verdict(Tone.NEUTRAL, "Finished, without a search", _with_undone("", found))
    if promise is None:
        spent = "The budget is spent." if state.total_steps else ""
        return Verdict(Tone.GOOD, "Finished", _with_undone(spent, found))
    undone = any(stage.undoing is not None for stage in found.stages)
    lower = ", at a lower LR" if undone else ""
    return Verdict(Tone.GOOD, f"Finished, as promised{lower}", _with_undone(promise.words, found))


def _with_undone(why: str, found: Timeline) -> str:
    """Adds a sentence on the LRs that had been committed, and were rolled back."""
    undone = [stage.undoing for stage in found.stages if stage.undoing is not None]
    sentences = [why]
    for diverged, what in ((False, "fallen short"), (True, "diverged")):
        lrs = [undoing.lr for undoing in undone if undoing.diverged is diverged]
        if lrs:
            sentences.append(_named(lrs, what))
    return " ".join(filter(None, sentences))


def _named(lrs: Sequence[float | None], what: str) -> str:
    """Such as `LRs 0.3 and 0.095 had fallen short before, and were rolled back.`; of very many, how many."""
    if len(lrs) > MOST_NAMED:
        return f"{count(len(lrs))} LRs had {what} before, and were rolled back."
    *others, last = map(number, lrs)
    named = f"LRs {', '.join(others)} and {last}" if others else f"LR {last}"
    return f"{named} had {what} before, and {'were' if others else 'was'} rolled back."


def _mean(losses: Series) -> float:
    return float(losses.mean(dtype=np.float64))


def _lowest_row(losses: Series, n: int) -> Series:
    """The row with the lowest mean of the losses, cut into rows of n from the end."""
    rows = losses[len(losses) % n :].reshape(-1, n)
    lowest: Series = rows[rows.mean(axis=1, dtype=np.float64).argmin()]
    return lowest


@dataclasses.dataclass(frozen=True, slots=True)
class _Change:
    """From one mean of losses to another."""

    difference: float
    error: float
    then: str
    now: str

    @classmethod
    def between(cls, before: Series, after: Series) -> _Change:
        """The change between two runs of losses, equally long."""
        means = _mean(before), _mean(after)
        # What is compared are means over noise that two batches don't share; a trend within each only widens the bar.
        error = float(np.sqrt((before.var(dtype=np.float64) + after.var(dtype=np.float64)) / len(before)))
        return cls(means[1] - means[0], error, *told_apart(*means))

    @property
    def fell(self) -> bool:
        """Whether the later one is lower, beyond the noise."""
        return self.difference < -SURE_SDS * self.error

    @property
    def rose(self) -> bool:
        """Whether it is higher, beyond the noise."""
        return self.difference > SURE_SDS * self.error
