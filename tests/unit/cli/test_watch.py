"""When `lrpilot watch` fetches a history, and what it writes where there is no terminal."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from lrpilot.errors import UnavailableError
from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.wire.messages.schedule_parts import merged

from tests.support.jobs.sample_jobs import history, stored
from tests.support.jobs.simulated_training import QUICK, SimulatedTraining, config, drive
from tuner_server.cli.curve import COLUMNS
from tuner_server.cli.watch import is_behind, pictures, told
from tuner_server.core.job import machine
from tuner_server.core.messages import Phase
from tuner_server.rpc.convert import job_to_pb
from tuner_server.rpc.schedule_messages import schedule_to_pb


def a_job(
    committed_steps: int,
    *,
    total_steps: int | None = 12_800,
    phase: pb.Phase.ValueType = pb.PHASE_TRAIN,
    number: int = 5,
) -> pb.Job:
    return pb.Job(
        state=pb.JOB_STATE_TRAINING,
        config=pb.JobConfig(total_steps=total_steps),
        committed_steps=committed_steps,
        search_steps=100,
        directive=pb.Directive(phase=phase, number=number),
    )


@pytest.mark.parametrize("total_steps", [12_800, None])
def test_a_history_is_fetched_when_the_curves_are_a_column_longer(total_steps: int | None) -> None:
    fetched = a_job(12_600, total_steps=total_steps)
    assert not is_behind(fetched, a_job(12_650, total_steps=total_steps, number=6))
    assert is_behind(fetched, a_job(12_800, total_steps=total_steps, number=6))


def test_a_history_is_fetched_when_something_else_is_done() -> None:
    fetched = a_job(1000)
    probing = a_job(1000, phase=pb.PHASE_PROBE, number=6)
    assert is_behind(fetched, probing)
    assert is_behind(probing, a_job(1000, phase=pb.PHASE_PROBE, number=7)), "a probe has ended"
    assert not is_behind(probing, probing)
    ended = a_job(1000)
    ended.state = pb.JOB_STATE_FINISHED
    assert is_behind(fetched, ended)
    assert is_behind(fetched, a_job(900)), "the client went back to a checkpoint"
    undone = a_job(0, number=6)
    undone.search_steps, undone.given_back_steps = 1100, 1000
    assert is_behind(fetched, undone), "committed steps were rolled back, and the next ones are of the same stage"


def test_a_server_that_restarts_as_a_history_is_fetched_is_waited_for() -> None:
    run = drive(config(400, **QUICK), SimulatedTraining(), max_directives=2)
    found = merged(schedule_to_pb(stored(run.state), history(run), full=True))
    later = pb.Job.FromString(found.job.SerializeToString())
    later.directive.number += 1
    answers: list[pb.GetScheduleResponse | None] = [found, None, found]

    def fetch(_job_id: str) -> pb.GetScheduleResponse:
        if (answer := answers.pop(0)) is None:
            raise UnavailableError("restarting", "UNAVAILABLE")
        return answer

    assert len(list(pictures([found.job, later, later], fetch))) == 2
    assert answers == []


def test_a_server_that_is_not_there_at_first_is_not() -> None:
    def fetch(_job_id: str) -> pb.GetScheduleResponse:
        raise UnavailableError("not there", "UNAVAILABLE")

    with pytest.raises(UnavailableError):
        next(pictures([a_job(0)], fetch))


def test_a_history_is_fetched_no_more_often_than_there_is_something_to_see() -> None:
    """Of a long job with many reports: once a column, once a probe, twice a stage."""
    job_config = config(20_000, tau=500, tau_max=4000, tau_prime=50)
    training, transition = SimulatedTraining(), machine.create(job_config)
    fetched, fetches, others = job_to_pb(stored(transition.state)), 1, 0
    while transition.directive.phase is not Phase.STOP:
        before = transition.directive
        transition = machine.advance(transition.state, training.run(before))
        others += before.phase is Phase.PROBE or transition.directive.phase is not before.phase
        others += transition.directive.stage != before.stage
        now = job_to_pb(stored(transition.state))
        if is_behind(fetched, now):
            fetched, fetches = now, fetches + 1
    assert fetches <= COLUMNS + others + 1


def test_each_change_is_a_line_where_the_output_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    lines: list[str] = []

    def changes() -> Iterator[pb.Job]:
        for committed in (10, 10, 20):
            yield a_job(committed)
            lines.append(capsys.readouterr().out)

    assert told(changes()).committed_steps == 20
    assert lines == [
        "training: 10 committed + 100 search, loss -\n",
        "",
        "training: 20 committed + 100 search, loss -\n",
    ]
