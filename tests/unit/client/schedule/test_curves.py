from __future__ import annotations

import math

from lrpilot.schedule.curves import Band, Curves, Piece, Scale, bands, curves, pieces
from lrpilot.schedule.schedule import Schedule
from lrpilot.wire.phase import Phase
from lrpilot.wire.profile import Profile, Shape
from lrpilot.wire.schedule_data import Probe, Segment

LINE = Profile(Shape.LINEAR, 1.0, 0.0, 10)
FLAT = Profile.constant(0.5, 3)


def probe(start_step: int, stage: int, *losses: float) -> Probe:
    return Probe(start_step, len(losses), FLAT, Phase.PROBE, stage, losses, (), False)


def schedule(segments: tuple[Segment, ...], losses: tuple[float, ...], *probes: Probe) -> Schedule:
    return Schedule("f" * 32, "name", "autolrs", (0.1,), None, segments, losses, (), probes)


def test_probes_come_before_the_step_that_they_started_from() -> None:
    segments = (Segment(0, 4, LINE, Phase.TRAIN, 0), Segment(4, 2, FLAT, Phase.TRAIN, 1))
    found = pieces(schedule(segments, (1.0,) * 6, probe(0, 0, 7.0, 8.0), probe(4, 1, 9.0), probe(6, 2, 5.0)))
    assert [(piece.start, piece.end, piece.kept, piece.stage) for piece in found] == [
        (0, 2, False, 0),
        (2, 6, True, 0),
        (6, 7, False, 1),
        (7, 9, True, 1),
        (9, 10, False, 2),
    ]
    assert [band.stage for band in bands(found)] == [1, 1, 2, 2, 3]


def test_a_probe_within_a_segment_divides_it() -> None:
    """As where a client trained on by itself, and what it did is one profile."""
    found = pieces(schedule((Segment(0, 10, LINE, Phase.TRAIN, 0),), tuple(map(float, range(10))), probe(4, 1, 9.0)))
    assert [(piece.start, piece.end) for piece in found] == [(0, 4), (4, 5), (5, 11)]
    assert found[2].profile.lr(0) == LINE.lr(4)
    assert found[2].losses == (4.0, 5.0, 6.0, 7.0, 8.0, 9.0)


def test_a_schedule_of_which_nothing_ran_has_no_pieces() -> None:
    assert pieces(schedule((), ())) == []
    assert pieces(schedule((), (), probe(0, 0))) == []
    assert curves([], 8) == Curves(0, 0, [], [], [], [])


def test_stages_count_from_one_whatever_the_server_counts_from() -> None:
    segments = (Segment(0, 4, LINE, Phase.WARM_UP, -1), Segment(4, 2, FLAT, Phase.TRAIN, 0))
    assert bands(pieces(schedule(segments, (), probe(4, 0, 1.0)))) == [
        Band(0, 4, True, 1),
        Band(4, 5, False, 2),
        Band(5, 7, True, 2),
    ]


def test_columns_are_means_of_losses_that_are_numbers_each_at_its_steps() -> None:
    found = [
        Piece(0, 4, FLAT, [1.0, 3.0, math.nan, math.inf], kept=True, stage=0),
        Piece(4, 7, FLAT, [5.0, 7.0, 9.0], kept=False, stage=1),
        Piece(7, 8, LINE, [], kept=True, stage=1),
    ]
    assert curves(found, 4) == Curves(
        n_steps=8,
        n_columns=4,
        committed_loss=[2.0, None, None, None],
        search_loss=[None, None, 6.0, 9.0],
        committed_lr=[0.5, 0.5, None, 1.0],
        search_lr=[None, None, 0.5, 0.5],
    )


def test_no_more_columns_than_steps() -> None:
    drawn = curves([Piece(0, 3, LINE, [3.0, 2.0, 1.0], kept=True, stage=0)], 100)
    assert drawn.committed_loss == [3.0, 2.0, 1.0]
    assert drawn.committed_lr == [LINE.lr(step) for step in range(3)]


def test_every_step_is_in_one_column() -> None:
    found = [Piece(0, 37, FLAT, [1.0] * 37, kept=True, stage=0), Piece(37, 101, FLAT, [1.0] * 64, kept=True, stage=0)]
    for n in (1, 2, 7, 100, 101):
        assert curves(found, n).committed_loss == [1.0] * n


def test_an_lr_of_zero_is_at_the_bottom_of_a_logarithmic_scale() -> None:
    scale = Scale.over([1.0, 0.1, 0.0], [None] * 3, of_lrs=True)
    assert scale is not None
    assert (scale.low, scale.lowest, scale.log) == (1e-4, 0.0, True)
    parts = [scale.part(value) for value in (1.0, 0.01, 1e-4, 0.0)]
    assert parts[0] == 1.0
    assert parts[1] is not None
    assert math.isclose(parts[1], 0.5)
    assert parts[2:] == [0.0, 0.0]


def test_what_only_a_search_reached_does_not_stretch_the_scale_of_losses() -> None:
    scale = Scale.over([2.0, 1.0], [0.5, 100.0], of_lrs=False)
    assert scale is not None
    assert (scale.low, scale.high, scale.highest) == (0.5, 2.0, 100.0)
    assert scale.part(100.0) is None


def test_without_committed_steps_a_search_has_the_whole_scale() -> None:
    scale = Scale.over([None], [3.0], of_lrs=False)
    assert scale is not None
    assert scale.part(3.0) == 0.5
    assert Scale.over([None], [None], of_lrs=False) is None


def test_a_high_lr_that_a_search_tried_does_not_hide_the_committed_ones() -> None:
    scale = Scale.over([1e-4, 1e-5], [1.0], of_lrs=True)
    assert scale is not None
    assert (scale.low, scale.high) == (1e-5, 1.0)
