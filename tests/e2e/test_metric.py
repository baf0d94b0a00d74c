"""A metric that is the better the higher (`mode="max"`): searched for like a loss, and shown as the user gave it."""

from __future__ import annotations

import csv
from typing import Any

import lrpilot
import pytest
import torch
from lrpilot.transport.scripted import ScriptedTransport
from lrpilot.v1 import tuner_pb2 as pb
from torch import nn

from tests.support.servers.server_process import ServerProcess
from tests.support.training.quick_run import SCRIPT, Run
from tuner_server.cli.common import optional
from tuner_server.history.from_wire import job_and_history
from tuner_server.history.thinning import Window
from tuner_server.history.timeline import Timeline, timeline
from tuner_server.history.words.headline import headline
from tuner_server.history.words.promise import Promise
from tuner_server.history.words.reasons import why
from tuner_server.web.charts.curves import job_curves
from tuner_server.web.charts.evidence import stage_curves
from tuner_server.web.server.exports import data_csv

TOTAL = 600
OPTIONS: dict[str, Any] = {"probe_steps": 6, "refinements": 0, "max_candidates": 4}


def run(target: str, mode: str) -> lrpilot.Tuner:
    """A quadratic, whose validation is its distance to the minimum, or one less that."""
    torch.manual_seed(0)
    weight = nn.Parameter(torch.full((200,), 3.0))
    optimizer = torch.optim.SGD([weight], lr=0.05, momentum=0.5)
    sign, offset = (-1.0, 1.0) if mode == "max" else (1.0, -1.0)
    tuner = lrpilot.Tuner(
        nn.ParameterList([weight]),
        optimizer,
        server=target,
        total_steps=TOTAL,
        validate=lambda: sign * float((weight.detach() ** 2).mean()) + offset,
        mode=mode,  # type: ignore[arg-type]  # one of two
        lr_bounds=(1e-3, 1.0),
        policy="budget",
        policy_options=OPTIONS,
    )
    for _ in tuner.batches([0] * 50):
        optimizer.zero_grad()
        loss = 100 * ((weight - torch.randn(200)) ** 2).mean()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        optimizer.step()
        tuner.step(loss)
    tuner.close()
    return tuner


@pytest.fixture(scope="module")
def runs(shared_server: ServerProcess) -> dict[str, tuple[lrpilot.Tuner, pb.GetScheduleResponse]]:
    found = {}
    for mode in ("min", "max"):
        tuner = run(shared_server.target, mode)
        request = pb.GetScheduleRequest(job_id=tuner.job_id, view=pb.SCHEDULE_VIEW_FULL)
        found[mode] = tuner, shared_server.stub.GetSchedule(request, timeout=10)
    return found


Runs = dict[str, tuple[lrpilot.Tuner, pb.GetScheduleResponse]]


def laid_out(response: pb.GetScheduleResponse) -> Timeline:
    return timeline(job_and_history(response)[1], maximises=response.job.config.maximises)


def test_it_is_searched_for_like_the_loss_that_is_minus_it(runs: Runs) -> None:
    (lower, _), (higher, _) = runs["min"], runs["max"]
    assert higher.schedule.lrs() == lower.schedule.lrs()
    assert higher.schedule.losses == lower.schedule.losses
    assert len(higher.schedule.probes) > 2


def test_the_schedule_has_it_as_it_was_given_on_either_side(runs: Runs) -> None:
    tuner, response = runs["max"]
    schedule = tuner.schedule
    assert schedule.mode == "max"
    assert 0.9 < schedule.validations[-1].loss < 1  # one less a distance that is nearly none
    assert schedule.validations == lrpilot.Schedule.from_response(response).validations
    probes = lrpilot.Schedule.from_response(response).probes
    assert [probe.validations for probe in probes] == [probe.validations for probe in schedule.probes]
    assert schedule.ending is not None
    assert schedule.ending.last == pytest.approx(schedule.validations[-1].loss)
    figure = schedule.plot()
    assert figure.axes[-1].get_ylabel() == "validation metric"


def test_what_people_read_has_its_own_sign(runs: Runs) -> None:
    _, response = runs["max"]
    job, found = response.job, laid_out(response)
    state = job_and_history(response)[0].state
    assert 0.9 < float(optional(job, "best_validation")) < 1
    assert float(optional(job, "last_loss")) > 0
    said = why(next(stage for stage in found.stages if stage.best is not None), state.config)
    assert "the highest metric, " in said
    assert "loss" not in said
    assert "\u2212" not in said.split("metric")[1].split(",")[0]
    promise = Promise.of(found)
    assert promise is not None
    assert ", above the " in promise.words
    assert "\u2212" not in promise.words
    # The training loss stays one.
    assert "The loss went from" in headline(state, found)


def test_charts_and_files_have_its_own_sign(runs: Runs) -> None:
    _, response = runs["max"]
    found, (job, history) = laid_out(response), job_and_history(response)
    curve = job_curves(found, Window(0, found.n_steps, 100))["validation"]["y"]
    assert 0.9 < (curve[-1] or 0) < 1
    stage = next(stage for stage in found.stages if stage.best is not None)
    drawn = stage_curves(stage, job.state.config)
    assert stage.best is not None
    chosen = drawn["candidate_lr"].index(stage.best.lr)
    losses = [loss for loss in drawn["candidate_loss"] if loss is not None]
    assert drawn["candidate_loss"][chosen] == max(losses)
    rows = list(csv.DictReader("".join(data_csv(job, history)).splitlines()))
    assert 0.9 < float([row["validation_metric"] for row in rows if row["validation_metric"]][-1]) < 1


def test_it_needs_something_to_be_maximised() -> None:
    for arguments, words in (
        ({"mode": "max", "validate": None}, 'mode: "max" tells what validate gives, and there is no validate'),
        ({"mode": "higher"}, 'mode: \'higher\'; give "min" where validate gives a loss, or "max"'),
    ):
        with pytest.raises(lrpilot.ConfigError, match=words):
            Run().tuner(ScriptedTransport(SCRIPT), **arguments)


def test_a_run_is_not_resumed_in_the_other_direction(shared_server: ServerProcess) -> None:
    state = None
    for mode in ("max", "min"):
        run = Run()
        tuner = lrpilot.Tuner(
            nn.ParameterList([run.parameter]),
            run.optimizer,
            server=shared_server.target,
            total_steps=120,
            validate=lambda: 0.5,
            mode=mode,
        )
        with tuner:
            if state is None:
                state = tuner.state_dict()
            else:
                with pytest.raises(
                    lrpilot.ConfigError, match='mode: "min", but the run of the checkpoint was begun with "max"'
                ):
                    tuner.load_state_dict(state)
