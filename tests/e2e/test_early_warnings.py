"""Probes that a client ends by itself, by what it has measured in a real training."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
from lrpilot.backends.base import Backend
from lrpilot.run.early_warnings import Seen, look
from lrpilot.transport.scripted import ScriptedTransport
from lrpilot.tuner import Tuner
from lrpilot.v1 import tuner_pb2 as pb
from torch import nn

from benchmarks.quality.local import LocalTransport
from tests.support.training.no_trace import batches, loop, network, plain_run, probed_run, script
from tests.support.training.scripted_directives import ResumableScript, probe, training

NORM = "gradient_norm"


def sign(level: float, row: int = 5, *, ends: bool = True) -> pb.EarlyWarning:
    """Every gradient's norm is above the level or, with a high one, none."""
    return pb.EarlyWarning(measure=NORM, rule=pb.WARNING_RULE_ABOVE, level=level, row=row, ends=ends)


ALWAYS, NEVER = sign(1e-12), sign(1e12)


def warned(directive: pb.Directive, *signs: pb.EarlyWarning) -> pb.Directive:
    """The directive, with these signs to look for."""
    directive.measures.append(NORM)
    directive.warnings.extend(signs)
    return directive


def run(transport: ScriptedTransport, total_steps: int) -> Tuner:
    torch.manual_seed(0)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    tuner = Tuner(model, optimizer, transport=transport, total_steps=total_steps)
    for batch in tuner.batches(batches()):
        loss = model(batch).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        tuner.step(loss)
    return tuner


def test_a_probe_ends_at_the_first_look_after_a_sign_and_says_what_was_seen() -> None:
    script = [warned(probe(0.1, 16, first=True), NEVER), warned(probe(0.2, 16), NEVER, ALWAYS), training(0.01, 4, True)]
    transport = ScriptedTransport(script)
    tuner = run(transport, 36)
    completed, ended, last = transport.reports[:3]
    assert (completed.outcome, len(completed.losses), completed.note) == (pb.OUTCOME_COMPLETED, 16, "")
    assert (ended.outcome, len(ended.losses)) == (pb.OUTCOME_DIVERGED, 6), "five steps, and a look after every two"
    assert ended.note == "gradient_norm was above 1e-12 for 5 steps, up to step 5"
    assert [len(measure.values) for measure in ended.measures] == [6]
    assert (last.outcome, len(last.losses)) == (pb.OUTCOME_COMPLETED, 4)
    assert (tuner.search_steps, tuner.committed_step) == (22, 14), "the script ends before the run"


def test_a_probe_at_its_end_is_completed_and_what_only_is_to_be_told_ends_none() -> None:
    late, told = sign(1e-12, row=16), sign(1e-12, ends=False)
    transport = ScriptedTransport([warned(probe(0.1, 16, first=True), late), warned(probe(0.2, 16), told)])
    run(transport, 40)
    first, second = transport.reports[:2]
    assert (first.outcome, len(first.losses)) == (pb.OUTCOME_COMPLETED, 16)
    assert first.note == "gradient_norm was above 1e-12 for 16 steps, up to step 16"
    assert (second.outcome, len(second.losses)) == (pb.OUTCOME_COMPLETED, 16)
    assert second.note == "gradient_norm was above 1e-12 for 5 steps, up to step 5"


def test_a_probe_that_ends_early_leaves_no_trace() -> None:
    def make() -> Any:
        model = network()
        return loop(model, torch.optim.AdamW(model.parameters(), lr=0.01))

    directives = script()
    for directive in directives:
        if directive.phase == pb.PHASE_PROBE:
            warned(directive, sign(1e-12, row=2))
    _, expected = plain_run(make)
    _, losses = probed_run(make, directives)
    assert losses[: len(expected)] == expected
    assert len(losses) == len(expected) + 10, "what four probes spared of 18 steps is trained with, as the script ends"


def test_committed_steps_have_no_early_warning(caplog: pytest.LogCaptureFixture) -> None:
    transport = ScriptedTransport([probe(0.1, 4, first=True), warned(training(0.01, 8, True), ALWAYS)])
    with caplog.at_level("WARNING", "lrpilot"):
        tuner = run(transport, 12)
    assert tuner.committed_step == 8
    assert "warnings for other steps than those of a probe" in caplog.text


