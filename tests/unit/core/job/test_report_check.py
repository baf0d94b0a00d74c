"""Reports that can't be, and those that can: every one is refused by the field at fault, or taken."""

from __future__ import annotations

import math
from typing import Any

import pytest
from lrpilot.wire.early_warning import EarlyWarning, WarningRule
from lrpilot.wire.profile import Profile

from tests.support.jobs.scripted_policy import replaced, report_on, scripted_config, step, until
from tests.support.jobs.simulated_training import QUICK, config
from tuner_server.core.errors import InvalidInputError
from tuner_server.core.job import machine
from tuner_server.core.job.machine import Status
from tuner_server.core.job.report_check import check_replacement, check_report
from tuner_server.core.messages import (
    Average,
    Bar,
    Directive,
    Ending,
    Outcome,
    Phase,
    Replacement,
    Report,
    Validation,
    Weights,
)

NAN, INF = math.nan, math.inf
PROBE_OF_8 = Directive(number=3, phase=Phase.PROBE, n_steps=8, profile=Profile.constant(0.1, 8), validate_at=(4, 8))
TEST_OF_8 = PROBE_OF_8.model_copy(update={"phase": Phase.RANGE_TEST, "validate_at": ()})
TRAIN_OF_8 = PROBE_OF_8.model_copy(update={"phase": Phase.TRAIN, "validate_at": (8,)})
HELD_OF_8 = TRAIN_OF_8.model_copy(update={"promise": (Bar(from_step=2, loss=0.5),)})
FIRST_OF_8 = PROBE_OF_8.model_copy(update={"validate_at": (0, 8)})
WARNED_OF_8 = PROBE_OF_8.model_copy(
    update={
        "measures": ("norm",),
        "warnings": (EarlyWarning(measure="norm", rule=WarningRule.ABOVE, level=1.0, row=1),),
    }
)
MEASURED_OF_8 = TRAIN_OF_8.model_copy(update={"measures": ("norm", "other")})
BOTH = (Validation(step=4, loss=1.0), Validation(step=8, loss=1.0))


