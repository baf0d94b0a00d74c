"""A server's nonsense is refused before it is carried out."""

from __future__ import annotations

import math
from typing import Any

import pytest
from lrpilot.errors import ProtocolError
from lrpilot.session import directive_check
from lrpilot.session.run_state import RunState
from lrpilot.v1 import tuner_pb2 as pb

from tests.support.training.scripted_directives import constant, training
from tests.support.training.scripted_directives import probe as scripted_probe

JOB = pb.JobConfig(has_average=True)


def promising(*bars: tuple[int, float]) -> pb.Directive:
    promise = [pb.Bar(from_step=step, loss=level) for step, level in bars]
    return training(0.1, 100, number=7, promise=promise)


@pytest.mark.parametrize(
    "directive",
    [
        promising(),
        promising((0, 1.0)),
        promising((5, 2.0), (10, 1.0), (80, math.inf)),
        promising((5, 2.0), (5, 1.0)),
        promising((5, -2.0), (10, -math.inf)),
        training(0.1, 100, number=7, promise=[pb.Bar(loss=math.inf, validation=0.5)]),
        training(0.1, 100, number=7, validate_at=(0, 50, 100), give_up_above=math.inf, report_every=10),
        pb.Directive(number=7, phase=pb.PHASE_STOP),
    ],
)
def test_what_makes_sense_is_accepted(directive: pb.Directive) -> None:
    directive_check.check(directive, 7, JOB)


def averaging(memory_steps: float, every: int) -> pb.Directive:
    return training(0.1, 100, number=7, average=pb.Average(memory_steps=memory_steps, every=every))


@pytest.mark.parametrize(("memory_steps", "every"), [(1.0, 1), (8.0, 5), (1e9, 2**40)])
def test_an_average_of_committed_steps_may_be_asked_for(memory_steps: float, every: int) -> None:
    directive_check.check(averaging(memory_steps, every), 7, JOB)


@pytest.mark.parametrize(
    ("memory_steps", "every", "words"),
    [
        (0.5, 1, "memory of 0.5 steps"),
        (-8.0, 1, "memory of -8 steps"),
        (math.nan, 1, "memory of nan steps"),
        (math.inf, 1, "memory of inf steps"),
        (8.0, 0, "every 0 steps"),
        (8.0, -1, "every -1 steps"),
        (8.0, 2**62, "every 4611686018427387904 steps"),
    ],
)
def test_an_average_that_is_none_is_refused(memory_steps: float, every: int, words: str) -> None:
    with pytest.raises(ProtocolError, match=words):
        directive_check.check(averaging(memory_steps, every), 7, JOB)


def test_an_average_is_only_of_steps_that_stay_and_at_a_client_that_can_keep_it() -> None:
    with pytest.raises(ProtocolError, match="can't keep"):
        directive_check.check(averaging(8.0, 5), 7, pb.JobConfig())
    tried = probe(snapshot=True, average=pb.Average(memory_steps=8.0, every=5))
    with pytest.raises(ProtocolError, match="rolled back"):
        directive_check.check(tried, 7, JOB)


@pytest.mark.parametrize("asked", [["a"], ["b", "a"], []])
def test_what_can_be_measured_may_be_asked_for(asked: list[str]) -> None:
    directive_check.check(training(0.1, 100, number=7, measures=asked), 7, pb.JobConfig(measures=["a", "b"]))


@pytest.mark.parametrize("asked", [["a", "c"], ["a", "a"], [""], ["x" * 10**6] * 10])
def test_what_can_not_be_measured_is_refused(asked: list[str]) -> None:
    with pytest.raises(ProtocolError, match=r"measure .* of \['a', 'b'\]") as caught:
        directive_check.check(training(0.1, 100, number=7, measures=asked), 7, pb.JobConfig(measures=["a", "b"]))
    assert len(str(caught.value)) < 300


