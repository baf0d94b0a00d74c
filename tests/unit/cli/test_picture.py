"""A job as text, of jobs that a simulated training ran."""

from __future__ import annotations

import io
import subprocess
import sys
from statistics import fmean

import pytest
from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.wire.messages.schedule_parts import merged
from rich.console import Console

from tests.support.jobs.broken_promises import DEADLY_TWICE, DyingTraining
from tests.support.jobs.sample_jobs import history, job_config, stored
from tests.support.jobs.simulated_training import QUICK, SimulatedTraining, config, drive
from tuner_server.cli import picture as pictures
from tuner_server.cli.picture import laid_out, picture
from tuner_server.core.config import JobConfig
from tuner_server.core.job import machine
from tuner_server.core.messages import Outcome, Phase
from tuner_server.history.timeline import timeline
from tuner_server.history.words import headline, lr_sensitivity
from tuner_server.history.words.setback import setback
from tuner_server.history.words.verdict import verdict
from tuner_server.rpc.schedule_messages import schedule_to_pb

TWO_STAGES = config(400, **QUICK)


def response(config: JobConfig, max_directives: int = 10_000) -> pb.GetScheduleResponse:
    run = drive(config, SimulatedTraining(), max_directives=max_directives)
    return merged(schedule_to_pb(stored(run.state), history(run), full=True))


def printed(found: pb.GetScheduleResponse) -> str:
    file = io.StringIO()
    Console(width=200, file=file).print(picture(found.job, laid_out(found)))
    return file.getvalue()


@pytest.mark.parametrize("max_directives", [0, 1, 4, 7, 10_000])
def test_it_says_what_the_page_says(max_directives: int) -> None:
    run = drive(TWO_STAGES, SimulatedTraining(), max_directives=max_directives)
    said = headline.headline(run.state, timeline(history(run)))
    assert " ".join(said.split()) in " ".join(printed(response(TWO_STAGES, max_directives)).split())


def test_it_says_what_an_lr_would_have_cost_that_is_off() -> None:
    found = response(job_config("done", validates=False))
    (words,) = [words for stage in laid_out(found).stages if (words := lr_sensitivity.words(stage))]
    assert words in " ".join(printed(found).split())


def test_a_search_that_goes_on_shows_its_probes() -> None:
    searching = job_config("new", validates=False)
    run = drive(searching, SimulatedTraining(), max_directives=3)
    text = printed(response(searching, 3))
    lines = text.splitlines()
    head = next(i for i, line in enumerate(lines) if "LR tried" in line)
    probes = run.of(Phase.PROBE)
    assert len(probes) == 4
    for line, exchange in zip(lines[head + 2 : head + 2 + len(probes)], probes, strict=True):
        assert exchange.directive.profile is not None
        lr, *rest = line.split()
        assert float(lr) == pytest.approx(exchange.directive.profile.start_lr, rel=0.01)
        if exchange.report is None:
            assert rest == ["running"]
        else:
            loss = fmean(exchange.report.losses[-10:])
            assert rest[:2] == [str(exchange.report.n_steps), f"{loss:.3g}"]
            assert ("diverged" in rest) is (exchange.report.outcome is Outcome.DIVERGED)
    assert "Nothing is committed yet" in text
    assert "committed steps" not in text, "no table of stages before there is one"
    assert "search (rolled back)" in text, "the probes are drawn"


def test_a_probe_of_a_job_that_was_cancelled_is_not_said_to_run() -> None:
    run = drive(TWO_STAGES, SimulatedTraining(), max_directives=1)
    text = printed(merged(schedule_to_pb(stored(machine.cancel(run.state, "wrong data")), history(run), full=True)))
    assert "not reported" in text
    assert "running" not in text


def test_a_range_test_says_where_it_goes() -> None:
    assert "1×10⁻⁶ to" in printed(response(config(800, bounds=False, **QUICK), 0))


def test_stages_count_from_one() -> None:
    found = response(TWO_STAGES)
    n_stages = len(laid_out(found).stages)
    lines = printed(found).splitlines()
    head = next(i for i, line in enumerate(lines) if "search steps" in line)
    rows = [line.split() for line in lines[head + 2 : head + 2 + n_stages]]
    assert [row[0] for row in rows] == [str(i + 1) for i in range(n_stages)]
    assert [row[0] for row in rows] == [str(stage) for stage in dict.fromkeys(each.stage for each in found.segments)]


def test_of_many_stages_the_latest_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job may have thousands."""
    monkeypatch.setattr(pictures, "MAX_STAGES", 1)
    text = printed(response(TWO_STAGES))
    lines = text.splitlines()
    head = next(i for i, line in enumerate(lines) if "search steps" in line)
    assert [line.split()[:1] for line in lines[head + 2 : head + 4]] == [["4"], []]
    assert "3 earlier stages are not shown; `lrpilot export` writes them all." in text


def test_the_axis_ends_at_the_steps_that_were_run() -> None:
    [axis] = [line.split() for line in printed(response(TWO_STAGES)).splitlines() if line.startswith("step ")]
    assert axis == ["step", "0", "200", "400"]


def test_steps_that_fell_short_say_so_in_their_stage_and_with_the_evidence() -> None:
    run = drive(job_config("dying", total_steps=800), DyingTraining(deadly_lr=DEADLY_TWICE, validates=True))
    found = merged(schedule_to_pb(stored(run.state), history(run), full=True))
    text = printed(found)
    rows = [line for line in text.splitlines() if "fell short, 100 steps rolled back" in line]
    assert [row.split("  ")[1].strip() for row in rows] == ["1", "1, part 2"]
    words = " ".join(text.split())
    for stage in timeline(history(run)).stages[1:]:
        assert stage.retreats_from is not None
        assert " ".join(setback(stage, stage.retreats_from).split()) in words
    said = verdict(run.state, timeline(history(run)))
    assert f"{said.words}. {said.why}" in words
    assert "search, or committed at first (rolled back)" in words


def test_steps_that_diverged_say_so_in_their_stage() -> None:
    run = drive(job_config("hot"), SimulatedTraining(edge_lr=1e-6, validates=True), max_directives=12)
    text = printed(merged(schedule_to_pb(stored(run.state), history(run), full=True)))
    assert "diverged, " in text
    assert "fell short" not in text


def test_a_run_that_is_too_short_for_a_search_says_so() -> None:
    short = job_config("short", total_steps=400, validates=False)
    assert "No search: 400 steps are too few for one" in " ".join(printed(response(short, 0)).split())
    finished = " ".join(printed(response(short)).split())
    assert "Finished, without a search." in finished
    assert finished.count("are too few for one") == 1


def test_it_needs_no_pytorch() -> None:
    """`lrpilot show` would wait seconds for it."""
    code = "import sys, tuner_server.cli.picture; print('torch' in sys.modules or 'scipy' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
