from __future__ import annotations

import math
from xml.etree import ElementTree

import pytest
from lrpilot.profile import Profile, Shape
from lrpilot.schedule import Phase, Probe, Schedule, Segment


def schedule(n_steps: int, losses: tuple[float, ...], name: str = "a <name> & more") -> Schedule:
    profile = Profile(Shape.LINEAR, 0.1, 0.0, max(n_steps, 1))
    probe = Probe(0, 5, Profile.constant(0.1, 5), Phase.PROBE, 0, (1.0,) * 5, (), False)
    segments = (Segment(0, n_steps, profile, Phase.TRAIN, 0),) if n_steps else ()
    return Schedule("f" * 32, name, "budget", (0.1,), None, segments, losses, (), (probe,))


def shown(schedule: Schedule) -> ElementTree.Element:
    """What a notebook shows, which must be well-formed."""
    return ElementTree.fromstring(schedule._repr_html_().replace("<br>", "<br/>"))


def test_a_schedule_shows_its_name_its_cost_and_both_curves() -> None:
    losses = tuple(2.0 * 0.999**step for step in range(5000))
    element = shown(schedule(5000, losses))
    text = "".join(element.itertext())
    assert "a <name> & more" in text
    assert "5,000 committed, 5 search" in text
    lines = element.findall(".//polyline")
    assert len(lines) == 2
    for line in lines:
        heights = [float(point.split(",")[1]) for point in line.attrib["points"].split()]
        assert len(heights) > 100
        assert heights == sorted(heights), "both fall: further down is a larger y"


@pytest.mark.parametrize("losses", [(), (1.0,), (math.nan, math.inf, 1.0, -1.0), (0.0, 0.0), (math.nan,)])
def test_any_losses_can_be_shown(losses: tuple[float, ...]) -> None:
    text = "".join(shown(schedule(max(len(losses), 1), losses)).itertext())
    assert "nan" not in text


def test_a_schedule_without_steps_says_so() -> None:
    assert "Nothing is committed yet" in "".join(shown(schedule(0, ())).itertext())