def test_measures_share_the_room_of_losses() -> None:
    most = directive_check.MAX_LOSSES
    directive_check.check(training(0.1, most // 2, number=7, measures=["a"]), 7, pb.JobConfig(measures=["a"]))
    with pytest.raises(ProtocolError, match="too many losses"):
        directive_check.check(training(0.1, most // 2 + 1, number=7, measures=["a"]), 7, pb.JobConfig(measures=["a"]))


@pytest.mark.parametrize(
    ("directive", "words"),
    [
        (promising((5, math.nan)), "a promise"),
        (promising((5, 1.0), (10, math.nan)), "a promise"),
        (promising((10, 1.0), (5, 2.0)), r"from steps \[10, 5\]"),
        (training(0.1, 100, number=7, promise=[pb.Bar(loss=1.0, validation=math.nan)]), "a promise"),
        (training(0.1, 100, number=8), "number 8 instead of 7"),
        (pb.Directive(number=7, phase=pb.PHASE_STOP, n_steps=1), "a stop with steps"),
        (pb.Directive(number=7, n_steps=1, profile=constant(0.1, 1)), "phase"),
        (pb.Directive(number=7, phase=pb.PHASE_TRAIN, profile=constant(0.1, 1)), "0 steps"),
        (pb.Directive(number=7, phase=pb.PHASE_TRAIN, n_steps=1), "profile"),
        (training(-0.1, 100, number=7), "LR"),
        (training(math.nan, 100, number=7), "LR"),
        (training(0.1, 100, number=7, validate_at=(50, 40)), "validations"),
        (training(0.1, 100, number=7, validate_at=(101,)), "validations"),
        (training(0.1, 100, number=7, report_every=-1), "report_every"),
        (training(0.1, 100, number=7, give_up_above=math.nan), "give_up_above"),
    ],
)
def test_what_makes_none_is_refused_with_a_word_on_it(directive: pb.Directive, words: str) -> None:
    with pytest.raises(ProtocolError, match=words):
        directive_check.check(directive, 7, JOB)


HUGE = 2**62


def probe(**fields: Any) -> pb.Directive:
    return pb.Directive(**{"number": 7, "phase": pb.PHASE_PROBE, "n_steps": 10, "profile": constant(0.1, 10), **fields})


def shaped(shape: str, start_lr: float, end_lr: float, **fields: Any) -> pb.Directive:
    profile = pb.Profile(shape=shape, start_lr=start_lr, end_lr=end_lr, **{"length": 100, **fields})
    return pb.Directive(number=7, phase=pb.PHASE_TRAIN, n_steps=100, profile=profile)


@pytest.mark.parametrize(
    "directive",
    [
        probe(snapshot=True),
        probe(restore=True, stage=0, batches=pb.BATCH_SOURCE_FRESH),
        training(0.1, 30, number=7, report_every=50),  # no shorter part is asked for
        shaped("linear", 3.4e38, 0.0),
        shaped("linear", 0.1, 0.0, offset=900, length=1000),
        training(0.1, 100, number=7, give_up_above=1e308),
    ],
)
def test_what_is_unusual_and_can_be_carried_out_is_accepted(directive: pb.Directive) -> None:
    directive_check.check(directive, 7, JOB)


@pytest.mark.parametrize(
    ("directive", "words"),
    [
        (probe(), "begin at no snapshot"),
        (probe(phase=pb.PHASE_RANGE_TEST), "begin at no snapshot"),
        (probe(snapshot=True, report_every=5), "reported at their end"),
        (probe(snapshot=True, stage=-1), "stage -1"),
        (probe(snapshot=True, batches=9), "batches 9"),
        (
            probe(snapshot=True, profile=pb.Profile(shape="bent", start_lr=0.1, end_lr=0.1, length=9)),
            "'bent' is not known",
        ),
        *[(training(0.1, n, number=7), f"{n} steps") for n in (-1, 2**41, HUGE, 2**63 - 1)],
        (training(0.1, 2**31, number=7), "too many losses"),
        (training(0.1, 2**40, number=7, report_every=1), "too many parts"),
        (training(0.1, 100, number=7, report_every=101), "report_every 101"),
        (training(0.1, 100, number=7, report_every=HUGE), "report_every"),
        (training(0.1, 10_000, number=7, validate_at=range(10_000)), "10000 validations"),
        (training(0.1, 10_000, number=7, promise=[pb.Bar(from_step=i) for i in range(10_000)]), "10000 bars"),
        (training(0.1, 100, number=7, promise=[pb.Bar(from_step=-1)]), "a promise"),
        (training(0.1, 100, number=7, promise=[pb.Bar(from_step=HUGE)]), "a promise"),
        (training(0.1, 100, number=7, give_up_above=-math.inf), "no loss is below it"),
        (training(0.1, 100, number=7, give_up_above=-1e308), "no loss is below it"),
        (shaped("linear", 1e39, 0.0), "single precision"),
        (shaped("linear", 0.1, 1e39), "single precision"),
        (shaped("linear", 1e39, 0.0, warmup=99), "single precision"),
        (shaped("cosine", 1.7e308, 1.7e308), "single precision"),
        (shaped("exponential", 5e-324, 1e38), "LRs"),
        (shaped("linear", 0.1, 0.0, length=HUGE), "length"),
        (shaped("linear", 0.1, 0.0, offset=HUGE), "offset"),
        (shaped("linear", 0.1, 0.0, warmup=100), "warm-up"),
        (shaped("", 0.1, 0.0), "not known"),
        (shaped("wsd/" * 400 + "linear", 0.1, 0.0), "401 names"),
        (shaped("linear", 0.1, 0.0, parameters=[1.0]), "no parameters"),
        (shaped("rex", 0.1, 0.0, parameters=[math.nan]), "not finite"),
        (shaped("rex", 0.1, 0.0, parameters=[2.0]), "beta 2"),
        (shaped("rex", 0.1, 0.0, parameters=[1.0] * 2000), "2000 parameters"),
        (shaped("points", 0.1, 0.0), "0 numbers"),
        (shaped("points", 0.1, 0.0, parameters=[0.0, 1.0, 1.0]), "3 numbers"),
        (shaped("points", 0.1, 0.0, parameters=[0.0, 1.0] * 600), "1200 parameters"),
        (shaped("points", 0.1, 0.0, parameters=[0.0, 1.0, 0.7, 1.0, 0.3, 1.0, 1.0, 0.0]), "don't ascend"),
        (shaped("points", 0.1, 0.0, parameters=[0.0, 1.0, 1.0, -0.1]), "weight -0.1"),
        (shaped("floored/exponential", 5e-324, 1e38, parameters=[0.0]), "LRs"),
    ],
)
def test_numbers_that_contradict_one_another_or_overflow_are_refused(directive: pb.Directive, words: str) -> None:
    with pytest.raises(ProtocolError, match=words):
        directive_check.check(directive, 7, JOB)


def test_a_job_does_not_begin_with_its_end() -> None:
    for restore in (False, True):
        with pytest.raises(ProtocolError, match="before the first step"):
            directive_check.check(pb.Directive(number=1, phase=pb.PHASE_STOP, restore=restore), 1, JOB)


@pytest.mark.parametrize(
    ("directive", "held", "rolled_back", "words"),
    [
        (training(0.1, 10, restore=True), False, True, "none has been taken"),
        (pb.Directive(phase=pb.PHASE_STOP, restore=True), False, True, "none has been taken"),
        (training(0.1, 10, restore=True), True, False, "are to stay"),
        (training(0.1, 51), True, False, "51 steps, 50 are left"),
    ],
)
def test_what_does_not_fit_the_run_is_refused(
    directive: pb.Directive, held: bool, rolled_back: bool, words: str
) -> None:
    run_state = RunState(lr=0.1, remaining=50, warm=True, held=held)
    with pytest.raises(ProtocolError, match=words):
        directive_check.check_in_place(directive, run_state, rolled_back=rolled_back)


def test_what_fits_the_run_is_accepted() -> None:
    run_state = RunState(lr=0.1, remaining=50, warm=True, held=True)
    directive_check.check_in_place(training(0.1, 50, restore=True), run_state, rolled_back=True)
    directive_check.check_in_place(training(0.1, 50), run_state, rolled_back=False)
    directive_check.check_in_place(training(0.1, 10**6), RunState(0.1, None, warm=True), rolled_back=False)


def at_the_same_time(*others: pb.Directive, **fields: Any) -> pb.Directive:
    return scripted_probe(0.1, 100, **{"number": 7, "apart": True, "alongside": others, **fields})


def told(lr: float = 0.2, n_steps: int = 100, **fields: Any) -> pb.Directive:
    return scripted_probe(lr, n_steps, **{"apart": True, **fields})


def test_several_members_may_be_told_several_probes() -> None:
    for members, directive in (
        (2, at_the_same_time(told())),
        (3, at_the_same_time(told(), told(give_up_above=3.0))),
        (2, at_the_same_time()),
        (2, at_the_same_time(taken_along=True)),
        (2, scripted_probe(0.1, 100, number=7, validate_at=[1])),
    ):
        directive_check.check(directive, 7, pb.JobConfig(members=members))


@pytest.mark.parametrize(
    ("directive", "members", "words"),
    [
        (at_the_same_time(), 0, "1 probes, each on a replica, for 1 members"),
        (at_the_same_time(told()), 0, "2 probes, each on a replica, for 1 members"),
        (at_the_same_time(told(), told()), 2, "3 probes, each on a replica, for 2 members"),
        (at_the_same_time(apart=False, taken_along=True), 2, "on one replica"),
        (at_the_same_time(told(), apart=False), 2, "on one replica"),
        (at_the_same_time(told(n_steps=99)), 2, "no probe like another"),
        (at_the_same_time(told(alongside=[told()])), 2, "no probe like another"),
        (at_the_same_time(told(apart=False)), 2, "no probe like another"),
        (training(0.1, 100, number=7, apart=True), 2, "members have a probe"),
        (at_the_same_time(told(math.nan)), 2, "at the same time"),
        (at_the_same_time(told(give_up_above=math.nan)), 2, "give_up_above nan"),
        (at_the_same_time(validate_at=[1]), 2, "no validation"),
    ],
)
def test_what_members_can_not_try_is_refused(directive: pb.Directive, members: int, words: str) -> None:
    with pytest.raises(ProtocolError, match=words):
        directive_check.check(directive, 7, pb.JobConfig(members=members))


@pytest.mark.parametrize(
    ("factor", "momentum", "measures", "words"),
    [
        (1.5, 0.2, ["round_norm"], ""),
        (1.5, 0.2, ["gradient_norm"], "of which this client is none"),
        (math.nan, 0.2, ["round_norm"], "taken on by"),
        (1.5, math.inf, ["round_norm"], "taken on by"),
    ],
)
def test_a_round_is_of_a_federation_s_client_and_has_numbers(
    factor: float, momentum: float, measures: list[str], words: str
) -> None:
    asked = training(0.1, 100, number=7, round=pb.RoundStep(factor=factor, momentum=momentum))
    config = pb.JobConfig(measures=measures)
    if words:
        with pytest.raises(ProtocolError, match=words):
            directive_check.check(asked, 7, config)
        return
    directive_check.check(asked, 7, config)
    tried = scripted_probe(0.1, 100, first=True)
    tried.round.CopyFrom(asked.round)
    tried.number = 7
    with pytest.raises(ProtocolError, match="rolled back"):
        directive_check.check(tried, 7, config)


def _warning(**fields: Any) -> pb.EarlyWarning:
    """A sign that may be looked for, but for these fields."""
    sound = {"measure": "gradient_norm", "rule": pb.WARNING_RULE_RISE, "level": 30.0, "row": 5, "ends": True}
    return pb.EarlyWarning(**{**sound, **fields})


MEASURING = pb.JobConfig(measures=["gradient_norm", "update_ratio"])


def test_a_probe_may_have_warnings_by_what_it_measures() -> None:
    asked = ["gradient_norm", "update_ratio"]
    above = _warning(measure="update_ratio", rule=pb.WARNING_RULE_ABOVE, level=1.0)
    found = scripted_probe(0.1, 20, first=True, number=7, measures=asked, warnings=[_warning(), above])
    directive_check.check(found, 7, MEASURING)


@pytest.mark.parametrize(
    ("directive", "fault"),
    [
        (scripted_probe(0.1, 20, first=True, number=7, warnings=[_warning()]), "a warning by gradient_norm"),
        (training(0.1, 20, number=7, measures=["gradient_norm"], warnings=[_warning()]), "warnings for other steps"),
        (
            scripted_probe(0.1, 20, first=True, number=7, measures=["gradient_norm"], warnings=[_warning()] * 65),
            "65 warnings",
        ),
        (
            scripted_probe(0.1, 20, first=True, number=7, measures=["gradient_norm"], warnings=[_warning(row=0)]),
            "0",
        ),
        (
            scripted_probe(0.1, 20, first=True, number=7, measures=["gradient_norm"], warnings=[_warning(rule=9)]),
            "rule 9 is not known to this client",
        ),
    ],
)
def test_warnings_that_can_not_be_looked_for_are_refused(directive: pb.Directive, fault: str) -> None:
    with pytest.raises(ProtocolError, match=fault):
        directive_check.check(directive, 7, MEASURING)
