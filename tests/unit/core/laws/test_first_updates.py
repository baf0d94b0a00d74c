"""What the first updates of an optimizer make of the best LR of a probe."""

from __future__ import annotations

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tuner_server.core.config import LARGEST_UPDATE, MAX_FIRST_UPDATES, SMALLEST_UPDATE
from tuner_server.core.laws.first_updates import LARGEST, factor

AT = [2**i for i in range(11)]


def momentum(m: float) -> list[float]:
    return [(1 - m**k) / (1 - m) for k in AT]


def mean_of_squares(alpha: float, n: int) -> float:
    """The mean of the first n updates of RMSprop."""
    return sum(1 / math.sqrt(1 - alpha**k) for k in range(1, n + 1)) / n


@pytest.mark.parametrize("sizes", [(), [1.0] * 11, momentum(0.9), momentum(0.5), momentum(0.0)])
def test_the_usual_optimizers_are_not_corrected(sizes: list[float]) -> None:
    for n, n_steps in ((10, 500), (20, 4000), (65, 100_000)):
        assert factor(sizes, n, n_steps) == 1.0
        assert factor([size * (1 + 1e-9 * i) for i, size in enumerate(sizes)], n, n_steps) == 1.0


def test_a_longer_momentum_than_usual_lowers_the_lr_by_what_a_probe_does_not_see_of_it() -> None:
    seen = [sum(1 - m**k for k in range(1, 21)) / 20 for m in (0.99, 0.9)]
    whole = [sum(1 - m**k for k in range(1, 4001)) / 4000 for m in (0.99, 0.9)]
    expected = (seen[0] / whole[0]) / (seen[1] / whole[1])
    assert factor(momentum(0.99), 20, 4000) == pytest.approx(expected, rel=0.05)
    assert factor(momentum(0.99), 20, 4000) < factor(momentum(0.95), 20, 4000) < 1


def test_a_mean_of_squares_that_starts_from_zero_raises_it() -> None:
    sizes = [1 / math.sqrt(1 - 0.99**k) for k in AT]
    expected = mean_of_squares(0.99, 20) / mean_of_squares(0.99, 4000)
    assert factor(sizes, 20, 4000) == pytest.approx(expected, rel=0.05)
    assert factor(sizes, 20, 200_000) == pytest.approx(mean_of_squares(0.99, 20), rel=0.05)


def test_updates_that_shrink_with_a_power_of_their_number_are_thought_to_go_on_so() -> None:
    sizes = [1 / math.sqrt(k) for k in AT]
    assert factor(sizes, 20, 1000) == pytest.approx(
        sum(k**-0.5 for k in range(1, 21)) / 20 / (sum(k**-0.5 for k in range(1, 1001)) / 1000), rel=0.05
    )
    assert factor(sizes, 20, 100_000) == LARGEST


@given(
    st.lists(st.floats(SMALLEST_UPDATE, LARGEST_UPDATE), min_size=1, max_size=MAX_FIRST_UPDATES)
    | st.lists(st.sampled_from([SMALLEST_UPDATE, 1.0, LARGEST_UPDATE]), min_size=1, max_size=MAX_FIRST_UPDATES),
    st.integers(1, 10**6),
    st.integers(1, 2**63 - 1),
)
@example([1e-30, 1.0, 1e30], 20, 2**62)
@example([1e30, 1.0, 1e-30], 20, 2**62)
def test_whatever_the_wire_allows_has_a_factor(sizes: list[float], n: int, n_steps: int) -> None:
    assert 1 / LARGEST <= factor(sizes, n, n_steps) <= LARGEST


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=32), st.integers(1, 65), st.integers(1, 10**7))
def test_a_factor_is_within_its_limits_and_knows_no_unit(sizes: list[float], n: int, n_steps: int) -> None:
    found = factor(sizes, n, n_steps)
    assert 1 / LARGEST <= found <= LARGEST
    assert factor([1e3 * size for size in sizes], n, n_steps) == pytest.approx(found, rel=1e-6)
