"""The numbers of a job's page, each with its name. Pure."""

from __future__ import annotations

import dataclasses
import math

from tuner_server.core.config import StopWhen
from tuner_server.core.job.life import Vitals
from tuner_server.core.job.state import JobState
from tuner_server.core.messages import LOSS_WINDOW, Phase
from tuner_server.core.stages import lr_range
from tuner_server.history.timeline import Timeline
from tuner_server.history.words.headline import after
from tuner_server.history.words.numbers import count, duration, moment, number, share, steps
from tuner_server.storage import StoredJob
from tuner_server.web.pages.listing import current_lr
from tuner_server.web.pages.pace import Pace

NEARLY_ZERO = 0.01
"""An LR below this part of the peak is nearly zero: the last step of a decay to zero is one step short of it."""
LONGEST_OPTION = 100
"""The most characters of an option's value that are shown."""
PRIOR_SDS = 2.0
"""The range that earlier jobs speak for reaches so many standard deviations to either side: some 95 of 100 jobs."""


@dataclasses.dataclass(frozen=True, slots=True)
class Fact:
    """A number with its name."""

    name: str
    value: str
    note: str = ""


def facts(job: StoredJob, found: Timeline, vitals: Vitals) -> tuple[Fact, ...]:
    """The numbers at the head of the page."""
    state, run, total = job.state, job.state.run_steps, job.state.total_steps
    progress = Fact("Steps run", count(run), "no end is set")
    if total is not None:
        progress = Fact("Progress", share(run, total), f"{count(run)} of {count(total)} steps")
    loss = Fact("Loss", number(state.last_loss), f"mean of the last {LOSS_WINDOW} committed")
    if state.last_loss is not None and found.first_loss is not None:
        loss = dataclasses.replace(loss, note=f"from {number(found.first_loss)} at the start")
    best = Fact("Best loss", number(state.best_loss), f"lowest mean of {LOSS_WINDOW} in a row")
    validation = Fact("Best validation", number(state.config.metric(state.best_validation)), "none so far")
    if state.best_validation is not None:
        validation = dataclasses.replace(validation, note=f"now {number(state.config.metric(state.last_validation))}")
    return progress, _time(state, vitals), _lr(job, found, vitals), loss, best, validation, _search(state, found)


def _time(state: JobState, vitals: Vitals) -> Fact:
    """How long it still takes; of a job that nobody trains, how long it trained."""
    pace = Pace.of(state)
    at = f"at {pace.words}" if pace.words else ""
    if not state.status.live or vitals.troubled:
        return Fact("Training time", duration(state.wall_time_s), at)
    if pace.left:
        return Fact("Time left", pace.left, at)
    return Fact("Time left", "–", at or "told with the first report")


def _lr(job: StoredJob, found: Timeline, vitals: Vitals) -> Fact:
    peak = found.peak_lr
    if not job.state.status.live:
        return Fact("Peak LR", number(peak), _last_lr(found))
    now = current_lr(job)
    name = "Last LR" if vitals.troubled else "LR now"
    if job.state.directive.phase is Phase.PROBE:
        return Fact(name, number(now), "on trial")
    above = peak is not None and now is not None and peak > now
    return Fact(name, number(now), f"at most {number(peak)} so far" if above else "")


def _last_lr(found: Timeline) -> str:
    peak, last = found.peak_lr, found.last_lr
    if peak is None or last is None:
        return "no step was committed"
    return "nearly 0 at the end" if last < NEARLY_ZERO * peak else f"{number(last)} at the end"


def _search(state: JobState, found: Timeline) -> Fact:
    value, note = share(state.probe_steps, state.run_steps), f"{steps(state.probe_steps)}, rolled back"
    if found.unsearched is not None:
        value, note = "none", "the run is too short for one"
    elif found.stages and all(stage.trained_unsought for stage in found.stages):
        value, note = "none", "no LR was tried"
    if state.unrepeatable:
        note += "; it ended, as a rollback failed"
    if state.given_back_steps:
        more = "" if found.unsearched else "more "
        note += f"; {count(state.given_back_steps)} {more}rolled back{after(found.stages)}"
    return Fact("Search", value, note)


def _bounds(state: JobState, found: Timeline) -> str:
    """The bounds, and where they come from if they were not given."""
    if state.bounds is None:
        return "not known yet" if state.config.lr_bounds else "not known yet, by a range test"
    bounds = f"{number(state.bounds.min)} to {number(state.bounds.max)}"
    if state.config.lr_bounds is not None:
        return bounds
    tested = any(span.phase is Phase.RANGE_TEST for span in found.spans)
    if state.bounds != lr_range.blind(state.config):
        return f"{bounds}, by a range test" if tested else bounds
    return f"{bounds}, around the LR that was set{', as a range test told nothing' if tested else ''}"


def _prior(state: JobState) -> str:
    """What earlier jobs of its family told of the best LR, as a sentence; empty: there were none."""
    prior = state.prior
    if prior is None:
        return ""
    spread = PRIOR_SDS * prior.sd
    around, low, high = (number(math.exp(prior.log_lr + x)) for x in (0.0, -spread, spread))
    jobs = "1 earlier job" if prior.n_jobs == 1 else f"{count(prior.n_jobs)} earlier jobs"
    return (
        f"{jobs} found the best LR over {steps(prior.probe_steps)} around {around}, so that of this job was expected "
        f"between {low} and {high}."
    )


def _shown(value: object) -> str:
    """An option's value; a shape of lines through many points has a text that fills the page."""
    text = str(value)
    return text if len(text) <= LONGEST_OPTION else f"{text[:LONGEST_OPTION]}…"


def details(job: StoredJob, found: Timeline) -> tuple[Fact, ...]:
    """The numbers at its foot."""
    state, config = job.state, job.state.config
    options = ", ".join(f"{name}={_shown(value)}" for name, value in sorted(config.policy_options.items()))
    told = {
        "Job": job.id,
        "Project": job.project,
        "Family": config.family or "–",
        "Policy": f"{config.policy} ({options})" if options else config.policy,
        "LR as it was set": number(config.base_lr),
        "LR bounds": _bounds(state, found),
        "Seed": str(config.seed),
        "Training time": duration(state.wall_time_s),
        "Created": moment(job.create_time),
        "Last report": moment(job.update_time),
        "Last sign of its client": moment(job.signs.sign_time),
    }
    if config.stop_when is not None:
        told["Worth going on for"] = _worth(config.stop_when)
    if prior := _prior(state):
        told["Told by its family"] = prior
    if state.message:
        told["Message"] = state.message
    return tuple(Fact(name, value) for name, value in told.items())


def _worth(stop_when: StopWhen) -> str:
    """What was given as `stop_when`."""
    if stop_when.share is None:
        return f"{number(stop_when.gain)} of the validation loss"
    return f"{number(100 * stop_when.share)}% of what it has gained"
