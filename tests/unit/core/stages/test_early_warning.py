from __future__ import annotations

import pytest

from tests.support.jobs.sample_jobs import history, job_config, stored
from tests.support.jobs.simulated_training import SimulatedTraining, drive
from tuner_server.core.config import JobConfig
from tuner_server.core.errors import InvalidInputError
from tuner_server.core.job import machine
from tuner_server.core.messages import Directive, Outcome, Phase, Report
from tuner_server.core.stages.early_warning import EarlyWarningName, early_warnings
from tuner_server.history.timeline import timeline
from tuner_server.history.words.reasons import why
from tuner_server.web.pages.views import job_view

NORM = EarlyWarningName.GRADIENT_NORM
HIGH_LR = 0.05
NOTE = "gradient_norm rose above 30 times its median for 5 steps, up to step 9"


def _config(*names: str, measures: tuple[str, ...] = ("gradient_norm", "update_ratio"), members: int = 1) -> JobConfig:
    config = job_config("budget", early_warnings=names)
    return config.model_copy(update={"measures": measures, "members": members})


class Warned(SimulatedTraining):
    """A training whose client ends a probe at a high LR after ten steps."""

    def run(self, directive: Directive) -> Report:
        report = super().run(directive)
        assert directive.profile is not None
        if not directive.warnings or directive.profile.start_lr < HIGH_LR:
            return report
        return report.model_copy(
            update={
                "outcome": Outcome.DIVERGED,
                "losses": report.losses[:10],
                "validations": tuple(v for v in report.validations if v.step <= 10),
                "measures": {name: values[:10] for name, values in report.measures.items()},
                "note": NOTE,
            }
        )


def test_warnings_come_in_one_order_each_once_and_look_at_what_they_are_called() -> None:
    names = [EarlyWarningName.UPDATE_RATIO, NORM, NORM]
    assert [warning.measure for warning in early_warnings(names)] == ["gradient_norm", "update_ratio"]
    assert early_warnings(()) == ()
    assert {warning.measure for warning in early_warnings(list(EarlyWarningName))} == set(EarlyWarningName)


def test_gradients_near_eps_are_told_and_end_nothing() -> None:
    ending = [warning.measure for warning in early_warnings(list(EarlyWarningName)) if warning.ends]
    assert ending == ["gradient_norm", "update_ratio", "output_logit"]


def test_a_job_has_none_unless_it_asks_for_some() -> None:
    run = drive(_config(), SimulatedTraining(validates=True))
    assert not any(exchange.directive.warnings or exchange.directive.measures for exchange in run.exchanges)


def test_every_probe_has_them_and_no_committed_step() -> None:
    run = drive(_config("update_ratio", "gradient_norm"), SimulatedTraining(validates=True))
    expected = early_warnings((NORM, EarlyWarningName.UPDATE_RATIO))
    for exchange in run.exchanges:
        searches = exchange.directive.phase is Phase.PROBE
        assert exchange.directive.warnings == (expected if searches else ())
        assert exchange.directive.measures == (("gradient_norm", "update_ratio") if searches else ())


def test_a_probe_that_ended_early_is_a_censored_observation_and_is_told_of() -> None:
    config = _config("gradient_norm")
    run = drive(config, Warned(validates=True))
    found = timeline(history(run))
    (stage,) = found.stages
    early = [candidate for candidate in stage.candidates if candidate.lr >= HIGH_LR]
    assert early
    assert all(candidate.diverged and candidate.at_least is not None for candidate in early)
    assert stage.lr is not None
    assert stage.lr < HIGH_LR
    words = why(stage, config)
    assert f"ended early: {NOTE}." in words
    assert "diverged" not in words
    outcomes = {row.outcome for row in job_view(stored(run.state), found).stages[0].candidates}
    assert outcomes == {"ended early", "lowest", "completed"}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (_config("output_logit", "gradient_norm"), "output_logit; the client can measure gradient_norm, update_ratio"),
        (_config("gradient_norm", measures=()), "gradient_norm; the client can measure nothing"),
        (_config("gradient_norm", members=4), "probes on replicas by themselves have no measures"),
        (_config("loss"), "early_warnings"),
    ],
)
def test_what_can_not_be_looked_for_is_refused_by_its_name(config: JobConfig, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        machine.create(config)
