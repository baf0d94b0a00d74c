"""The limits of ports leave a reserve, however few descriptors there are."""

from __future__ import annotations

import resource

import pytest

from tuner_server.base import descriptors
from tuner_server.base.descriptors import ConnectionLimits


@pytest.mark.parametrize("n_descriptors", [64, 256, 1024, 20_000, descriptors.MOST])
def test_connections_leave_a_reserve(n_descriptors: int) -> None:
    limits = ConnectionLimits.of(n_descriptors)
    reserve = n_descriptors - limits.rpc - limits.dashboard - limits.operators
    assert reserve >= min(descriptors.RESERVE, n_descriptors // 2)
    assert min(limits.rpc, limits.dashboard, limits.operators) > 0


@pytest.mark.parametrize(
    ("now", "raised_to", "usable"),
    [
        ((1024, 4096), 4096, 4096),
        ((1024, 2**20), descriptors.MOST, descriptors.MOST),
        ((1024, resource.RLIM_INFINITY), descriptors.MOST, descriptors.MOST),
        ((256, 256), None, 256),
        ((2**20, 2**20), None, descriptors.MOST),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), None, descriptors.MOST),
    ],
)
def test_the_limit_is_raised_as_far_as_it_may(
    now: tuple[int, int], raised_to: int | None, usable: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _which: now)
    monkeypatch.setattr(resource, "setrlimit", lambda _which, limits: asked.append(limits))
    assert descriptors.raised() == usable
    assert asked == ([] if raised_to is None else [(raised_to, now[1])])
