"""Changes of a plan as they take effect, some time after they were asked for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuner_server.core.errors import InvalidInputError
from tuner_server.core.job.plan import Plan, changed, check, resolved
from tuner_server.core.messages import MAX_STEPS, ChangeKind, PlanChange

STEPS = st.integers(1, MAX_STEPS)


@given(asked=STEPS, run_steps=st.integers(0, MAX_STEPS - 1), gone_on=st.integers(0, MAX_STEPS), total_steps=STEPS)
def test_an_annealing_never_ends_where_no_run_can(asked: int, run_steps: int, gone_on: int, total_steps: int) -> None:
    """It waits while a search goes on, and is carried out after steps that it did not know of."""
    change, plan = PlanChange(kind=ChangeKind.ANNEAL, anneal_steps=asked), Plan(total_steps=total_steps)
    later = min(run_steps + gone_on, MAX_STEPS - 1)
    effective = resolved(change, plan, later)
    end = changed(plan, effective, later, later).total_steps
    assert end is not None
    assert later < end <= MAX_STEPS
    assert end == min(later + asked, MAX_STEPS)


def test_an_annealing_that_is_too_long_from_here_is_refused_with_what_would_be_right() -> None:
    change = PlanChange(kind=ChangeKind.ANNEAL, anneal_steps=MAX_STEPS)
    with pytest.raises(InvalidInputError, match=f"no more than {MAX_STEPS} with the 5 that were run"):
        check(change, 5, Plan(total_steps=100), "change")
