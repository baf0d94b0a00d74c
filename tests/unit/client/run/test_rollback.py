"""When a rollback is possible, and when it is due."""

from __future__ import annotations

import pytest
from lrpilot.run.rollback import Rollback


@pytest.mark.parametrize("possible", [True, False])
@pytest.mark.parametrize("stay", [True, False])
def test_steps_that_are_not_to_stay_are_due_where_there_is_a_snapshot(possible: bool, stay: bool) -> None:
    rollback = Rollback(possible=possible)
    rollback.steps_reported(stay=stay)
    assert rollback.due is (possible and not stay)
    rollback.begun()
    assert not rollback.due
    assert rollback.possible is possible


def test_the_last_attempt_at_a_snapshot_counts() -> None:
    rollback = Rollback()
    assert not rollback.possible
    rollback.snapshot_taken()
    assert rollback.possible
    rollback.snapshot_failed()
    assert not rollback.possible


def test_an_end_of_the_tuning_leaves_what_is_due() -> None:
    rollback = Rollback(possible=True)
    rollback.steps_reported(stay=False)
    assert not rollback.abandoned
    rollback.abandon()
    assert (rollback.possible, rollback.due, rollback.abandoned) == (True, True, True)
