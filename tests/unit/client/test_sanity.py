"""A server's nonsense is refused before it is carried out."""

from __future__ import annotations

import math

import pytest
from lrpilot import sanity
from lrpilot.errors import ProtocolError
from lrpilot.v1 import tuner_pb2 as pb

from tests.support.directives import constant, training


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
    sanity.check(directive, 7)


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
        sanity.check(directive, 7)
