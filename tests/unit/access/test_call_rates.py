"""A project is let through at its rate, and told when the next call may come."""

from __future__ import annotations

import pytest

from tuner_server.access.principal import Principal
from tuner_server.access.shares import Shares
from tuner_server.core.errors import RateError


class Project:
    """Calls of one project, at a time that is set."""

    def __init__(self, max_calls_per_s: float | None) -> None:
        self.now = 100.0
        self.caller = Principal("vision", frozenset(), max_calls_per_s=max_calls_per_s)
        self._shares = Shares(clock=lambda: self.now)

    def call(self) -> float:
        """The seconds after which to come again; 0: it was let through."""
        try:
            with self._shares.call(self.caller, streams=False):
                return 0.0
        except RateError as error:
            return error.retry_after_s

    def let_through(self, n: int) -> int:
        """How many of some calls at once."""
        return sum(self.call() == 0.0 for _ in range(n))


def test_a_second_s_worth_at_once_and_then_its_rate() -> None:
    project = Project(10.0)
    assert project.let_through(10) == 10
    assert project.call() == pytest.approx(0.1)
    project.now += 0.05
    assert project.call() == pytest.approx(0.05)
    project.now += 0.051
    assert project.let_through(2) == 1


@pytest.mark.parametrize("rate", [0.3, 3.0, 700.0])
def test_who_waits_as_long_as_it_is_told_is_let_through(rate: float) -> None:
    project = Project(rate)
    refused = 0
    passed = project.let_through(1000)
    for _ in range(50):
        project.now += project.call()
        refused += project.call() > 0.0
        passed += 1
    assert refused == 0
    assert passed == pytest.approx(rate * (project.now - 100.0) + max(rate, 1.0), rel=0.02, abs=1)


def test_idle_time_is_not_saved_up_beyond_a_second() -> None:
    project = Project(2.0)
    project.now += 1000.0
    assert project.let_through(10) == 2


def test_less_than_one_call_a_second() -> None:
    project = Project(0.1)
    assert project.call() == 0.0
    assert project.call() == pytest.approx(10.0)
    project.now += 10.01
    assert project.call() == 0.0


@pytest.mark.parametrize("rate", [1e-300, 1e300])
def test_any_rate_can_be_a_limit(rate: float) -> None:
    assert Project(rate).call() == 0.0


def test_a_limit_that_is_changed_holds_at_once() -> None:
    project = Project(1.0)
    assert project.let_through(3) == 1
    project.caller = Principal("vision", frozenset(), max_calls_per_s=2.0)
    assert project.let_through(3) == 2
    project.caller = Principal("vision", frozenset())
    assert project.let_through(1000) == 1000
