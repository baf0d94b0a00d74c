"""One's own jobs are looked at with no server: the same answers, from the database itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from lrpilot.transport.embedded_server import EmbeddedServer
from lrpilot.v1 import tuner_pb2 as pb
from typer.testing import CliRunner

from tests.support.jobs.sample_jobs import job_config, run_job
from tests.support.jobs.simulated_training import SimulatedTraining
from tuner_server.cli.app import app
from tuner_server.cli.common import readable
from tuner_server.core.errors import NotFoundError
from tuner_server.service.tuner_service import TunerService
from tuner_server.storage import open_storage


@pytest.fixture
def job_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A job in the user's own database, on a machine where no server can start."""
    url = f"sqlite:///{tmp_path}/jobs.db"
    with open_storage(url) as storage, TunerService(storage) as service:
        config = job_config("mine", total_steps=300, validates=False)
        made = run_job(service, config, SimulatedTraining(), 10_000)
    monkeypatch.setenv("LRPILOT_DB", url)

    def refuse(self: EmbeddedServer, db: str | None = None) -> None:
        raise AssertionError("a server was started")

    monkeypatch.setattr(EmbeddedServer, "__init__", refuse)
    return made


def test_jobs_are_listed_and_shown(job_id: str) -> None:
    with readable(None) as own:
        (listed,) = own.list_jobs(pb.ListJobsRequest(page_size=10), 1.0).jobs
        assert (listed.id, listed.config.name, listed.state) == (job_id, "mine", pb.JOB_STATE_FINISHED)
        ended = pb.ListJobsRequest(page_size=10, states=[pb.JOB_STATE_TRAINING])
        assert not own.list_jobs(ended, 1.0).jobs
        whole = own.get_schedule(pb.GetScheduleRequest(job_id=job_id, view=pb.SCHEDULE_VIEW_FULL), 1.0)
        assert sum(segment.n_steps for segment in whole.segments) == listed.committed_steps
        assert len(whole.history) > 1
        brief = own.get_schedule(pb.GetScheduleRequest(job_id=job_id, view=pb.SCHEDULE_VIEW_BASIC), 1.0)
        assert not brief.history
        with pytest.raises(NotFoundError):
            own.get_schedule(pb.GetScheduleRequest(job_id="0" * 32), 1.0)


@pytest.mark.parametrize("command", [["jobs"], ["show", "mine"], ["show", "latest", "--json"]])
def test_commands_that_look_start_no_server(command: list[str], job_id: str) -> None:
    result = CliRunner().invoke(app, command, env={"LRPILOT_SERVER": None})
    assert result.exception is None
    assert "mine" in result.stdout
