from __future__ import annotations

import dataclasses
import math
from xml.etree import ElementTree

import pytest
from lrpilot.schedule.curves import COMMITTED, SEARCH
from lrpilot.schedule.notebook import LEFT, PLOT
from lrpilot.schedule.schedule import Schedule
from lrpilot.wire.phase import Phase
from lrpilot.wire.plan_change import ChangeKind, ChangeOrigin
from lrpilot.wire.profile import Profile, Shape
from lrpilot.wire.schedule_data import Probe, Replan, Segment

from tests.support.hostile.words import MARKUP, ORDERS, check_plain

DRAWN = ("title", "rect", "path", "text", "polyline")
"""What a drawing is made of."""


def schedule(n_steps: int, losses: tuple[float, ...], name: str = "a <name> & more") -> Schedule:
    profile = Profile(Shape.LINEAR, 0.1, 0.0, max(n_steps, 1))
    probe = Probe(0, 5, Profile.constant(0.1, 5), Phase.PROBE, 0, (1.0,) * 5, (), False)
    segments = (Segment(0, n_steps, profile, Phase.TRAIN, 0),) if n_steps else ()
    return Schedule("f" * 32, name, "budget", (0.1,), None, segments, losses, (), (probe,))


def shown(schedule: Schedule) -> ElementTree.Element:
    """What a notebook shows, which must be well-formed."""
    return ElementTree.fromstring(schedule._repr_html_().replace("<br>", "<br/>"))


def polylines(element: ElementTree.Element, colour: str) -> list[list[tuple[float, float]]]:
    return [
        [(float(x), float(y)) for x, y in (point.split(",") for point in line.attrib["points"].split())]
        for line in element.findall(".//polyline")
        if line.attrib["stroke"] == colour
    ]


def test_a_schedule_shows_its_name_its_cost_and_both_curves() -> None:
    losses = tuple(2.0 * 0.999**step for step in range(5000))
    element = shown(schedule(5000, losses))
    text = "".join(element.itertext())
    assert "a <name> & more" in text
    assert "5,000 committed, 5 search" in text
    assert "5,005 steps" in text, "the axis ends where the run does"
    lines = polylines(element, COMMITTED)
    assert len(lines) == 2
    for line in lines:
        heights = [y for _, y in line]
        assert len(heights) > 100
        assert heights == sorted(heights), "both fall: further down is a larger y"


def test_searches_are_orange_and_every_other_stage_is_grey() -> None:
    profile = Profile.constant(0.1, 100)
    segments = tuple(Segment(100 * stage, 100, profile, Phase.TRAIN, stage) for stage in range(3))
    probes = tuple(
        Probe(100 * stage, 50, profile, Phase.PROBE, stage, (1.0,) * 50, (), False) for stage in range(3) for _ in "ab"
    )
    element = shown(Schedule("f" * 32, "", "autolrs", (0.1,), None, segments, (1.0,) * 300, (), probes))
    part = PLOT / 6
    bands = [
        (
            rect.attrib["fill"] == SEARCH,
            round((float(rect.attrib["x"]) - LEFT) / part, 2),
            round(float(rect.attrib["width"]) / part, 2),
            rect.findtext("title"),
        )
        for rect in element.findall(".//rect")
    ]
    assert bands == [
        (True, 0.0, 1.0, "search for stage 1: 100 steps"),
        (True, 2.0, 1.0, "search for stage 2: 100 steps"),
        (False, 3.0, 1.0, "stage 2: 100 steps"),
        (True, 4.0, 1.0, "search for stage 3: 100 steps"),
    ]
    assert len(polylines(element, SEARCH)) == 2 * 3, "loss and LR of three searches, not joined across stages"


def test_a_search_is_drawn_before_anything_is_committed() -> None:
    element = shown(schedule(0, ()))
    assert len(polylines(element, SEARCH)) == 2
    assert polylines(element, COMMITTED) == []


def test_what_a_notebook_shows_has_no_script_and_stays_small() -> None:
    text = schedule(100_000, (1.0,) * 100_000)._repr_html_()
    assert "<script" not in text
    assert len(text) < 20_000


@pytest.mark.parametrize("losses", [(), (1.0,), (math.nan, math.inf, 1.0, -1.0), (0.0, 0.0), (math.nan,)])
def test_any_losses_can_be_shown(losses: tuple[float, ...]) -> None:
    text = "".join(shown(schedule(max(len(losses), 1), losses)).itertext())
    assert "nan" not in text


def test_a_schedule_of_which_nothing_ran_says_so() -> None:
    empty = Schedule("f" * 32, "<b>", "budget", (0.1,), None, ())
    assert "Nothing has been run yet" in "".join(shown(empty).itertext())


@pytest.mark.parametrize("words", [*ORDERS.values(), *MARKUP.values()], ids=[*ORDERS, *MARKUP])
def test_a_servers_words_are_no_orders_and_no_markup(words: str) -> None:
    """Whoever has the server has the names, the reasons and the notes."""
    replan = Replan(300, ChangeKind.REPLAN, ChangeOrigin.OPERATOR, 500, words)
    hostile = dataclasses.replace(
        schedule(500, (1.0,) * 500, words), job_id=words, policy=words, unrepeatable=words, replans=(replan,)
    )
    element = shown(hostile)
    assert {child.tag for child in element.iter()} <= {"div", "b", "br", "small", "svg", *DRAWN}
    for text in ("".join(element.itertext()), hostile._repr_html_(), repr(hostile)):
        check_plain(text)


def test_changes_of_the_plan_are_told() -> None:
    planned = schedule(500, (1.0,) * 500)
    assert "plan" not in "".join(shown(planned).itertext())
    new_data = Replan(300, ChangeKind.REPLAN, ChangeOrigin.CLIENT, 500, "new <data>")
    annealing = Replan(400, ChangeKind.ANNEAL, ChangeOrigin.OPERATOR, 500)
    once = dataclasses.replace(planned, replans=(new_data,))
    assert "replan after 300 committed steps (new <data>) " in "".join(shown(once).itertext())
    twice = dataclasses.replace(planned, replans=(new_data, annealing))
    assert "anneal after 400 committed steps, the last of 2 changes" in "".join(shown(twice).itertext())
