"""What is taken along of a job with measures, and what a server keeps of them and gives to others."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from collections.abc import Iterator
from urllib.parse import unquote

import pytest
from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.wire.messages.schedule_parts import merged

from tests.support.extensions.measuring_policy import Measuring
from tests.support.jobs.sample_jobs import job_config, run_job
from tests.support.jobs.simulated_training import SimulatedTraining
from tuner_server.access.principal import DEFAULT_PROJECT
from tuner_server.core import policies
from tuner_server.core.messages import Phase
from tuner_server.history.from_wire import job_and_history
from tuner_server.rpc.schedule_messages import schedule_to_pb
from tuner_server.service.tuner_service import TunerService
from tuner_server.storage import open_storage
from tuner_server.web.server.exports import COLUMNS, attachment, data_csv, data_json

MEASURES = ("update_norm", "gradient_norm")


@pytest.fixture
def service(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[TunerService]:
    monkeypatch.setitem(policies.POLICIES, Measuring.name, Measuring)
    db = tmp_path_factory.mktemp("measures") / "jobs.db"
    with open_storage(f"sqlite:///{db}") as storage, TunerService(storage) as service:
        yield service


def run(service: TunerService, *measures: str, max_reports: int = 10_000) -> str:
    config = job_config("measured", Measuring.name, 600, validates=False).model_copy(update={"measures": measures})
    return run_job(service, config, SimulatedTraining(), max_reports)


def test_every_step_of_probes_and_parts_has_its_measures_after_the_other_columns(service: TunerService) -> None:
    stored = service.get_job(DEFAULT_PROJECT, run(service, *MEASURES))
    history = service.history(stored)
    entries = list(history.read())
    assert {entry.directive.phase for entry in entries} >= {Phase.PROBE, Phase.TRAIN}
    assert sum(entry.directive.phase is Phase.TRAIN for entry in entries) > 5  # parts
    rows = list(csv.DictReader(io.StringIO("".join(data_csv(stored, history)))))
    assert list(rows[0]) == [*COLUMNS, "gradient_norm", "update_norm"]
    assert len(rows) == stored.state.run_steps
    for row in rows:
        assert float(row["gradient_norm"]) == float(row["update_norm"]) == 2 * float(row["loss"])
    data = json.loads("".join(data_json(stored, history)))
    assert data["columns"] == list(rows[0])
    assert [row[-1] for row in data["rows"]] == [float(row["update_norm"]) for row in rows]


def test_a_step_without_a_measure_has_an_empty_cell_and_one_that_is_no_number_its_name(service: TunerService) -> None:
    class Forgetful(SimulatedTraining):
        """Measures probes alone, badly."""

        def run(self, directive):  # type: ignore[no-untyped-def]  # as of the base
            report = super().run(directive)
            values = (math.nan, math.inf) * (report.n_steps // 2)
            measures = {"gradient_norm": values} if directive.phase is Phase.PROBE else {}
            return report.model_copy(update={"measures": measures})

    config = job_config("measured", Measuring.name, 600, validates=False)
    config = config.model_copy(update={"measures": ("gradient_norm",)})
    stored = service.get_job(DEFAULT_PROJECT, run_job(service, config, Forgetful()))
    found = service.history(stored)
    rows = list(csv.DictReader(io.StringIO("".join(data_csv(stored, found)))))
    assert {row["gradient_norm"] for row in rows if row["phase"] == "probe"} == {"nan", "inf"}
    assert {row["gradient_norm"] for row in rows if row["phase"] == "train"} == {""}
    data = json.loads("".join(data_json(stored, found)))
    assert {row[-1] for row in data["rows"]} == {"nan", "inf", None}


def test_a_job_without_measures_is_exported_as_ever(service: TunerService) -> None:
    stored = service.get_job(DEFAULT_PROJECT, run(service))
    rows = csv.reader(io.StringIO("".join(data_csv(stored, service.history(stored)))))
    assert next(rows) == list(COLUMNS)


def test_measures_come_back_over_the_wire_as_they_were_stored(service: TunerService) -> None:
    stored = service.get_job(DEFAULT_PROJECT, run(service, *MEASURES))
    message = merged(schedule_to_pb(stored, service.history(stored), full=True))
    job, history = job_and_history(pb.GetScheduleResponse.FromString(message.SerializeToString()))
    assert job.state.config.measures == MEASURES
    entries = list(service.history(stored).read(losses=True, measures=True))
    assert list(history)[:-1] == [
        dataclasses.replace(e, report=dataclasses.replace(e.report, report_time=stored.update_time))
        for e in entries
        if e.report is not None
    ]
    measured = [(entry.directive.measures, entry.report.measures) for entry in history if entry.report is not None]
    assert all(set(found) == set(asked) == set(MEASURES) for asked, found in measured)


def test_a_job_that_is_taken_back_is_replayed_with_its_measures(service: TunerService) -> None:
    job_id = run(service, *MEASURES, max_reports=12)
    Measuring.seen.clear()
    back = service.resume_job(DEFAULT_PROJECT, job_id, 9).state.directive
    assert (back.number, back.measures) == (9, MEASURES)
    assert Measuring.seen
    assert all(set(report.measures) == set(MEASURES) for _, report in Measuring.seen)


@pytest.mark.parametrize(
    "title", ["-o", "--help", "..", "=x", "CON", "nul.txt", "con .x", "COM¹.x", "CONIN$.txt", "😀", "../x", ""]
)
def test_a_file_has_a_name_that_is_neither_an_option_nor_a_device(title: str) -> None:
    value = attachment(title, "data.csv")["Content-Disposition"]
    names = [part.rpartition("=")[2].strip('"').removeprefix("UTF-8''") for part in value.split("; ")[1:]]
    for name in map(unquote, names):
        assert name[0].isalnum() or name[0] == "😀"
        assert name.partition(".")[0].strip().upper() not in {"CON", "NUL", "COM¹", "CONIN$"}
