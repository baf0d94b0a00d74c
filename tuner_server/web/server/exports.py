"""The files that can be downloaded: the schedule as `lrpilot export` writes it, and the numbers of every step."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import numpy as np
from lrpilot.wire import schedule_file
from lrpilot.wire.text.plain_text import REPLACEMENT, plain

from tuner_server.core.config import JobConfig
from tuner_server.history.schedule_data import data_of_schedule
from tuner_server.history.stage import Span
from tuner_server.history.timeline import laid_out, plan_marks
from tuner_server.storage import History, Series, StoredJob

COLUMNS = ("step", "committed_step", "stage", "phase", "committed", "lr", "loss", "validation_loss", "outcome")
"""`step` counts all steps that were run, from 1; `committed_step` counts those that stayed, and is empty for others.
`outcome` is the outcome of the report that the step was in. Then comes a column for each measure of the job."""
METRIC_COLUMN = "validation_metric"
"""The head of the column of validations where they are of a metric that is the better the higher."""
LONGEST_STEM = 100
"""Characters of a title that are in the name of a file: with an ending, in UTF-8, any file system has room for them."""
_NO_FILE_NAME = re.compile(rf"^\.+|[/\\:*?\"<>|{REPLACEMENT}]")
"""What leads elsewhere, hides the file, or is refused by some system."""
_NO_BEGINNING = re.compile(r"(?i)-|(?:con|prn|aux|nul|com[\d¹²³]|lpt[\d¹²³]|conin\$|conout\$) *(?:\.|$)")
"""What programs take for an option, and Windows for a device."""
ROWS_AT_ONCE = 2000
"""Rows that are made together."""
CHARACTERS_AT_ONCE = 64 * 2**10
"""The least that is written to the network together."""


def attachment(title: str, name: str) -> dict[str, str]:
    """The header that has an answer saved as a file (RFC 6266), by a name that any system takes.

    Args:
        title: what the file is about, whatever is in it.
        name: how its name ends.
    """
    stem = _NO_FILE_NAME.sub("-", plain(title)[:LONGEST_STEM]) or "job"
    if _NO_BEGINNING.match(stem):
        stem = f"job{'' if stem.startswith('-') else '-'}{stem}"
    known_to_all = "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "-" for c in stem)
    if known_to_all.startswith("-"):
        known_to_all = f"job{known_to_all}"
    value = f'attachment; filename="{known_to_all}-{name}"'
    if not stem.isascii():
        value += f"; filename*=UTF-8''{quote(f'{stem}-{name}', safe='')}"
    return {"Content-Disposition": value}


def schedule_text(job: StoredJob, history: History) -> Iterator[str]:
    """The schedule with its history, which `lrpilot.Schedule.load` reads."""
    # A generator itself: nothing is read before the first part is asked for, in the thread that it is asked for in.
    yield from gathered(schedule_file.chunks(data_of_schedule(job, history)))


def gathered(texts: Iterable[str]) -> Iterator[str]:
    """A text in parts of some ten kilobytes: one part has a cost of its own on its way."""
    parts: list[str] = []
    size = 0
    for text in texts:
        parts.append(text)
        size += len(text)
        if size >= CHARACTERS_AT_ONCE:
            yield "".join(parts)
            parts, size = [], 0
    yield "".join(parts)


def _columns(config: JobConfig) -> tuple[str, ...]:
    """`COLUMNS`, where what is validated is called what it is."""
    if not config.maximises:
        return COLUMNS
    return tuple(METRIC_COLUMN if name == "validation_loss" else name for name in COLUMNS)


def data_csv(job: StoredJob, history: History) -> Iterator[str]:
    """The steps as CSV, a line each, under a head; a loss that is no number reads `nan` or `inf`."""
    config, measures = job.state.config, _measures(history)
    yield _csv([(*_columns(config), *measures)])
    yield from gathered(map(_csv, _rows(history, config, measures, np.ndarray.tolist)))


def _csv(rows: Iterable[Sequence[Any]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()


def data_json(job: StoredJob, history: History) -> Iterator[str]:
    """The steps as one JSON object: what the job is, the names of the columns, and a row a step."""
    config = job.state.config.model_dump(mode="json")
    measures = _measures(history)
    changes = [
        {"step": mark.step, **mark.change.model_dump(mode="json"), "undone": mark.undone}
        for mark in plan_marks(history)
    ]
    head = {
        "job": job.id,
        "status": job.state.status,
        "config": config,
        "plan_changes": changes,
        "columns": [*_columns(job.state.config), *measures],
    }
    yield json.dumps(head)[:-1] + ', "rows": ['
    yield from gathered(_json_rows(history, job.state.config, measures))
    yield "]}\n"


def _json_rows(history: History, config: JobConfig, measures: Sequence[str]) -> Iterator[str]:
    between = ""
    for rows in _rows(history, config, measures, _json_numbers):
        # No word in a row has a bracket.
        text = json.dumps(rows)
        yield between + text[1:-1].replace("], [", "],\n[")
        between = ",\n"


def _measures(history: History) -> list[str]:
    """The names of all measures that some report has."""
    if not any(entry.directive.measures for entry in history.read()):
        return []  # which is soon known
    entries = history.read(losses=True, measures=True)
    return sorted({name for entry in entries if entry.report is not None for name in entry.report.measures})


def _rows(
    history: History, config: JobConfig, measures: Sequence[str], numbers: Callable[[Series], list[Any]]
) -> Iterator[list[tuple[Any, ...]]]:
    """The rows of all steps, some thousand at a time; `numbers` writes a column that may have any number."""
    for laid in laid_out(history, measures=bool(measures)):
        if laid.span is not None:
            assert laid.entry.report is not None
            validations = {each.step: config.metric(each.loss) for each in laid.span.validations}
            yield from _span_rows(laid.span, validations, laid.entry.report.measures, measures, numbers)


def _span_rows(
    span: Span,
    validations: Mapping[int, float | None],
    measured: Mapping[str, Series],
    measures: Sequence[str],
    numbers: Callable[[Series], list[Any]],
) -> Iterator[list[tuple[Any, ...]]]:
    lr = span.profile.lr
    for first in range(0, span.n_steps, ROWS_AT_ONCE):
        end = min(first + ROWS_AT_ONCE, span.n_steps)
        n = end - first
        start, committed = span.start + first + 1, span.committed_start + first + 1
        columns: list[Iterable[Any]] = [
            range(start, start + n),
            range(committed, committed + n) if span.kept else itertools.repeat(None, n),
            *(itertools.repeat(value, n) for value in (span.stage + 1, span.phase.value, int(span.kept))),
            itertools.repeat(lr(first), n) if span.profile.stands else map(lr, range(first, end)),
            numbers(span.losses[first:end]),
            map(validations.get, range(first + 1, end + 1)) if validations else itertools.repeat(None, n),
            itertools.repeat(span.outcome.value, n),
            *(
                numbers(measured[name][first:end]) if name in measured else itertools.repeat(None, n)
                for name in measures
            ),
        ]
        yield list(zip(*columns, strict=True))


def _json_numbers(values: Series) -> list[Any]:
    """Numbers as JSON has them: those that are none as strings."""
    found: list[Any] = values.tolist()
    if np.isfinite(values).all():
        return found
    return [number if math.isfinite(number) else str(number) for number in found]
