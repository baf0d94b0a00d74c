"""What contestants see of a run, and what it is judged by."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from benchmarks.quality.training import train
from benchmarks.quality.tuners import Variant
from benchmarks.quality.workloads import WORKLOADS, Session

WORKLOAD = WORKLOADS["smallvalidation"]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


class _Constant:
    def __init__(self, lr: float) -> None:
        self._lr = lr
        self.observed: list[float] = []

    def lr(self, _step: int) -> float:
        return self._lr

    def observe(self, val_loss: float) -> None:
        self.observed.append(val_loss)


def _at_rest() -> tuple[float, float]:
    """The untrained model's validation loss, and what it is judged by."""
    session = WORKLOAD.build(0)
    return session.validate(), session.judge()


def test_a_rule_sees_the_validation_loss_and_not_what_judges() -> None:
    seen, judged = _at_rest()
    rule = _Constant(0.0)
    curve = train(WORKLOAD.build(0), 100, rule)
    assert set(rule.observed) == {seen}
    assert curve.val_losses == rule.observed
    assert curve.final_val_loss == judged != seen


def test_a_tuner_sees_the_validation_loss_and_not_what_judges(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, judged = _at_rest()
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda _self: None)
    curve = Variant("budget").run(WORKLOAD, None, 100, 0)
    assert set(curve.val_losses) == {seen}
    assert curve.final_val_loss == judged


def test_the_weights_that_are_put_in_place_are_validated_and_judged() -> None:
    @contextmanager
    def zeros(session: Session) -> Iterator[None]:
        own = [parameter.detach().clone() for parameter in session.model.parameters()]
        with torch.no_grad():
            for parameter in session.model.parameters():
                parameter.zero_()
            yield
            for parameter, value in zip(session.model.parameters(), own, strict=True):
                parameter.copy_(value)

    curve = train(WORKLOAD.build(0), 100, _Constant(0.01), zeros)
    assert curve.val_losses == pytest.approx([math.log(10)] * len(curve.val_losses))
    assert curve.final_val_loss == pytest.approx(math.log(10))
    assert curve.train_losses[-1] < curve.train_losses[0]


def test_a_wrong_lr_is_what_the_tuner_finds_in_the_optimizer() -> None:
    # So short a run has no search: it takes the LR that was set.
    assert Variant("budget", base=30).run(WORKLOAD, None, 100, 0).peak_lr == pytest.approx(30 * 1e-3)
