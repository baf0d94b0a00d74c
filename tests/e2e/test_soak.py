"""A server holds no more after an hour of traffic than after half of one."""

from __future__ import annotations

import pytest
from rich.console import Console

from benchmarks.soak.__main__ import soak, table
from benchmarks.soak.bounds import findings
from benchmarks.soak.observation import Sample

HOUR_S = 3600.0


@pytest.mark.slow
@pytest.mark.timeout(2 * HOUR_S)
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_an_hour_leaves_nothing_behind(kind: str) -> None:
    soaked = soak(HOUR_S, kind, workers=1, seed=1, console=Console(stderr=True))
    assert soaked.sound, table(soaked)


def test_what_rises_is_found() -> None:
    def samples(leak_mb: float) -> list[Sample]:
        return [Sample(60.0 * i, 300 + leak_mb * i, 30, 20, 10.0, 0.1 * i) for i in range(61)]

    assert all(finding.kept for finding in findings(samples(0.0)))
    assert [finding.quantity for finding in findings(samples(3.0)) if not finding.kept] == ["memory_mb"]
