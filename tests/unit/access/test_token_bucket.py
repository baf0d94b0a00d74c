"""A bucket lets its rate through, and says when the next call may come."""

from __future__ import annotations

import pytest

from tuner_server.access.token_bucket import TokenBucket


def test_a_second_s_worth_at_once_and_then_its_rate() -> None:
    bucket = TokenBucket(10.0, now=100.0)
    assert [bucket.take(100.0) for _ in range(10)] == [0.0] * 10
    assert bucket.take(100.0) == pytest.approx(0.1)
    assert bucket.take(100.05) == pytest.approx(0.05)
    assert bucket.take(100.101) == 0.0
    assert bucket.take(100.101) > 0.0


def test_who_waits_as_long_as_it_says_is_let_through() -> None:
    bucket = TokenBucket(3.0, now=0.0)
    now, passed = 0.0, 0
    while now < 20.0:
        wait = bucket.take(now)
        passed += wait == 0.0
        now += wait + 1e-9
    assert passed == pytest.approx(3 + 3 * 20, abs=1)


def test_idle_time_is_not_saved_up_beyond_a_second() -> None:
    bucket = TokenBucket(2.0, now=0.0)
    assert sum(bucket.take(1000.0) == 0.0 for _ in range(10)) == 2


def test_less_than_one_call_a_second() -> None:
    bucket = TokenBucket(0.1, now=0.0)
    assert bucket.take(0.0) == 0.0
    assert bucket.take(0.0) == pytest.approx(10.0)
    assert bucket.take(10.01) == 0.0