def test_a_run_that_is_resumed_in_a_probe_looks_at_all_of_its_steps() -> None:
    directives = [warned(probe(0.1, 16, first=True), sign(1e-12, row=7)), training(0.01, 4, True)]
    whole = ResumableScript(directives)
    run(whole, 20)
    torch.manual_seed(0)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    first = Tuner(model, optimizer, transport=ResumableScript(directives), total_steps=20)
    steps = iter(first.batches(batches()))

    def step(tuner: Tuner, batch: Any) -> None:
        loss = model(batch).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        tuner.step(loss)

    for _ in range(5):
        step(first, next(steps))
    saved = first.state_dict()
    first.close()
    transport = ResumableScript(directives)
    second = Tuner(model, optimizer, transport=transport, total_steps=20)
    second.load_state_dict(saved)
    for batch in second.batches(batches()):
        step(second, batch)
    assert [len(report.losses) for report in transport.reports] == [len(report.losses) for report in whole.reports]
    assert transport.reports[0].note == whole.reports[0].note != ""


@pytest.mark.parametrize(
    ("others", "signs", "seen"),
    [
        (False, (NEVER,), Seen()),
        (True, (NEVER,), Seen("another rank saw a sign that the probe was about to diverge", ends=True)),
        (True, (sign(1.0, 2),), Seen("gradient_norm was above 1 for 2 steps, up to step 2", ends=True)),
        (False, (sign(1.0, 2, ends=False),), Seen("gradient_norm was above 1 for 2 steps, up to step 2")),
    ],
)
def test_of_several_ranks_all_end_a_probe_that_one_ends(
    others: bool, signs: tuple[pb.EarlyWarning, ...], seen: Seen
) -> None:
    backend, ranks = mock.create_autospec(Backend, instance=True), mock.Mock()
    backend.peek_measures.return_value = {NORM: [2.0, 2.0, 2.0]}
    ranks.any.side_effect = lambda own: [own or others]
    assert look(backend, warned(probe(0.1, 16), *signs), ranks) == seen
    assert ranks.any.call_count == 1


def test_a_rank_that_can_not_read_its_measures_meets_the_others_all_the_same() -> None:
    backend, ranks = mock.create_autospec(Backend, instance=True), mock.Mock()
    backend.peek_measures.side_effect = MemoryError("no more")
    ranks.any.return_value = [False]
    assert look(backend, warned(probe(0.1, 16), ALWAYS), ranks) == Seen()
    assert ranks.any.call_count == 1


def test_where_there_is_nothing_to_look_for_nobody_looks() -> None:
    backend = mock.create_autospec(Backend, instance=True)
    assert look(backend, probe(0.1, 16), None) == Seen()
    assert not backend.peek_measures.called


class Told(LocalTransport):
    """A job whose reports are kept."""

    def __init__(self) -> None:
        super().__init__()
        self.reports: list[pb.Report] = []

    def advance(self, request: pb.AdvanceRequest, timeout_s: float) -> pb.AdvanceResponse:
        self.reports.append(request.report)
        return super().advance(request, timeout_s)


def search_of_a_critic(activation: nn.Module, loss_of: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Told:
    """The search of a training that is to tell samples from others, by one output."""
    torch.manual_seed(0)
    critic = nn.Sequential(nn.Linear(4, 8), activation, nn.Linear(8, 1))
    optimizer = torch.optim.SGD(critic.parameters(), lr=0.01)
    transport = Told()
    tuner = Tuner(
        critic,
        optimizer,
        transport=transport,
        total_steps=100_000,
        lr_bounds=(1e-3, 0.3),
        policy_options={"early_warnings": ["output_logit"], "probe_steps": 64},
        logits=critic[-1],
    )
    with tuner:
        while tuner.searching:
            loss = loss_of(critic(torch.randn(16, 4) + 1), critic(torch.randn(16, 4)))
            torch.autograd.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            tuner.step(loss)
    return transport


def test_a_probe_whose_logits_blow_up_ends_early_though_its_losses_look_well() -> None:
    """A critic of Wasserstein's kind without a constraint: the larger its outputs, the lower its loss."""
    transport = search_of_a_critic(nn.Identity(), lambda real, fake: fake.mean() - real.mean())
    ended = [report for report in transport.reports if report.outcome == pb.OUTCOME_DIVERGED]
    assert 1 <= len(ended) < len(transport.reports) - 1, "not at all LRs"
    for report in ended:
        assert re.fullmatch(r"output_logit was on its way above 100000 for 5 steps, up to step \d+", report.note)
        assert len(report.losses) < 64
        [measure] = report.measures
        assert max(measure.values) < 1e5, "it was not there yet"
        assert report.losses[-1] == min(report.losses), "no divergence of losses"


def test_probes_whose_logits_stay_small_are_completed() -> None:
    transport = search_of_a_critic(nn.Tanh(), lambda real, fake: nn.functional.softplus(fake - real).mean())
    assert {report.outcome for report in transport.reports[:-1]} == {pb.OUTCOME_COMPLETED}
    assert not any(report.note for report in transport.reports)
    assert all(value > 0 for report in transport.reports[:-1] for value in report.measures[0].values)
