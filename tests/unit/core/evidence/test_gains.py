"""Whether stages still gain something, beyond the noise."""

from __future__ import annotations

import numpy as np
import pytest

from tuner_server.core.evidence.gains import Gains
from tuner_server.core.messages import Outcome, Report, Validation


def report(loss: float, validation: float | None = None, sd: float = 0.1, seed: int = 0) -> Report:
    losses = loss + sd * np.random.default_rng(seed).standard_normal(100)
    validations = () if validation is None else (Validation(step=50, loss=9.0), Validation(step=100, loss=validation))
    return Report(directive_number=1, outcome=Outcome.PARTIAL, losses=tuple(losses.tolist()), validations=validations)


def test_a_stage_that_gains_more_than_the_noise_counts() -> None:
    gains = Gains().after(report(1.0)).after(report(0.9, seed=1))
    assert gains.without == 0
    assert gains.best == pytest.approx(0.9, abs=0.03)


def test_one_that_gains_less_does_not_and_the_best_stays() -> None:
    gains = Gains().after(report(1.0))
    for seed in range(1, 4):
        gains = gains.after(report(1.0, seed=seed))
    assert gains.without == 3
    assert gains.best == pytest.approx(1.0, abs=0.03)
    assert gains.after(report(0.5)).without == 0


def test_validations_count_where_there_are_any() -> None:
    gains = Gains().after(report(1.0, 2.0)).after(report(0.1, 2.1))
    assert (gains.best, gains.without) == (2.0, 1)
    assert gains.after(report(0.1, 1.9)).without == 0


@pytest.mark.parametrize(("scale", "shift"), [(4.0, 0.0), (1.0, -100.0), (0.25, 7.0)])
def test_only_differences_count(scale: float, shift: float) -> None:
    def told(loss: float, seed: int) -> Report:
        plain = report(loss, seed=seed)
        return plain.model_copy(update={"losses": tuple(scale * each + shift for each in plain.losses)})

    for end in (0.9, 0.97, 0.99):
        plain = Gains().after(report(1.0)).after(report(end, seed=1))
        assert Gains().after(told(1.0, 0)).after(told(end, 1)).without == plain.without
