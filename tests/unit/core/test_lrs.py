from __future__ import annotations

import pytest

from tuner_server.core.lrs import same_lr


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [(0.1, 0.1, True), (0.101, 0.1, True), (0.103, 0.1, False), (0.0, 0.1, False), (0.1, 0.0, False), (0.0, 0.0, True)],
)
def test_lrs_that_nobody_would_tell_apart_are_one(a: float, b: float, same: bool) -> None:
    assert same_lr(a, b) is same
