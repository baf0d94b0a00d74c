"""A run that was stopped is explained wherever it is shown."""

from __future__ import annotations

import io

import pytest
from lrpilot.wire.messages.schedule_parts import merged
from rich.console import Console

from tests.support.jobs.law_training import LawTraining
from tests.support.jobs.sample_jobs import history, stored
from tests.support.jobs.simulated_training import Run, drive
from tuner_server.cli.picture import laid_out, picture
from tuner_server.core.config import JobConfig, LrBounds, StopWhen
from tuner_server.core.stop_evidence import Stopping
from tuner_server.history.timeline import timeline
from tuner_server.history.words.headline import headline
from tuner_server.history.words.numbers import count, steps
from tuner_server.history.words.stopping import stopping
from tuner_server.report.report_file import report_html
from tuner_server.rpc.schedule_messages import schedule_to_pb
from tuner_server.web.pages.views import job_view


@pytest.fixture(scope="module")
def run() -> Run:
    config = JobConfig(
        policy="budget",
        total_steps=1500,
        lr_bounds=LrBounds(min=0.01, max=0.1),
        base_lr=0.1,
        has_validation=True,
        stop_when=StopWhen(gain=0.05),
    )
    return drive(config, LawTraining(scale=1.0, alpha=0.5, annealing=0.02))


def evidence(run: Run) -> Stopping:
    decisions = [exchange.decision for exchange in run.exchanges if exchange.decision is not None]
    found = [decision.stopping for decision in decisions if decision.stopping is not None]
    assert len(found) == 1
    assert found[0] is not None
    return found[0]


def test_the_words_have_the_gain_its_error_and_what_was_asked_for() -> None:
    words = stopping(
        Stopping(
            worth=0.05,
            gain=0.02,
            gain_sd=0.01,
            end_step=4000,
            open_ended=False,
            floor=1.0,
            scale=0.1,
            exponent=0.5,
            annealing=0.02,
            memory=50,
            layer=0.09,
            steps=(100, 200, 300, 400),
            losses=(1.4, 1.3, 1.2, 1.1),
        )
    )
    words = words.replace("\N{NARROW NO-BREAK SPACE}", " ")
    assert "The planned end, after 4 000 steps, would lower the loss by 0.020 ± 0.010" in words
    assert "no more than the 0.05 that is worth it" in words
    assert "0.1 was left to gain by that law, and 0.09 by the learning trend" in words
    assert "1.3 after step 200, 1.2 after step 300, 1.1 after step 400" in words


def test_the_change_is_told_in_committed_steps_as_the_end_is(run: Run) -> None:
    found = timeline(history(run))
    [mark] = found.changes
    said = headline(run.state, found)
    assert mark.committed_step + (mark.change.anneal_steps or 0) == run.state.committed_steps
    assert mark.committed_step < mark.step
    assert f"Finished after {steps(run.state.committed_steps)}." in said
    assert f"After {count(mark.committed_step)} committed steps: the LR anneals over" in said


def test_page_report_and_terminal_say_why_it_stopped(run: Run) -> None:
    words, job, entries = stopping(evidence(run)), stored(run.state), history(run)
    view = job_view(job, timeline(entries))
    assert any(words in stage.why for stage in view.stages)
    assert ("Worth going on for", "0.05 of the validation loss") in [(fact.name, fact.value) for fact in view.details]
    assert "would lower the loss by" in report_html(job, timeline(entries))
    response = merged(schedule_to_pb(job, entries, full=True))
    file = io.StringIO()
    Console(width=200, file=file).print(picture(response.job, laid_out(response)))
    told = " ".join(file.getvalue().split())
    assert " ".join(words.split()) in told
    assert "(the policy: going on to" in told
