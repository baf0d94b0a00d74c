"""What is measured at a job's steps: for its policy, and to be recorded."""

from __future__ import annotations

import pytest
from lrpilot.wire.profile import Profile

from tests.support.jobs.scripted_policy import measuring, replaced, report_on, step
from tests.support.jobs.simulated_training import config
from tuner_server.core.config import JobConfig
from tuner_server.core.errors import InvalidInputError
from tuner_server.core.job import machine
from tuner_server.core.job.machine import Status
from tuner_server.core.messages import Directive, Outcome, Phase


@pytest.mark.usefixtures("scripted")
def test_a_policy_gets_what_it_asked_to_have_measured_and_every_part_of_a_directive_asks_for_it() -> None:
    transition = machine.create(measuring("norm", "other"))
    assert transition.directive.measures == ("norm",)
    part = report_on(transition.directive, Outcome.PARTIAL, 3, measures={"norm": (1.0, 2.0, 3.0)})
    rest = machine.advance(transition.state, part)
    assert rest.directive.measures == ("norm",)
    last = report_on(rest.directive, measures={"norm": (4.0,) * 5})
    assert machine.advance(rest.state, last).directive.measures == ("norm",)
    with pytest.raises(InvalidInputError, match="measures"):
        machine.advance(rest.state, report_on(rest.directive, measures={"norm": (4.0,) * 8}))


@pytest.mark.usefixtures("scripted")
def test_a_policy_that_asks_for_what_the_client_can_not_measure_breaks_the_contract() -> None:
    with pytest.raises(InvalidInputError, match=r"'scripted' can't tune this job: PolicyError: measures .* norm"):
        machine.create(measuring("other"))
    started = machine.create(measuring("norm"))
    state = started.state.model_copy(update={"config": measuring()})
    failed = machine.advance(state, report_on(started.directive))
    assert failed.state.status is Status.FAILED
    assert "norm" in failed.state.message


def test_a_measure_is_asked_for_once() -> None:
    probe = Directive(phase=Phase.PROBE, n_steps=8, profile=Profile.constant(0.1, 8))
    with pytest.raises(ValueError, match="twice"):
        Directive.model_validate(probe.model_dump() | {"measures": ("norm", "norm")})


@pytest.mark.usefixtures("scripted")
def test_steps_of_the_clients_own_have_no_measures() -> None:
    transition = machine.create(measuring("norm"))
    own = replaced(transition.directive, 3, measures={"norm": (1.0,) * 3})
    with pytest.raises(InvalidInputError) as caught:
        machine.advance(transition.state, own)
    assert [violation.field for violation in caught.value.violations] == ["report.measures"]


def recording(*names: str, asked: tuple[str, ...] = (), script: tuple[str, ...] = ("train",)) -> JobConfig:
    options = {"script": script, "measures": asked}
    update = {"measures": ("norm", "other"), "recorded": names, "policy": "scripted", "policy_options": options}
    return config(100).model_copy(update=update)


@pytest.mark.usefixtures("scripted")
def test_what_is_recorded_is_measured_at_every_committed_step_and_at_no_other() -> None:
    script = ("warm_up", "train", "probe", "train", "stop")
    transition, asked = machine.create(recording("norm", script=script)), []
    while transition.directive.phase is not Phase.STOP:
        asked.append(transition.directive.measures)
        transition = step(transition)
    assert asked == [("norm",), ("norm",), (), ("norm",)]
    rest = step(machine.create(recording("norm")), Outcome.PARTIAL, 2).directive
    assert rest.measures == ("norm",)


@pytest.mark.usefixtures("scripted")
def test_what_the_policy_asks_for_comes_before_what_is_recorded() -> None:
    assert machine.create(recording("norm", "other", asked=("other",))).directive.measures == ("other", "norm")


@pytest.mark.parametrize(
    ("measures", "recorded", "words"),
    [
        (("norm",), ("norm", "secrets"), r"can't measure secrets; give some of norm"),
        ((), ("norm",), r"can't measure norm; leave it out"),
        (("norm",), ("norm", "norm"), r"there twice"),
        (("norm",), ("no name",), r"match"),
    ],
)
def test_what_can_not_be_measured_is_not_recorded(
    measures: tuple[str, ...], recorded: tuple[str, ...], words: str
) -> None:
    with pytest.raises(InvalidInputError, match=words) as caught:
        JobConfig.checked(base_lr=0.1, measures=measures, recorded=recorded)
    assert caught.value.violations[0].field.startswith("recorded")
