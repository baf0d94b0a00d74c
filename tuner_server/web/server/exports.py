"""The files that can be downloaded: the schedule as `lrpilot export` writes it, and the numbers of every step."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote

from lrpilot.wire import schedule_file
from lrpilot.wire.plain_text import REPLACEMENT, plain

from tuner_server.history.schedule_data import data_of_schedule
from tuner_server.history.stage import Span
from tuner_server.history.timeline import Timeline
from tuner_server.storage import Entry, StoredJob

COLUMNS = ("step", "committed_step", "stage", "phase", "committed", "lr", "loss", "validation_loss", "outcome")
"""`step` counts all steps that were run, from 1; `committed_step` counts those that stayed, and is empty for others.
`outcome` is the outcome of the report that the step was in. Then comes a column for each measure of the job."""
LONGEST_STEM = 100
"""Characters of a title that are in the name of a file: with an ending, in UTF-8, any file system has room for them."""
_NO_FILE_NAME = re.compile(rf"^\.+|[/\\:*?\"<>|{REPLACEMENT}]")
"""What leads elsewhere, hides the file, or is refused by some system."""
_DEVICE = re.compile(r"(?i)(?:con|prn|aux|nul|com\d|lpt\d)(?:\.|$)")
"""What Windows takes for a device."""
ROWS_AT_ONCE = 2000
"""Rows that are written to the network together."""


def attachment(title: str, name: str) -> dict[str, str]:
    """The header that has an answer saved as a file (RFC 6266), by a name that any system takes.

    Args:
        title: what the file is about, whatever is in it.
        name: how its name ends.
    """
    stem = plain(title)[:LONGEST_STEM]
    stem = _NO_FILE_NAME.sub("-", f"job-{stem}" if _DEVICE.match(stem) else stem)
    known_to_all = "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "-" for c in stem)
    value = f'attachment; filename="{known_to_all}-{name}"'
    if not stem.isascii():
        value += f"; filename*=UTF-8''{quote(f'{stem}-{name}', safe='')}"
    return {"Content-Disposition": value}


def schedule_text(job: StoredJob, entries: Sequence[Entry]) -> str:
    """The schedule with its history, which `lrpilot.Schedule.load` reads."""
    return schedule_file.dumps(data_of_schedule(job, entries))


def data_csv(found: Timeline) -> Iterator[str]:
    """The steps as CSV, a line each, under a head; a loss that is no number reads `nan` or `inf`."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    measures = _measures(found)
    writer.writerow([*COLUMNS, *measures])
    for i, row in enumerate(_rows(found, measures)):
        writer.writerow(row)
        if i % ROWS_AT_ONCE == ROWS_AT_ONCE - 1:
            yield buffer.getvalue()
            buffer.seek(0)
            buffer.truncate()
    yield buffer.getvalue()


def data_json(job: StoredJob, found: Timeline) -> Iterator[str]:
    """The steps as one JSON object: what the job is, the names of the columns, and a row a step."""
    config = job.state.config.model_dump(mode="json")
    measures = _measures(found)
    changes = [
        {"step": mark.step, **mark.change.model_dump(mode="json"), "undone": mark.undone} for mark in found.changes
    ]
    head = {
        "job": job.id,
        "status": job.state.status,
        "config": config,
        "plan_changes": changes,
        "columns": [*COLUMNS, *measures],
    }
    yield json.dumps(head)[:-1] + ', "rows": ['
    rows: list[str] = []
    comma = ""
    for row in _rows(found, measures):
        rows.append(json.dumps([_json_number(value) for value in row]))
        if len(rows) == ROWS_AT_ONCE:
            yield comma + ",\n".join(rows)
            rows, comma = [], ",\n"
    yield (comma if rows else "") + ",\n".join(rows) + "]}\n"


def _measures(found: Timeline) -> list[str]:
    """The names of all measures that some report has."""
    return sorted({name for span in found.spans for name in span.measures})


def _rows(found: Timeline, measures: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    for span in found.spans:
        yield from _span_rows(span, measures)


def _span_rows(span: Span, measures: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    validations = {validation.step: validation.loss for validation in span.validations}
    for i, loss in enumerate(span.losses.tolist()):
        committed_step = span.committed_start + i + 1 if span.kept else None
        lr, validation = span.profile.lr(i), validations.get(i + 1)
        steps = span.start + i + 1, committed_step, span.stage, span.phase.value, int(span.kept)
        measured = (span.measures[name][i] if name in span.measures else None for name in measures)
        yield *steps, lr, loss, validation, span.outcome.value, *measured


def _json_number(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
