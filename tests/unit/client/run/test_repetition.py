"""Which first losses of a search are compared, and how a comparison goes on from a checkpoint."""

from __future__ import annotations

import pytest
from lrpilot.run.repetition import Repetition


def begun(repetition: Repetition, *, comparable: bool = True, n_batches: int = 1) -> Repetition:
    repetition.begin(comparable)
    for _ in range(n_batches):
        repetition.draw()
    return repetition


def test_a_probe_whose_losses_are_lost_is_not_compared_and_the_next_one_is() -> None:
    repetition = begun(Repetition())
    assert repetition.comparable
    repetition.lose()
    assert not repetition.comparable
    assert begun(repetition).comparable


def test_other_steps_stay_incomparable_whatever_is_lost() -> None:
    repetition = begun(Repetition(), comparable=False)
    repetition.lose()
    assert not repetition.comparable


@pytest.mark.parametrize("comparable", [True, False])
def test_a_comparison_goes_on_from_a_checkpoint(comparable: bool) -> None:
    repetition = begun(Repetition(), n_batches=2)
    assert not repetition.differs(1.0, 1e-5)
    begun(repetition, comparable=comparable)
    resumed = Repetition.from_state_dict(repetition.state_dict())
    assert resumed.state_dict() == repetition.state_dict()
    assert resumed.comparable is comparable
    resumed.draw()
    assert resumed.differs(2.0, 1e-5)
    assert not resumed.differs(1.0, 1e-5)
