from __future__ import annotations

import io

import pytest
from lrpilot.schedule.curves import COMMITTED, SEARCH, Curve, Piece, Scale
from lrpilot.wire.profile import Profile, Shape
from rich.console import Console

from tuner_server.cli.curve import WIDTH, braille, curves, step_axis


def over(committed: Curve, search: Curve | None = None, *, of_lrs: bool = False) -> Scale:
    scale = Scale.over(committed, search or [None] * len(committed), of_lrs=of_lrs)
    assert scale is not None
    return scale


def drawn(committed: Curve, height: int) -> list[str]:
    return [line.plain for line in braille(committed, [None] * len(committed), over(committed), height)]


def printed(pieces: list[Piece]) -> str:
    file = io.StringIO()
    Console(width=120, file=file).print(curves(pieces))
    return file.getvalue()


def test_a_falling_curve_falls_from_corner_to_corner() -> None:
    assert drawn([0.0, -1.0, -2.0, -3.0, -4.0, -5.0, -6.0, -7.0], height=2) == ["⠑⢄⠀⠀", "⠀⠀⠑⢄"]


def test_positive_values_are_on_a_logarithmic_scale() -> None:
    assert drawn([1000.0, 100.0, 10.0, 1.0], height=1) == drawn([3.0, 2.0, 1.0, -0.0], height=1)


@pytest.mark.parametrize("values", [[1.0], [2.0, 2.0], [0.0, 0.0], [1e-300, 1.0], [-1.0, 1.0], [None, 1.0]])
def test_any_values_can_be_drawn(values: Curve) -> None:
    lines = drawn(values, height=3)
    assert len(lines) == 3
    assert all(len(line) == 1 for line in lines)


def test_committed_steps_and_search_have_their_colours() -> None:
    search: Curve = [1.0, 1.0, 1.0, None]
    committed: Curve = [None, None, None, 1.0]
    [line] = braille(committed, search, over(committed, search), height=1)
    assert [(line.plain[span.start : span.end], span.style) for span in line.spans] == [
        ("⠒", SEARCH),
        ("⠒", COMMITTED),
    ]


@pytest.mark.parametrize("n_steps", [1, 2, 60, 4000, 100_000])
def test_the_axis_of_steps_is_as_wide_as_the_curve(n_steps: int) -> None:
    width = -(-min(n_steps, 2 * WIDTH) // 2)
    axis = step_axis(n_steps, width)
    assert axis.startswith("0")
    assert axis.replace("\u202f", "").split()[-1].removeprefix("0 ") == str(n_steps)
    if n_steps >= 60:
        assert len(axis) == width
        assert str(n_steps // 2) in axis.replace("\u202f", "").split()


def test_the_label_is_what_is_drawn_and_a_note_says_what_is_beyond() -> None:
    decay = Piece(0, 100, Profile(Shape.EXPONENTIAL, 1.0, 1e-9, 100), [2.0] * 100, kept=True, stage=0)
    text = printed([decay])
    assert "down to 1.23e-09: what is below 0.0001 is drawn there" in text
    labels = [line.split()[0] for line in text.splitlines() if line.strip()]
    assert "0.0001" in labels
    assert "1.23e-09" not in labels


def test_losses_that_only_a_search_reached_are_cut_off_and_named() -> None:
    profile = Profile.constant(0.1, 50)
    probe = Piece(0, 50, profile, [1.0] * 40 + [900.0] * 10, kept=False, stage=0)
    committed = Piece(50, 100, profile, [2.0] * 25 + [1.0] * 25, kept=True, stage=0)
    text = printed([probe, committed])
    assert "losses reached 900: what is above 2 is cut off" in text


def test_a_job_of_which_nothing_ran_has_no_curve() -> None:
    assert printed([]).strip() == ""
