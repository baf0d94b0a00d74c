from __future__ import annotations

import dataclasses
import json
import math
import re

import numpy as np
import pytest

from tests.support.jobs.broken_promises import DEADLY_TWICE, DyingTraining
from tests.support.jobs.sample_jobs import history, job_config
from tests.support.jobs.simulated_training import QUICK, SimulatedTraining, config, drive
from tuner_server.core.messages import Outcome, Phase
from tuner_server.history.thinning import FloatArray, Window
from tuner_server.history.timeline import Timeline, timeline
from tuner_server.web.charts.curves import Line, job_curves
from tuner_server.web.charts.drawing import overview, sparkline


@pytest.fixture(scope="module")
def found() -> Timeline:
    """A job one of whose probes diverges."""
    return timeline(history(drive(job_config("job"), SimulatedTraining(validates=True))))


def _known(line: Line) -> list[float]:
    return [y for y in line["y"] if y is not None]


def test_committed_and_search_steps_are_told_apart(found: Timeline) -> None:
    curves = job_curves(found, Window(0, found.n_steps, 5000))
    (band,) = curves["stages"]
    committed = [x for x in curves["committed_loss"]["x"] if x is not None]
    searched = [x for x in curves["search_loss"]["x"] if x is not None]
    assert max(searched) == band["start"]
    assert min(committed) == band["start"] + 1
    assert max(committed) == band["end"] == found.n_steps
    assert len(committed) + len(searched) == found.n_steps, "with more buckets than steps all are there"


def test_lrs_are_those_that_were_run(found: Timeline) -> None:
    curves = job_curves(found, Window(0, found.n_steps, 500))
    lrs = {span.start + 1 + i: span.profile.lr(i) for span in found.spans for i in range(span.n_steps)}
    for line in (curves["committed_lr"], curves["search_lr"]):
        assert all(lrs[int(x)] == y for x, y in zip(line["x"], line["y"], strict=True) if x is not None)
    assert max(_known(curves["committed_lr"])) == pytest.approx(found.stages[0].lr, rel=0.01), "the peak is not cut off"


def test_what_diverged_is_marked_and_the_answer_is_json(found: Timeline) -> None:
    broken = job_curves(found, Window(0, found.n_steps, 100))["broken"]
    diverged = [span.end for span in found.spans if span.outcome == "diverged"]
    assert broken["x"] == diverged
    assert job_curves(found, Window(0, found.n_steps, 100))["promised"] == {"x": [], "y": []}
    json.dumps(job_curves(found, Window(0, found.n_steps, 100)), allow_nan=False)


def test_what_fell_short_is_marked_with_what_was_promised_of_it() -> None:
    run = drive(job_config("dying", total_steps=800), DyingTraining(deadly_lr=DEADLY_TWICE, validates=True))
    found = timeline(history(run))
    short = [span for span in found.spans if span.outcome is Outcome.FELL_SHORT]
    assert len(short) == 2
    curves = job_curves(found, Window(0, found.n_steps, 100))
    at = dict(zip(curves["broken"]["x"], curves["broken"]["text"], strict=True))
    assert [at[span.end] for span in short] == ["fell short of its promise"] * 2
    first, second = ([span.start + 1, span.end] for span in short)
    assert curves["promised"]["x"] == [*first, None, *second]
    bar, same, *_ = curves["promised"]["y"]
    assert bar is not None
    assert bar == same < short[0].losses.mean()


def test_a_window_has_its_own_resolution(found: Timeline) -> None:
    whole = job_curves(found, Window(0, found.n_steps, 50))
    part = job_curves(found, Window(1000, 1100, 50))
    xs = [x for x in part["committed_loss"]["x"] if x is not None]
    assert xs == list(range(1001, 1101))
    assert len(whole["committed_loss"]["x"]) < found.n_steps / 4


def test_steps_with_a_validation_have_their_loss_drawn(found: Timeline) -> None:
    whole = job_curves(found, Window(0, found.n_steps, 20))
    validated = whole["validation"]["x"]
    assert len(validated) > 5
    assert set(validated) <= set(whole["committed_loss"]["x"])


def test_the_axes_hold_what_is_worth_seeing(found: Timeline) -> None:
    curves = job_curves(found, Window(0, found.n_steps, 100))
    calm = [*_known(curves["committed_loss"]), *_known(curves["validation"])]
    low, high = curves["loss_range"]
    assert low <= min(calm)
    assert high == max(calm) < max(_known(curves["search_loss"])), "a probe that diverged is cut off"
    assert curves["lr_range"][1] == max(*_known(curves["committed_lr"]), *_known(curves["search_lr"]))


