"""When the tuning has failed, the steps that are left are made at a falling LR."""

from __future__ import annotations

import pytest
from lrpilot.run.coasting import Coasting, attempt
from lrpilot.session.annealing import LONGEST_PART


@pytest.mark.parametrize("remaining", [1, 7, LONGEST_PART, LONGEST_PART + 1, 3 * LONGEST_PART])
def test_it_covers_what_is_left_in_pieces_and_falls_to_zero(remaining: int) -> None:
    lease: Coasting | None = Coasting.over(remaining, 0.4)
    seen: list[float] = []
    while lease is not None:
        assert lease.committed
        assert lease.next_event == lease.directive.n_steps <= LONGEST_PART
        assert lease.remaining == remaining - len(seen)
        seen += [lease.profile.lr(step) for step in range(lease.directive.n_steps)]
        lease = lease.after()
    assert len(seen) == remaining
    assert seen == pytest.approx([0.4 * (1 - step / remaining) for step in range(remaining)])


def test_without_an_end_the_lr_stays() -> None:
    lease: Coasting | None = Coasting.over(None, 0.4)
    for _ in range(3):
        assert lease is not None
        assert {lease.profile.lr(step) for step in range(lease.directive.n_steps)} == {0.4}
        lease = lease.after()


def test_an_attempt_that_fails_gives_nothing() -> None:
    assert attempt(lambda: 3) == 3
    assert attempt(lambda: 1 // 0) is None
