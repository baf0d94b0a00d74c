"""A stored job's schedule, as the data of the file that clients save and load."""

from __future__ import annotations

import array
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import overload

import numpy as np
from lrpilot.wire import schedule_data, unsearched
from lrpilot.wire.schedule_data import ScheduleData

from tuner_server.core.job.state import JobState
from tuner_server.core.messages import Directive, Outcome, Phase, Validation
from tuner_server.history.plan_mark import overlooked
from tuner_server.storage import History, Series, StoredJob, StoredReport

MEASURES_AT_ONCE = 128 * 2**20
"""Bytes of the measures of a schedule that are in memory at a time: eight measures of four million steps."""


def data_of_schedule(job: StoredJob, history: History) -> ScheduleData:
    """What was committed, with its losses, and the probes. Its series are arrays, measures of long runs read later."""
    state = job.state
    outline = history.outline
    segments = outline.segments
    losses = array.array("f")
    validations: list[schedule_data.Validation] = []
    probes: list[schedule_data.Probe] = []
    replans: list[schedule_data.Replan] = []
    measures = _CommittedMeasures(history)
    for entry, kept in zip(history.read(losses=True, measures=True), outline.kept, strict=True):
        directive, report = entry.directive, entry.report
        if (change := directive.change) is not None and not overlooked(entry):
            end, step = change.total_steps, len(losses)
            replans.append(schedule_data.Replan(step, change.kind, change.origin, end, change.reason))
        if kept and report is not None:
            validations += _validations(report.validations, len(losses))
            losses.frombytes(_bytes(report.losses))
            measures.add(report)
        elif directive.phase.searches and (report is None or report.outcome is not Outcome.REPLACED):
            probes.append(_probe(directive, report, len(losses)))
        # What is left was committed once, and rolled back.
    found = ScheduleData(
        job_id=job.id,
        name=state.config.name,
        policy=state.config.policy,
        base_lrs=(state.config.base_lr,),
        total_steps=state.total_steps,
        segments=segments,
        losses=losses,
        validations=tuple(validations),
        probes=tuple(probes),
        unsearched=unsearched.was_unsearched(state, segments, begins_unsearched=_begins_unsearched(state)),
        unrepeatable=state.unrepeatable,
        ending=None if state.ending is None else schedule_data.Ending(**dict(state.ending)),
        replans=tuple(replans),
        measures=measures.measured(),
    )
    return found.turned() if state.config.maximises else found


def _begins_unsearched(state: JobState) -> bool:
    directive = state.directive
    return unsearched.begins_unsearched(
        directive.number,
        directive.n_steps,
        directive.stage + 1,
        state.config.total_steps,
        trains=directive.phase is Phase.TRAIN,
    )


def _probe(directive: Directive, report: StoredReport | None, start_step: int) -> schedule_data.Probe:
    """A probe; one that is outstanding has no steps yet."""
    assert directive.profile is not None
    return schedule_data.Probe(
        start_step=start_step,
        n_steps=0 if report is None else report.n_steps,
        profile=directive.profile,
        phase=directive.phase,
        stage=directive.stage + 1,
        losses=array.array("f", b"" if report is None else _bytes(report.losses)),
        validations=() if report is None else tuple(_validations(report.validations)),
        diverged=report is not None and report.outcome is Outcome.DIVERGED,
    )


def _bytes(losses: Series | None) -> bytes:
    return b"" if losses is None else losses.tobytes()


def _validations(validations: Iterable[Validation], start_step: int = 0) -> Iterable[schedule_data.Validation]:
    return (schedule_data.Validation(start_step + v.step, v.loss) for v in validations)


class _CommittedMeasures:
    """The measures of the committed steps of a history: in memory where they fit, and read when needed where not."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._lengths: dict[str, int] = {}
        """By name, the steps from the first one on to the last one that has the measure."""
        self._loaded: dict[str, array.array[float]] = {}
        self._n_steps = 0

    def add(self, report: StoredReport) -> None:
        """Takes a report on committed steps. They are to be told in order."""
        self._lengths |= dict.fromkeys(report.measures, self._n_steps + report.n_steps)
        if self.fits:
            _add(self._loaded, report.measures, self._n_steps)
        else:
            self._loaded = {}
        self._n_steps += report.n_steps

    @property
    def fits(self) -> bool:
        """Whether all of them are in memory."""
        return _n_bytes(self._lengths.values()) <= MEASURES_AT_ONCE

    def measured(self) -> tuple[schedule_data.Measured, ...]:
        """The measures by name."""
        names = sorted(self._lengths)
        return tuple(schedule_data.Measured(name, _LaterSeries(self, name, self._lengths[name])) for name in names)

    def values(self, name: str) -> array.array[float]:
        """One value for every step, NaN where a step has none."""
        if name not in self._loaded:
            self._loaded = {}
            later = [other for other in sorted(self._lengths) if other >= name]
            fitting = [n for n in range(1, len(later) + 1) if self._bytes_of(later[:n]) <= MEASURES_AT_ONCE]
            self._loaded = self._read(later[: max(fitting, default=1)])
        return self._loaded[name]

    def _bytes_of(self, names: Iterable[str]) -> int:
        return _n_bytes(self._lengths[name] for name in names)

    def _read(self, names: Sequence[str]) -> dict[str, array.array[float]]:
        found: dict[str, array.array[float]] = {}
        n_steps = 0
        kept = self._history.outline.kept
        for entry in itertools.compress(self._history.read(losses=True, measures=True), kept):
            assert entry.report is not None
            measures = entry.report.measures
            _add(found, {name: measures[name] for name in names if name in measures}, n_steps)
            n_steps += entry.report.n_steps
        return found


def _n_bytes(lengths: Iterable[int]) -> int:
    return np.dtype(np.float32).itemsize * sum(lengths)


def _add(found: dict[str, array.array[float]], measures: Mapping[str, Series], n_steps: int) -> None:
    """Adds what was measured after so many steps."""
    for name, values in measures.items():
        one = found.setdefault(name, array.array("f"))
        one.frombytes(np.full(n_steps - len(one), np.nan, dtype=np.float32).tobytes())
        one.frombytes(values.tobytes())


class _LaterSeries(Sequence[float]):
    """The values of a measure, which are read when they are gone through."""

    def __init__(self, measures: _CommittedMeasures, name: str, length: int) -> None:
        self._measures, self._name, self._length = measures, name, length

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[float]:
        return iter(self._measures.values(self._name))

    @overload
    def __getitem__(self, index: int) -> float: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[float]: ...

    def __getitem__(self, index: int | slice) -> float | Sequence[float]:
        return self._measures.values(self._name)[index]