def _of(losses: FloatArray, found: Timeline, *starts: int) -> Timeline:
    """Pieces of committed steps, each with these losses, and nothing in between."""
    span = next(span for span in found.spans if span.kept)
    return Timeline(
        tuple(dataclasses.replace(span, start=start, losses=losses.astype(np.float32)) for start in starts),
        found.stages,
    )


def test_the_trend_is_the_mean_of_equal_parts_each_at_its_middle(found: Timeline) -> None:
    losses = np.arange(1000, dtype=np.float64)
    curves = job_curves(_of(losses, found, 0), Window(0, 1000, 500))
    assert curves["trend_steps"] == 10
    assert curves["trend"]["y"] == [4.5 + 10 * i for i in range(100)]
    assert curves["trend"]["x"] == [5.5 + 10 * i for i in range(100)], "steps count from 1"


def test_the_trend_is_broken_where_other_steps_came_between_and_knows_no_nan(found: Timeline) -> None:
    losses = np.ones(500)
    losses[3] = math.nan
    losses[100:110] = math.inf
    trend = job_curves(_of(losses, found, 0, 600), Window(0, 1100, 500))["trend"]
    at = trend["x"].index(None)
    assert trend["y"][at] is None
    first, second = trend["y"][:at], trend["y"][at + 1 :]
    assert first == second
    assert first[0] == 1.0
    assert set(first) <= {1.0, None}
    json.dumps(trend, allow_nan=False)


def test_reports_that_follow_each_other_are_one_trend(found: Timeline) -> None:
    losses = np.random.default_rng(0).standard_normal(600)
    whole = job_curves(_of(losses, found, 0), Window(0, 600, 500))["trend"]
    parts = (_of(losses[:7], found, 0), _of(losses[7:500], found, 7), _of(losses[500:], found, 500))
    joined = Timeline(tuple(part.spans[0] for part in parts), found.stages)
    assert job_curves(joined, Window(0, 600, 500))["trend"] == whole


def test_the_trend_stays_in_place_along_a_run_and_is_gone_where_single_steps_are_seen(
    found: Timeline,
) -> None:
    losses = np.random.default_rng(0).standard_normal(5000)
    points = {}
    for start in (1000, 1003, 1500):
        trend = job_curves(_of(losses, found, 0), Window(start, start + 1000, 500))["trend"]
        points[start] = dict(zip(trend["x"][:-1], trend["y"][:-1], strict=True))
    for other in (1003, 1500):
        assert points[other].items() - points[1000].items() == {
            (x, y) for x, y in points[other].items() if x not in points[1000]
        }
        assert points[other].keys() & points[1000].keys()
    assert job_curves(_of(losses, found, 0), Window(1000, 1400, 500))["trend"]["x"] == []


def test_drawings_hold_what_can_be_drawn(found: Timeline) -> None:
    empty = Timeline((), ())
    for text in (sparkline(found), sparkline(empty), overview(found), overview(empty)):
        assert text.startswith("<svg")
        assert "nan" not in text
        assert "inf" not in text.replace("infinity", "")
    assert "L" in sparkline(found)


def test_a_range_test_sets_neither_axis_once_there_is_anything_else() -> None:
    run = drive(config(2000, bounds=False, **QUICK), SimulatedTraining())
    found = timeline(history(run))
    tested = [span for span in found.spans if span.phase is Phase.RANGE_TEST]
    others = [span for span in found.spans if span.phase is not Phase.RANGE_TEST]
    curves = job_curves(found, Window(0, found.n_steps, 5000))
    reached = max(span.profile.highest_lr(span.n_steps) or 0.0 for span in tested)
    worth_seeing = max(span.profile.highest_lr(span.n_steps) or 0.0 for span in others)
    assert reached > worth_seeing == pytest.approx(curves["lr_range"][1])
    assert max(_known(curves["search_lr"])) == pytest.approx(reached), "which is drawn, and pointed at from the edge"
    early = job_curves(Timeline(tuple(tested), found.stages), Window(0, tested[-1].end, 5000))
    assert early["lr_range"][1] == pytest.approx(reached), "as long as there is nothing else"


def test_a_batch_whose_loss_exploded_stretches_no_axis_and_no_sparkline(found: Timeline) -> None:
    kept = next(span for span in found.spans if span.kept)
    losses = np.linspace(2.0, 1.0, 600, dtype=np.float32)
    losses[300] = 1e20
    exploded = Timeline((dataclasses.replace(kept, start=0, losses=losses),), found.stages)
    assert job_curves(exploded, Window(0, 600, 100))["loss_range"] == [1.0, 2.0]
    heights = [
        float(point.split()[1]) for point in re.split("[ML]", sparkline(exploded).split('d="')[1].split('"')[0])[1:]
    ]
    assert heights[-1] - heights[0] > 20, "the way down is as high as the picture"
    assert min(heights) == 2, "what exploded is at the upper edge"