@pytest.mark.parametrize(
    ("directive", "report", "field"),
    [
        (PROBE_OF_8, report_on(PROBE_OF_8, n=7, validations=BOTH), "report.losses"),
        (PROBE_OF_8, report_on(PROBE_OF_8, n=9, validations=BOTH), "report.losses"),
        (PROBE_OF_8, report_on(PROBE_OF_8, n=0), "report.losses"),
        (PROBE_OF_8, report_on(PROBE_OF_8, Outcome.DIVERGED, 0), "report.losses"),
        (PROBE_OF_8, report_on(PROBE_OF_8, Outcome.DIVERGED, 9), "report.losses"),
        (PROBE_OF_8, report_on(PROBE_OF_8, Outcome.PARTIAL, 4), "report.outcome"),
        (TRAIN_OF_8, report_on(TRAIN_OF_8, Outcome.PARTIAL, 8), "report.losses"),
        (TRAIN_OF_8, report_on(TRAIN_OF_8, Outcome.PARTIAL, 0), "report.losses"),
        (TRAIN_OF_8, report_on(TRAIN_OF_8, losses=(1.0,) * 5 + (NAN, 1.0, 1.0)), "report.losses[5]"),
        (TRAIN_OF_8, report_on(TRAIN_OF_8, losses=(INF,) + (1.0,) * 7), "report.losses[0]"),
        (TRAIN_OF_8, report_on(TRAIN_OF_8, Outcome.PARTIAL, losses=(1.0, -INF)), "report.losses[1]"),
        (PROBE_OF_8, report_on(PROBE_OF_8), "report.validations"),
        (PROBE_OF_8, report_on(PROBE_OF_8, validations=BOTH[:1]), "report.validations"),
        (PROBE_OF_8, report_on(PROBE_OF_8, validations=BOTH[::-1]), "report.validations"),
        (PROBE_OF_8, report_on(PROBE_OF_8, validations=(BOTH[0], *BOTH)), "report.validations"),
        (PROBE_OF_8, report_on(PROBE_OF_8, validations=(*BOTH, Validation(step=5, loss=1.0))), "report.validations"),
        (PROBE_OF_8, report_on(PROBE_OF_8, Outcome.DIVERGED, 5, validations=BOTH), "report.validations"),
        (TRAIN_OF_8, report_on(TRAIN_OF_8, validations=BOTH), "report.validations"),
        (TRAIN_OF_8, report_on(TRAIN_OF_8, validations=(Validation(step=8, loss=NAN),)), "report.validations[0].loss"),
        (TRAIN_OF_8, report_on(TRAIN_OF_8, wall_time_s=-1.0), "report.wall_time_s"),
        (TRAIN_OF_8, report_on(TRAIN_OF_8, replacement=Replacement()), "report.replacement"),
        (TRAIN_OF_8, report_on(TRAIN_OF_8, wall_time_s=NAN), "report.wall_time_s"),
        (TRAIN_OF_8, report_on(TRAIN_OF_8, wall_time_s=1.7e308), "report.wall_time_s"),
        (TRAIN_OF_8, report_on(TRAIN_OF_8, Outcome.FELL_SHORT, 3), "report.outcome"),
        (PROBE_OF_8, report_on(PROBE_OF_8, Outcome.FELL_SHORT, 3), "report.outcome"),
        (TRAIN_OF_8, report_on(TRAIN_OF_8, Outcome.UNREPEATABLE, 3, note="odd"), "report.outcome"),
        (TEST_OF_8, report_on(TEST_OF_8, Outcome.UNREPEATABLE, 3, note="odd"), "report.outcome"),
        (PROBE_OF_8, report_on(PROBE_OF_8, Outcome.UNREPEATABLE, 0, note="odd"), "report.losses"),
        (PROBE_OF_8, report_on(PROBE_OF_8, Outcome.UNREPEATABLE, 9, note="odd"), "report.losses"),
        (PROBE_OF_8, report_on(PROBE_OF_8, Outcome.UNREPEATABLE, 3, note=" "), "report.note"),
        (PROBE_OF_8, report_on(PROBE_OF_8, Outcome.DIVERGED, 3, note="odd"), "report.note"),
        (
            PROBE_OF_8,
            report_on(PROBE_OF_8, Outcome.UNREPEATABLE, 3, note="odd", validations=BOTH[:1]),
            "report.validations",
        ),
        (TRAIN_OF_8, report_on(TRAIN_OF_8, measures={"norm": (1.0,) * 8}), "report.measures"),
        (MEASURED_OF_8, report_on(MEASURED_OF_8, measures={"third": (1.0,) * 8}), "report.measures"),
        (MEASURED_OF_8, report_on(MEASURED_OF_8, measures={"norm": (1.0,) * 7}), "report.measures"),
        (MEASURED_OF_8, report_on(MEASURED_OF_8, measures={"norm": (1.0,) * 8, "other": ()}), "report.measures"),
        (
            MEASURED_OF_8,
            report_on(MEASURED_OF_8, Outcome.PARTIAL, 3, measures={"norm": (1.0,) * 8}),
            "report.measures",
        ),
        (HELD_OF_8, report_on(HELD_OF_8, Outcome.FELL_SHORT, 0), "report.losses"),
        (HELD_OF_8, report_on(HELD_OF_8, Outcome.FELL_SHORT, 9), "report.losses"),
        (HELD_OF_8, report_on(HELD_OF_8, Outcome.FELL_SHORT, losses=(1.0, INF)), "report.losses[1]"),
        (FIRST_OF_8, report_on(FIRST_OF_8, validations=(Validation(step=0, loss=1.0),)), "report.validations"),
        (
            FIRST_OF_8,
            report_on(FIRST_OF_8, validations=(Validation(step=0, loss=INF), BOTH[1])),
            "report.validations[0].loss",
        ),
    ],
)
def test_a_bad_report_is_refused_by_the_field_at_fault(directive: Directive, report: Report, field: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        check_report(directive, report, has_validation=True)
    assert [violation.field for violation in caught.value.violations] == [field]


AVERAGED_OF_8 = TRAIN_OF_8.model_copy(update={"average": Average(memory_steps=4.0, every=2)})


def ending(adopted: Weights = Weights.AVERAGE, memory_steps: float = 4.0, **losses: float) -> Ending:
    return Ending(adopted=adopted, memory_steps=memory_steps, **losses)


@pytest.mark.parametrize(
    ("directive", "report", "field"),
    [
        (TRAIN_OF_8, report_on(TRAIN_OF_8, ending=ending()), "report.ending"),
        (AVERAGED_OF_8, report_on(AVERAGED_OF_8, Outcome.PARTIAL, 3, ending=ending()), "report.ending"),
        (AVERAGED_OF_8, report_on(AVERAGED_OF_8, Outcome.DIVERGED, 3, ending=ending()), "report.ending"),
        (AVERAGED_OF_8, report_on(AVERAGED_OF_8, ending=ending(memory_steps=5.0)), "report.ending.memory_steps"),
        (AVERAGED_OF_8, report_on(AVERAGED_OF_8, ending=ending(last=NAN)), "report.ending.last"),
        (AVERAGED_OF_8, report_on(AVERAGED_OF_8, ending=ending(last=1.0, average=INF)), "report.ending.average"),
    ],
)
def test_an_ending_that_can_not_be_is_refused(directive: Directive, report: Report, field: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        check_report(directive, report, has_validation=True)
    assert [violation.field for violation in caught.value.violations] == [field]


def test_a_job_without_a_validation_has_an_ending_without_one() -> None:
    check_report(AVERAGED_OF_8, report_on(AVERAGED_OF_8, ending=ending()), has_validation=False)
    check_report(AVERAGED_OF_8, report_on(AVERAGED_OF_8, ending=ending(last=1.0)), has_validation=True)
    check_report(AVERAGED_OF_8, report_on(AVERAGED_OF_8), has_validation=True)  # its client could not average
    with pytest.raises(InvalidInputError, match="left out"):
        check_report(AVERAGED_OF_8, report_on(AVERAGED_OF_8, ending=ending(last=1.0)), has_validation=False)


def test_search_steps_have_no_average() -> None:
    with pytest.raises(ValueError, match="steps that stay"):
        Directive.model_validate({**PROBE_OF_8.model_dump(), "average": {"memory_steps": 4.0, "every": 2}})


@pytest.mark.parametrize(
    ("directive", "report", "has_validation"),
    [
        (PROBE_OF_8, report_on(PROBE_OF_8, validations=BOTH), True),
        (PROBE_OF_8, report_on(PROBE_OF_8), False),
        (PROBE_OF_8, report_on(PROBE_OF_8, Outcome.DIVERGED, losses=(1.0, NAN, INF)), True),
        (
            PROBE_OF_8,
            report_on(PROBE_OF_8, Outcome.DIVERGED, 5, validations=(Validation(step=4, loss=INF),)),
            True,
        ),
        (PROBE_OF_8, report_on(PROBE_OF_8, Outcome.DIVERGED, 8), True),
        (PROBE_OF_8, report_on(PROBE_OF_8, Outcome.UNREPEATABLE, 1, note="odd"), True),
        (WARNED_OF_8, report_on(WARNED_OF_8, Outcome.DIVERGED, 3, note="norm was above 1"), True),
        (WARNED_OF_8, report_on(WARNED_OF_8, note="norm was above 1", validations=BOTH), True),
        (PROBE_OF_8, report_on(PROBE_OF_8, Outcome.UNREPEATABLE, losses=(NAN, INF) * 4, note="odd"), True),
        (
            PROBE_OF_8,
            report_on(PROBE_OF_8, Outcome.UNREPEATABLE, 5, note="o", validations=(Validation(step=4, loss=NAN),)),
            True,
        ),
        (TRAIN_OF_8, report_on(TRAIN_OF_8), True),
        (TRAIN_OF_8, report_on(TRAIN_OF_8, Outcome.PARTIAL, 7), True),
        (TRAIN_OF_8, report_on(TRAIN_OF_8, validations=BOTH[1:]), True),
        (MEASURED_OF_8, report_on(MEASURED_OF_8), False),
        (MEASURED_OF_8, report_on(MEASURED_OF_8, measures={"other": (INF, NAN) * 4}), False),
        (MEASURED_OF_8, report_on(MEASURED_OF_8, Outcome.PARTIAL, 3, measures={"norm": (1.0,) * 3}), False),
        (MEASURED_OF_8, report_on(MEASURED_OF_8, Outcome.DIVERGED, 1, measures={"norm": (NAN,)}), False),
        (HELD_OF_8, report_on(HELD_OF_8, Outcome.FELL_SHORT, 1), True),
        (HELD_OF_8, report_on(HELD_OF_8, Outcome.FELL_SHORT, 8, validations=BOTH[1:]), True),
        (FIRST_OF_8, report_on(FIRST_OF_8, validations=(Validation(step=0, loss=2.0), BOTH[1])), True),
        (FIRST_OF_8, report_on(FIRST_OF_8, validations=BOTH[1:]), True),
    ],
)
def test_a_sound_report_is_taken(directive: Directive, report: Report, has_validation: bool) -> None:
    check_report(directive, report, has_validation)


@pytest.mark.parametrize("phase", [Phase.RANGE_TEST, Phase.WARM_UP, Phase.PROBE, Phase.TRAIN])
def test_a_client_that_trained_on_by_itself_joins_again_at_a_snapshot_of_its_own(phase: Phase) -> None:
    transition = machine.create(config(400, bounds=phase is not Phase.RANGE_TEST, **QUICK, warmup_steps=10))
    while transition.directive.phase is not phase:
        transition = step(transition)
    before = transition.state
    joined = machine.advance(before, replaced(before.directive, 30, wasted=7))
    assert joined.state.committed_steps == before.committed_steps + 30
    assert joined.state.search_steps == before.search_steps + 7
    assert joined.directive.number == before.directive.number + 1
    assert joined.directive.snapshot
    assert not joined.directive.restore


@pytest.mark.usefixtures("scripted")
def test_it_may_join_at_the_end_or_after_a_cancel() -> None:
    begun = machine.create(scripted_config("probe", "train", total_steps=20))
    ended = machine.advance(begun.state, replaced(begun.directive, 13, wasted=7))
    assert (ended.state.status, ended.directive.restore) == (Status.FINISHED, False)
    cancelled = machine.advance(machine.cancel(begun.state, "enough"), replaced(begun.directive, 3))
    assert (cancelled.state.status, cancelled.directive.reason) == (Status.CANCELLED, "enough")
    assert cancelled.state.committed_steps == 3


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"n": 301}, "report.losses"),
        ({"n": 200, "wasted": 101}, "report.losses"),
        ({"n": 2, "losses": (1.0, NAN)}, "report.losses[1]"),
        ({"n": 2, "replacement": None}, "report.replacement"),
        ({"n": 2, "replacement": Replacement()}, "report.replacement.profile"),
        ({"n": 2, "validations": (Validation(step=1, loss=1.0),)}, "report.validations"),
        ({"n": 2, "note": "odd"}, "report.note"),
        ({"n": 2, "wall_time_s": -1.0}, "report.wall_time_s"),
    ],
)
def test_what_a_client_can_not_have_done_is_refused(fields: dict[str, Any], field: str) -> None:
    directive = Directive(number=1, phase=Phase.PROBE, n_steps=8, profile=Profile.constant(0.1, 8))
    with pytest.raises(InvalidInputError) as caught:
        check_replacement(replaced(directive, **fields), 300)
    assert [violation.field for violation in caught.value.violations] == [field]


def test_a_refused_report_leaves_the_job_alone() -> None:
    state = until(Phase.TRAIN).state
    before = state.model_dump_json()
    with pytest.raises(InvalidInputError):
        machine.advance(state, report_on(state.directive, n=3))
    assert state.model_dump_json() == before
