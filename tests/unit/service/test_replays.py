"""A job is taken back while a former life of its run still reports."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from tests.support.jobs.sample_jobs import job_config
from tests.support.jobs.simulated_training import SimulatedTraining
from tuner_server.access.principal import DEFAULT_PROJECT as PROJECT
from tuner_server.core.config import JobConfig
from tuner_server.core.errors import PreconditionError
from tuner_server.core.job import machine
from tuner_server.core.job.state import Transition
from tuner_server.core.messages import Directive, Report
from tuner_server.core.search.prior import Prior
from tuner_server.service.tuner_service import TunerService
from tuner_server.storage import open_storage

TAKEN_BACK_TO = 5
GONE_ON = 3


@pytest.fixture
def service(tmp_path: Path) -> Iterator[TunerService]:
    with open_storage(f"sqlite:///{tmp_path}/jobs.db") as storage, TunerService(storage) as service:
        yield service


class FormerLife:
    """A client that reports on its job, and knows of no other."""

    def __init__(self, service: TunerService) -> None:
        self._service, self._training = service, SimulatedTraining(validates=True)
        opened = service.create_job(PROJECT, "opened", job_config("job"))
        self.job_id, self.directives = opened.id, [opened.state.directive]

    def go_on(self) -> None:
        report = self._training.run(self.directives[-1])
        self.directives.append(self._service.advance(PROJECT, self.job_id, report).result())


@pytest.fixture
def former(service: TunerService) -> FormerLife:
    life = FormerLife(service)
    for _ in range(TAKEN_BACK_TO + 1):
        life.go_on()
    return life


def after_each_replay(monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[int], object]) -> list[int]:
    """Has something happen at the end of each replay, which is told how many there were; how long each was."""
    lengths: list[int] = []
    replay = machine.replay

    def followed(config: JobConfig, reports: Iterable[Report], prior: Prior | None = None) -> Transition:
        told = list(reports)
        found = replay(config, told, prior)
        lengths.append(len(told))
        meanwhile(len(lengths))
        return found

    monkeypatch.setattr(machine, "replay", followed)
    return lengths


def test_a_former_life_that_reports_on_does_not_have_the_job_replayed_again(
    service: TunerService, former: FormerLife, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = after_each_replay(monkeypatch, lambda n: former.go_on() if n <= GONE_ON else None)
    taken = service.resume_job(PROJECT, former.job_id, TAKEN_BACK_TO, "present")
    assert lengths == [TAKEN_BACK_TO - 1]
    assert taken.state.directive == former.directives[TAKEN_BACK_TO - 1]
    with pytest.raises(PreconditionError, match="another process has gone on"):
        former.go_on()


def test_what_a_job_is_called_while_it_is_replayed_is_kept(
    service: TunerService, former: FormerLife, monkeypatch: pytest.MonkeyPatch
) -> None:
    after_each_replay(monkeypatch, lambda _: service.describe_job(PROJECT, former.job_id, "renamed", "noted"))
    taken = service.resume_job(PROJECT, former.job_id, TAKEN_BACK_TO, "present")
    assert (taken.state.config.name, taken.note) == ("renamed", "noted")


def test_a_job_that_another_client_takes_back_further_meanwhile_is_replayed_anew(
    service: TunerService, former: FormerLife, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = SimulatedTraining(validates=True, seed=7)

    def taken_back_further(n: int) -> None:
        if n > 1:
            return
        directive: Directive = service.resume_job(PROJECT, former.job_id, 2, "another").state.directive
        for _ in range(TAKEN_BACK_TO):
            directive = service.advance(PROJECT, former.job_id, other.run(directive), "another").result()

    lengths = after_each_replay(monkeypatch, taken_back_further)
    taken = service.resume_job(PROJECT, former.job_id, TAKEN_BACK_TO, "present")
    assert sorted(lengths) == [1, TAKEN_BACK_TO - 1, TAKEN_BACK_TO - 1]
    entries = list(service.history(taken).read())
    assert entries[-1].directive == taken.state.directive
