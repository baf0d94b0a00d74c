"""What probes promise of the run that they lead to: where the bars lie, and when there are none."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from lrpilot.run.promise import is_above
from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.wire.messages.directive_steps import bar_of
from lrpilot.wire.profile import Profile

from tuner_server.core.evidence.promise import (
    FIRST_LOSSES,
    LAST_LOOK,
    LAST_TRAINING_LOOK,
    MARGIN_SDS,
    STAIRS,
    TAIL_SHARE,
    VALIDATION_MARGIN_SDS,
    VALIDATION_PART,
    Footing,
    bars,
    fell_short,
    learn,
    shortfall,
)
from tuner_server.core.messages import Bar, Directive, Outcome, Phase, Report, Setback, Validation

PROBE = 2 * FIRST_LOSSES
"""Steps of a probe."""
LEVELS = st.sampled_from((-1.0, 0.0, 0.5, 1.0, 2.0, math.inf))
quickly = settings(max_examples=150, deadline=None, derandomize=True)


def probe(losses: Sequence[float], *validations: tuple[int, float], diverged: bool = False) -> Report:
    return Report(
        directive_number=1,
        outcome=Outcome.DIVERGED if diverged else Outcome.COMPLETED,
        losses=tuple(losses),
        validations=tuple(Validation(step=step, loss=loss) for step, loss in validations),
    )


def falling(begin: float, end: float, *validations: tuple[int, float]) -> Report:
    """A probe that goes from one loss to another once its first losses are over."""
    return probe([begin] * FIRST_LOSSES + [end] * (PROBE - FIRST_LOSSES), *validations)


def known(*probes: tuple[float, Report, float | None]) -> Footing:
    """What these probes tell, given with their LRs and the losses by which they count."""
    footing: Footing | None = None
    for lr, report, judged in probes:
        footing = learn(footing, lr, report, judged)
    assert footing is not None
    return footing


def levels(footing: Footing | None, n_steps: int = 1000, warmup: int = 0, report_steps: int = 50) -> list[float]:
    return [bar.loss for bar in bars(footing, n_steps, warmup, report_steps)]


def validation_levels(footing: Footing | None) -> list[float]:
    return [bar.validation for bar in bars(footing, 1000, 0, 50)]


# --- what probes tell -------------------------------------------------------------------------------------------------


def test_the_start_is_the_mean_of_the_first_losses_at_the_lowest_lr() -> None:
    low, high = falling(3.0, 2.0), falling(5.0, 1.0)
    assert known((0.01, low, 2.0), (0.1, high, 1.0)).start_loss == 3.0
    assert known((0.1, high, 1.0), (0.01, low, 2.0)).start_loss == 3.0
    assert known((0.1, probe(range(PROBE)), 2.0)).start_loss == sum(range(FIRST_LOSSES)) / FIRST_LOSSES


def test_the_best_probe_s_gain_counts_whatever_its_place_and_lr() -> None:
    probes = [(0.01, falling(3.0, 2.5), 2.5), (0.1, falling(3.0, 1.0), 1.0), (1.0, falling(3.0, 2.0), 2.0)]
    for order in itertools.permutations(probes):
        assert known(*order).gain == 2.0


def test_the_end_of_a_probe_is_the_last_part_of_its_training_losses() -> None:
    n_tail = int(PROBE * TAIL_SHARE)
    report = probe([3.0] * (PROBE - n_tail) + [1.0] * n_tail)
    assert known((0.1, report, 2.0)).best_tail == 1.0


def test_a_probe_that_diverged_says_where_training_begins_if_its_first_losses_are_numbers() -> None:
    diverged = probe([3.0] * FIRST_LOSSES + [math.inf], diverged=True)
    footing = known((0.1, diverged, None))
    assert (footing.start_loss, footing.gain) == (3.0, None)
    assert learn(None, 0.1, probe([3.0, math.nan], diverged=True), None) is None
    assert learn(footing, 0.01, probe([9.0, math.nan], diverged=True), None) == footing


def test_the_scatter_of_losses_is_told_from_their_course() -> None:
    assert known((0.1, probe([3.0 - 0.1 * i for i in range(PROBE)]), 1.0)).sd == pytest.approx(0.1, rel=0.1)
    noisy = known((0.1, probe([3.0 + (-1) ** i for i in range(PROBE)]), 1.0))
    assert noisy.sd == pytest.approx(2.0, rel=0.1)
    assert known((0.1, probe([3.0]), 1.0)).sd == 0.0


def test_losses_that_are_no_numbers_do_not_count_for_the_noise() -> None:
    blown = probe([1.0] * (PROBE - 2) + [math.inf, math.inf], diverged=True)
    assert known((0.1, blown, None)).sd == 0.0


# --- what is gained ---------------------------------------------------------------------------------------------------


def test_a_validation_of_the_same_measure_is_what_the_gain_is_told_by() -> None:
    report = falling(3.0, 0.5, (0, 3.1), (PROBE, 2.0))
    assert known((0.1, report, 2.0)).gain == pytest.approx(1.1)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (math.exp(3.0), math.exp(2.0)),  # a perplexity
        (90.0, 60.0),  # an error in percent
    ],
)
def test_a_validation_that_falls_further_says_nothing_of_training_losses(before: float, after: float) -> None:
    report = falling(3.0, 1.5, (0, before), (PROBE, after))
    assert known((0.1, report, after)).gain == 1.5


@pytest.mark.parametrize(("validation", "gain"), [((3.0, 0.1), 2.0), ((3.0, 2.5), 0.5), ((50_000.0, 20.0), 2.0)])
def test_a_training_loss_is_held_to_the_smaller_gain(validation: tuple[float, float], gain: float) -> None:
    """With label smoothing, mixup or wrong labels a validation falls further than a training loss ever does."""
    begin, end = validation
    report = falling(3.0, 1.0, (0, begin), (PROBE, end))
    assert known((0.1, report, end)).gain == pytest.approx(gain)


def test_no_bar_lies_below_where_the_probe_itself_ended() -> None:
    footing = known((0.1, falling(3.0, 1.0, (0, 3.0), (PROBE, -2.0)), -2.0))
    assert min(levels(footing)) > 1.0


def test_a_validation_whose_beginning_is_not_known_is_not_compared_with_a_training_loss() -> None:
    """The first probe, which was validated before its first step, ended before it could be learnt from."""
    lost = probe([3.0, math.nan], (0, 0.9), diverged=True)
    footing = known((0.3, lost, None), (0.1, falling(3.0, 1.5, (PROBE, 0.6)), 0.6))
    assert (footing.gain, footing.validation_gain) == (1.5, None)
    assert set(validation_levels(footing)) == {math.inf}


@pytest.mark.parametrize("end", [3.0, 4.0])
def test_where_no_probe_gained_anything_nothing_is_promised(end: float) -> None:
    assert levels(known((0.1, falling(3.0, end), end))) == []
    validated = falling(3.0, 3.0, (0, 3.0), (PROBE, end))
    assert levels(known((0.1, validated, end))) == []


def test_where_every_probe_diverged_or_none_was_had_nothing_is_promised() -> None:
    assert levels(None) == []
    assert levels(known((0.1, probe([3.0] * PROBE, diverged=True), None))) == []


# --- where the bars lie -----------------------------------------------------------------------------------------------

LOSSES = st.integers(-640, 640).map(lambda n: n / 64)


@st.composite
def probes_of_a_search(draw: st.DrawFn) -> list[tuple[float, list[float], tuple[float, float] | None]]:
    """LRs, losses, and validations before the first step and after the last one, or none."""
    validated = draw(st.booleans())
    n_probes = draw(st.integers(1, 4))
    return [
        (
            draw(st.floats(1e-4, 1.0)),
            draw(st.lists(LOSSES, min_size=FIRST_LOSSES, max_size=PROBE)),
            (draw(LOSSES), draw(LOSSES)) if validated else None,
        )
        for _ in range(n_probes)
    ]


def seen(
    probes: list[tuple[float, list[float], tuple[float, float] | None]], factor: float = 1.0, shift: float = 0.0
) -> Footing:
    def moved(loss: float) -> float:
        return factor * loss + shift

    found = []
    for i, (lr, losses, validations) in enumerate(probes):
        before = [(0, moved(validations[0]))] if validations and i == 0 else []
        after = [(len(losses), moved(validations[1]))] if validations else []
        judged = moved(validations[1] if validations else losses[-1])
        found.append((lr, probe(list(map(moved, losses)), *before, *after), judged))
    return known(*found)


def undecided(footing: Footing) -> bool:
    """Whether rounding may decide which measure counts, or whether anything was gained."""
    begin = footing.start_validation if footing.best_validated else footing.start_loss
    assert begin is not None
    assert footing.best_loss is not None
    assert footing.best_tail is not None
    gains = (begin - footing.best_loss, footing.start_loss - footing.best_tail)
    return min(map(abs, gains)) < 1e-9


@quickly
@given(
    probes=probes_of_a_search(),
    exponent=st.integers(-12, 12),
    shift=st.integers(-1000, 1000),
    n_steps=st.integers(1, 10_000),
)
def test_the_bars_move_with_a_shift_of_all_losses_and_scale_with_a_factor(
    probes: list[tuple[float, list[float], tuple[float, float] | None]], exponent: int, shift: int, n_steps: int
) -> None:
    """Losses below zero, and of any unit, are as good as others."""
    before = seen(probes)
    assume(not undecided(before))
    factor = 2.0**exponent
    after = seen(probes, factor, shift)
    expected = [factor * level + shift for level in levels(before, n_steps)]
    assert levels(after, n_steps) == pytest.approx(expected, rel=1e-9, abs=1e-9)
    expected = [factor * level + shift for level in validation_levels(before)]
    assert validation_levels(after) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(st.integers(1, 2**40), st.floats(0, 1), st.integers(1, 1000))
@quickly
def test_the_bars_ascend_by_their_steps_and_none_lies_within_the_warm_up_or_past_the_end(
    n_steps: int, part: float, report_steps: int
) -> None:
    warmup = int(part * n_steps)
    promise = bars(known((0.1, falling(3.0, 2.0), 2.0)), n_steps, warmup, report_steps)
    steps = [bar.from_step for bar in promise]
    assert steps == sorted(steps)
    assert warmup <= steps[0]
    assert steps[-1] <= n_steps
    held = [bar.loss for bar in promise]
    assert held[:-2] == sorted(held[:-2], reverse=True)
    assert held[-2:] == [math.inf, math.inf]
    assert held[-1] == math.inf


def test_each_bar_asks_for_its_part_of_the_gain_from_its_part_of_the_steps_on() -> None:
    promise = bars(known((0.1, falling(3.0, 1.0), 1.0)), 1000, 50, 50)
    asked = [(bar.from_step / 1000, (3.0 - bar.loss) / 2.0) for bar in promise[:-2]]
    assert asked == [pytest.approx(stair) for stair in STAIRS]


@pytest.mark.parametrize(("before", "after"), [(3.0, 1.0), (math.exp(3.0), math.exp(1.0)), (-0.1, -0.7)])
def test_validations_are_held_to_their_own_part_of_their_own_gain_from_the_second_bar_on(
    before: float, after: float
) -> None:
    """Whatever they measure."""
    footing = known((0.1, falling(3.0, 1.0, (0, before), (PROBE, after)), after))
    level = before - VALIDATION_PART * (before - after)
    assert validation_levels(footing) == pytest.approx([math.inf, level, level, level, math.inf])
    assert set(validation_levels(known((0.1, falling(3.0, 1.0), 1.0)))) == {math.inf}


def test_a_gain_in_one_measure_alone_is_promised_by_that_measure() -> None:
    by_validation = known((0.1, falling(3.0, 3.5, (0, 90.0), (PROBE, 60.0)), 60.0))
    assert set(levels(by_validation)) == {math.inf}
    assert validation_levels(by_validation)[1] < 90.0
    neither = known((0.1, falling(3.0, 1.0, (0, 60.0), (PROBE, 90.0)), 90.0))
    assert levels(neither) == []


def test_a_training_loss_that_rises_late_breaks_no_promise_and_validations_still_can() -> None:
    """It says that the data have changed."""
    footing = known((0.1, falling(3.0, 1.0, (0, 3.0), (PROBE, 1.0)), 1.0))
    late = bar_of(bars(footing, 1000, 50, 50), math.ceil(LAST_TRAINING_LOOK * 1000))
    assert late is not None
    assert late.loss == math.inf
    assert late.validation < 3.0


def test_after_the_last_look_a_run_is_left_alone() -> None:
    last = bars(known((0.1, falling(3.0, 1.0), 1.0)), 1000, 50, 50)[-1]
    assert last == Bar(from_step=math.ceil(LAST_LOOK * 1000), loss=math.inf, validation=math.inf)


def test_a_warm_up_that_lasts_past_the_last_look_leaves_nothing_to_be_held_to() -> None:
    promise = bars(known((0.1, falling(3.0, 1.0), 1.0)), 1000, 900, 50)
    assert {bar.from_step for bar in promise} == {900}
    assert promise[-1].loss == math.inf


def test_noise_widens_the_margin_and_longer_reports_narrow_it() -> None:
    footing = known((0.1, falling(3.0, 2.0), 2.0))
    calm = levels(footing)
    for sd, report_steps in ((0.1, 50), (0.5, 50), (0.5, 500)):
        margin = MARGIN_SDS * sd * math.sqrt(1 / FIRST_LOSSES + 1 / report_steps)
        noisy = levels(footing.model_copy(update={"sd": sd}), report_steps=report_steps)
        assert noisy[:-1] == pytest.approx([level + margin for level in calm[:-1]])


def test_noise_of_the_training_losses_widens_the_margin_of_validations_too_but_less() -> None:
    footing = known((0.1, falling(3.0, 2.0, (0, 3.0), (PROBE, 2.0)), 2.0))
    noisy = footing.model_copy(update={"sd": 0.4})
    margins = [
        after - before for before, after in zip(validation_levels(footing), validation_levels(noisy), strict=True)
    ]
    assert margins[1:-1] == pytest.approx([VALIDATION_MARGIN_SDS * 0.4] * 3)
    assert margins[1] < levels(noisy)[1] - levels(footing)[1]


# --- the evidence, and its way through JSON ---------------------------------------------------------------------------


TWO_MEASURES = known((0.1, falling(3.0, 1.0, (0, 90.0), (PROBE, 50.0)), 50.0))


@pytest.mark.parametrize(("begin", "bar"), [(49, None), (50, 2.0), (99, 2.0), (100, 1.7), (250, 1.4), (399, 1.4)])
def test_the_evidence_has_the_bar_that_the_last_report_is_held_to(begin: int, bar: float | None) -> None:
    promise = bars(TWO_MEASURES, 1000, 50, 50)
    report = probe([2.5, 3.0], (1, 80.0), (2, 85.0))  # its validations may be what they like
    found = fell_short(TWO_MEASURES, 0.3, promise, begin, report)
    assert found == Setback(lr=0.3, loss=2.75, bar=found.bar, start_loss=3.0, gain=2.0)
    assert found.bar == (None if bar is None else pytest.approx(bar))


@pytest.mark.parametrize("mean", [0.1, 1.5])
def test_the_evidence_is_the_validation_where_the_mean_kept_the_promise(mean: float) -> None:
    """A later bar that the mean is above, too, is not the one that was broken."""
    promise = bars(TWO_MEASURES, 1000, 50, 50)
    report = probe([mean] * 50, (20, 70.0), (40, 80.0))
    bar = 90.0 - VALIDATION_PART * 40.0
    assert fell_short(TWO_MEASURES, 0.3, promise, 100, report) == Setback(
        lr=0.3, loss=80.0, bar=bar, start_loss=90.0, gain=40.0, validated=True
    )


def test_footing_goes_through_json_and_back() -> None:
    footing = known((0.1, falling(3.0, 0.1, (0, 3.1), (PROBE, 2.0)), 2.0))
    assert Footing.model_validate_json(footing.model_dump_json()) == footing
    assert Footing.model_validate(json.loads(footing.model_dump_json())) == footing


@given(
    st.lists(st.tuples(st.integers(0, 9), LEVELS, LEVELS), min_size=1, max_size=4).map(sorted),
    st.integers(0, 9),
    st.lists(LEVELS.filter(math.isfinite), min_size=1, max_size=5),
    st.lists(LEVELS.filter(math.isfinite), max_size=3),
    st.none() | LEVELS.filter(math.isfinite),
)
@quickly
def test_what_a_client_finds_above_its_bar_is_told_to_be_above_that_bar(
    stairs: list[tuple[int, float, float]],
    begin: int,
    losses: list[float],
    validations: list[float],
    before: float | None,
) -> None:
    promise = [Bar(from_step=step, loss=loss, validation=validation) for step, loss, validation in stairs]
    held_to = bar_of([pb.Bar(**bar.model_dump()) for bar in promise], begin)
    if held_to is None or not is_above(held_to, losses, validations, before):
        return
    told = shortfall(promise, begin, losses, [Validation(step=i, loss=loss) for i, loss in enumerate(validations)])
    assert told.bar == (held_to.validation if told.validated else held_to.loss)
    assert told.loss > told.bar


def test_a_directive_with_an_infinite_bar_goes_through_json_and_back() -> None:
    promise = bars(TWO_MEASURES, 1000, 50, 50)
    directive = Directive(phase=Phase.TRAIN, n_steps=1000, profile=Profile.constant(0.1, 1000), promise=promise)
    text = directive.model_dump_json()
    assert "Infinity" in text
    assert json.loads(text, parse_constant=pytest.fail)
    assert Directive.model_validate_json(text) == directive


@given(st.lists(st.integers(1, 300), max_size=4))
@quickly
def test_the_rest_of_a_directive_has_the_bars_where_they_were(parts: list[int]) -> None:
    promise = bars(TWO_MEASURES, 2000, 50, 50)
    directive = Directive(phase=Phase.TRAIN, n_steps=2000, profile=Profile.constant(0.1, 2000), promise=promise)
    for part in parts:
        directive = directive.after(part)
    done = sum(parts)
    for step in range(done, 2000, 7):
        before = [(bar.loss, bar.validation) for bar in promise if bar.from_step <= step]
        after = [(bar.loss, bar.validation) for bar in directive.promise if bar.from_step <= step - done]
        assert before[-1:] == after[-1:]
