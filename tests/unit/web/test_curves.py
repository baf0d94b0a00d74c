from __future__ import annotations

import json

import pytest

from tests.support.shown import history, job_config
from tests.support.simulated import SimulatedTraining, drive
from tuner_server.web.curves import Line, job_curves
from tuner_server.web.drawing import overview, sparkline
from tuner_server.web.thinning import Window
from tuner_server.web.timeline import Timeline, timeline


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
    json.dumps(job_curves(found, Window(0, found.n_steps, 100)), allow_nan=False)


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


def test_drawings_hold_what_can_be_drawn(found: Timeline) -> None:
    empty = Timeline((), ())
    for text in (sparkline(found), sparkline(empty), overview(found), overview(empty)):
        assert text.startswith("<svg")
        assert "nan" not in text
        assert "inf" not in text.replace("infinity", "")
    assert "L" in sparkline(found)
