from __future__ import annotations

from tuner_server.ops.line_limits import LINES_AT_ONCE, LINES_PER_S, MAX_KINDS, LineLimits


def test_a_kind_may_burst_and_then_has_its_rate_and_the_next_line_says_what_was_left_out() -> None:
    now = [0.0]
    limits = LineLimits(lambda: now[0])
    taken = [limits.take(("call", "INTERNAL")) for _ in range(1000)]
    assert taken == [0] * int(LINES_AT_ONCE) + [None] * (1000 - int(LINES_AT_ONCE))
    now[0] = 1.0
    taken = [limits.take(("call", "INTERNAL")) for _ in range(1000)]
    assert taken[: int(LINES_PER_S)] == [1000 - int(LINES_AT_ONCE), *[0] * (int(LINES_PER_S) - 1)]
    assert taken[int(LINES_PER_S) :] == [None] * (1000 - int(LINES_PER_S))
    assert limits.take(("call", "UNAVAILABLE")) == 0  # another kind
    assert limits.left_out() == {("call", "INTERNAL"): 1000 - int(LINES_PER_S)}
    assert limits.left_out() == {}


def test_answered_calls_have_a_limit_far_above_what_a_process_answers() -> None:
    limits = LineLimits(lambda: 0.0)
    assert [limits.take(("call", "OK"), answered_call=True) for _ in range(2000)] == [0] * 2000
    assert limits.take(("call", "OK"), answered_call=True) is None


def test_kinds_without_bound_share_a_limit() -> None:
    limits = LineLimits(lambda: 0.0)
    taken = [limits.take((str(i),)) for i in range(2 * MAX_KINDS)]
    assert taken.count(0) == MAX_KINDS + LINES_AT_ONCE
