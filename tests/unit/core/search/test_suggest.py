"""Suggestions: where they fall, what they avoid, and that a search by them finds the optimum."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuner_server.core.search.acquisition import Acquisition, LogExpectedImprovement, LowerConfidenceBound
from tuner_server.core.search.gaussian_process.surrogate import Observations, Surrogate
from tuner_server.core.search.suggest import EVIDENCE_SIZE, MIN_SEPARATION, Query, Suggestion, suggest, suggest_all

BOUNDS = (math.log(1e-4), 0.0)
WIDTH = BOUNDS[1] - BOUNDS[0]
ACQUISITIONS: list[Acquisition] = [LowerConfidenceBound(kappa=2.0), LogExpectedImprovement()]


def observe(log_lr: list[float], loss: list[float], censored: list[bool] | None = None) -> Observations:
    return Observations(
        np.array(log_lr, dtype=np.float64),
        np.array(loss, dtype=np.float64),
        np.full(len(log_lr), 4e-4),
        np.array(censored or [False] * len(log_lr), dtype=np.bool_),
    )


def search(
    loss: Callable[[float], float], acquisition: Acquisition, n: int, seed: int
) -> tuple[list[float], list[float], list[bool]]:
    """Log LRs, losses and whether they diverged, of n probes with noise."""
    rng = np.random.default_rng(seed)
    log_lrs: list[float] = []
    losses: list[float] = []
    diverged: list[bool] = []
    for _ in range(n):
        log_lr = suggest(Query(observe(log_lrs, losses, diverged), BOUNDS, acquisition, seed=seed)).log_lr
        value = loss(log_lr)
        log_lrs.append(log_lr)
        diverged.append(math.isinf(value))
        losses.append(6.0 if math.isinf(value) else value + 0.02 * rng.normal())
    return log_lrs, losses, diverged


@pytest.mark.parametrize("acquisition", ACQUISITIONS)
@pytest.mark.parametrize("optimum", [-7.0, -4.5, -2.0])
def test_ten_probes_find_the_optimum(acquisition: Acquisition, optimum: float) -> None:
    for seed in range(3):
        log_lrs, losses, _ = search(lambda x: 2.0 + 0.1 * (x - optimum) ** 2, acquisition, 10, seed)
        # Within three standard deviations of the noise; over the range the loss rises by at least 2.
        assert 0.1 * (log_lrs[int(np.argmin(losses))] - optimum) ** 2 < 0.06


def test_a_cliff_does_not_hide_the_optimum_beside_it() -> None:
    def loss(log_lr: float) -> float:
        return 9.0 if log_lr > -3.0 else 2.0 - 0.15 * (log_lr - BOUNDS[0])

    for seed in range(3):
        log_lrs, losses, _ = search(loss, LowerConfidenceBound(kappa=2.0), 10, seed)
        assert loss(log_lrs[int(np.argmin(losses))]) < loss(-3.0) + 0.15


@pytest.mark.parametrize("acquisition", ACQUISITIONS)
def test_a_search_beside_divergence_stays_mostly_on_the_good_side(acquisition: Acquisition) -> None:
    """The loss falls up to an LR above which every probe diverges."""
    log_lrs, losses, diverged = search(
        lambda x: 2.0 - 0.15 * (x - BOUNDS[0]) if x < -3.0 else math.inf, acquisition, 10, seed=0
    )
    best = int(np.argmin(np.where(diverged, np.inf, losses)))
    assert -4.5 < log_lrs[best] < -3.0
    assert sum(diverged) <= 4


@given(st.integers(0, 2**63))
def test_the_first_lr_is_drawn_by_the_seed_inside_the_bounds(seed: int) -> None:
    first, again = (suggest(Query(observe([], []), BOUNDS, ACQUISITIONS[0], seed=seed)) for _ in range(2))
    assert BOUNDS[0] <= first.log_lr <= BOUNDS[1]
    assert first == again or first.log_lr == again.log_lr
    assert first.evidence is None


def test_first_lrs_cover_the_range() -> None:
    draws = [suggest(Query(observe([], []), BOUNDS, ACQUISITIONS[0], seed=s)).log_lr for s in range(200)]
    counts, _ = np.histogram(draws, bins=4, range=BOUNDS)
    assert counts.min() > 25


@given(
    st.lists(st.tuples(st.floats(*BOUNDS), st.floats(-1e3, 1e3), st.booleans()), min_size=1, max_size=20),
    st.sampled_from([*ACQUISITIONS, LowerConfidenceBound(kappa=1e6)]),
)
@settings(max_examples=60, deadline=None)
def test_suggestions_are_finite_inside_the_bounds_and_new(
    rows: list[tuple[float, float, bool]], acquisition: Acquisition
) -> None:
    log_lr, loss, censored = (list(column) for column in zip(*rows, strict=True))
    suggestion = suggest(Query(observe(log_lr, loss, censored), BOUNDS, acquisition, seed=0))
    assert BOUNDS[0] <= suggestion.log_lr <= BOUNDS[1]
    assert np.abs(np.array(log_lr) - suggestion.log_lr).min() >= MIN_SEPARATION * WIDTH
    evidence = suggestion.evidence
    assert evidence is not None
    for curve in (evidence.mean, evidence.sd, evidence.acquisition):
        assert np.isfinite(curve).all()


def test_where_every_lr_was_tried_the_farthest_from_them_is_next() -> None:
    tried = [*np.linspace(BOUNDS[0], -3.0, 150), *np.linspace(-2.95, BOUNDS[1], 75)]
    observations = observe(tried, [2.0 + 0.1 * (x + 5.0) ** 2 for x in tried])
    suggestion = suggest(
        Query(observations, BOUNDS, LogExpectedImprovement(), seed=0, grid_size=2001, min_separation=0.1)
    )
    assert suggestion.log_lr == pytest.approx(-0.5 * (3.0 + 2.95), abs=0.06)


def test_evidence_is_the_posterior_of_the_surrogate() -> None:
    observations = observe([-8.0, -6.0, -4.0, -2.0], [3.0, 2.4, 2.1, 2.7])
    acquisition = LowerConfidenceBound(kappa=1.0)
    evidence = suggest(Query(observations, BOUNDS, acquisition, seed=0)).evidence
    assert evidence is not None
    assert len(evidence.log_lr) == EVIDENCE_SIZE
    assert (evidence.log_lr[0], evidence.log_lr[-1]) == BOUNDS
    posterior = Surrogate(BOUNDS).fit(observations).posterior(evidence.log_lr)
    np.testing.assert_allclose(evidence.mean, posterior.mixture_mean, rtol=1e-9)
    np.testing.assert_allclose(evidence.sd, np.sqrt(posterior.mixture_variance), rtol=1e-6)
    np.testing.assert_allclose(evidence.acquisition, evidence.sd - evidence.mean, rtol=1e-9)


def test_evidence_of_the_expected_improvement_is_what_it_is_at_those_lrs() -> None:
    observations = observe([-8.0, -6.0, -4.0, -2.0], [3.0, 2.4, 2.1, 2.7])
    acquisition = LogExpectedImprovement()
    evidence = suggest(Query(observations, BOUNDS, acquisition, seed=0)).evidence
    assert evidence is not None
    fitted = Surrogate(BOUNDS).fit(observations)
    best = float(fitted.posterior(observations.log_lr).mixture_mean.min())
    expected = acquisition.evaluate(fitted.posterior(evidence.log_lr), best)
    np.testing.assert_allclose(evidence.acquisition, expected, rtol=1e-9)


def test_pure_exploration_goes_to_the_widest_gap() -> None:
    observations = observe([-9.0, -8.0, -7.0, -2.0, -1.0, 0.0], [2.0, 2.1, 2.0, 2.1, 2.0, 2.1])
    suggestion = suggest(Query(observations, BOUNDS, LowerConfidenceBound(kappa=1e6), seed=0))
    assert suggestion.log_lr == pytest.approx(-4.5, abs=0.3)


def test_same_input_gives_the_same_bits() -> None:
    observations = observe([-8.0, -5.0, -1.0], [2.9, 2.2, 9.0], [False, False, True])
    first, second = (suggest(Query(observations, BOUNDS, ACQUISITIONS[1], seed=0)) for _ in range(2))
    assert first.log_lr == second.log_lr
    assert first.evidence is not None
    assert second.evidence is not None
    np.testing.assert_array_equal(first.evidence.acquisition, second.evidence.acquisition)


@st.composite
def any_query(draw: st.DrawFn) -> Query:
    rows = draw(
        st.lists(
            st.tuples(st.floats(*BOUNDS), st.floats(-1e3, 1e3), st.sampled_from([False, False, True])), max_size=14
        )
    )
    log_lr, loss, censored = (list(column) for column in zip(*rows, strict=True)) if rows else ([], [], [])
    low = draw(st.floats(-12.0, -9.5))
    return Query(
        observe(log_lr, loss, censored),
        (low, draw(st.floats(low + 0.5, 1.0))),
        draw(st.sampled_from(ACQUISITIONS)),
        seed=draw(st.integers(0, 9)),
        grid_size=draw(st.sampled_from([256, 31])),
    )


def bits(suggestion: Suggestion) -> list[bytes]:
    evidence = suggestion.evidence
    curves = [] if evidence is None else [evidence.log_lr, evidence.mean, evidence.sd, evidence.acquisition]
    return [np.float64(suggestion.log_lr).tobytes(), *(curve.tobytes() for curve in curves)]


@given(st.lists(any_query(), min_size=1, max_size=8), st.data())
@settings(max_examples=60, deadline=None)
def test_a_suggestion_is_the_same_bit_for_bit_whatever_else_is_in_the_batch(
    queries: list[Query], data: st.DataObject
) -> None:
    alone = [bits(suggest(query)) for query in queries]
    # Repeats make batches of the same shape, which chance seldom does.
    chosen = data.draw(st.lists(st.integers(0, len(queries) - 1), max_size=24))
    together = [bits(suggestion) for suggestion in suggest_all([queries[i] for i in chosen])]
    assert together == [alone[i] for i in chosen]


@given(st.lists(any_query(), min_size=1, max_size=4))
@settings(max_examples=20, deadline=None)
def test_a_thread_that_has_kept_nothing_yet_gives_the_same_bits(queries: list[Query]) -> None:
    """Workspaces, which a thread keeps, have whatever was in them before."""
    alone = [bits(suggest(query)) for query in queries]
    with ThreadPoolExecutor(1) as fresh:
        assert list(fresh.map(lambda query: bits(suggest(query)), queries[::-1])) == alone[::-1]


@pytest.mark.parametrize("n", [1, 4, 7, 9, 13, 16])
@pytest.mark.parametrize("diverged", [0, 1])
def test_large_batches_give_the_bits_of_small_ones(n: int, diverged: int) -> None:
    rng = np.random.default_rng(n)
    queries = []
    for _ in range(21):
        log_lr = rng.uniform(*BOUNDS, size=n)
        loss = 2.0 + 0.1 * (log_lr + rng.uniform(2, 7)) ** 2 + 0.02 * rng.normal(size=n)
        censored = [i < diverged for i in range(n)]
        queries.append(Query(observe(log_lr.tolist(), loss.tolist(), censored), BOUNDS, ACQUISITIONS[1], seed=0))
    alone = [bits(suggest(query)) for query in queries]
    assert [bits(found) for found in suggest_all(queries)] == alone
    assert [bits(found) for found in suggest_all(queries[::-1])] == alone[::-1]


@pytest.mark.parametrize(("k", "n", "m"), [(1, 1, 257), (4, 5, 261), (7, 10, 266), (3, 16, 272)])
def test_a_product_with_the_queries_is_the_same_wherever_it_lies_in_memory(k: int, n: int, m: int) -> None:
    """What the posterior relies on: it multiplies by BLAS, each search in the shape that it has alone."""
    rng = np.random.default_rng(n)
    rows, correlation, weight = rng.normal(size=(k * (n + 1), n)), rng.random((n, m)), rng.random(k * (n + 1))
    expected = rows @ correlation
    for offset in range(9):
        places = [np.empty(array.size + 9)[offset : offset + array.size] for array in (rows, correlation, expected)]
        moved = [place.reshape(array.shape) for place, array in zip(places, (rows, correlation, expected), strict=True)]
        moved[0][...], moved[1][...] = rows, correlation
        np.testing.assert_array_equal(np.matmul(moved[0], moved[1], moved[2]), expected)
        np.testing.assert_array_equal(weight @ moved[2], weight @ expected)


@given(any_query())
@settings(max_examples=120, deadline=None)
def test_what_was_not_looked_at_has_no_higher_acquisition(query: Query) -> None:
    """The LR is that which evaluating the acquisition everywhere gives."""
    observations, (low, high), size = query.observations, query.bounds, query.grid_size
    if not len(observations):
        return
    grid = low + (high - low) * np.linspace(0.0, 1.0, size)
    posterior = Surrogate(query.bounds).fit(observations).posterior(np.concatenate([grid, observations.log_lr]))
    best = float(posterior.mixture_mean[size:].min())
    value = query.acquisition.evaluate(posterior, best)[:size]
    suggested = suggest(query).log_lr
    apart = np.abs(observations.log_lr[:, None] - grid).min(0)
    eligible = apart >= min(MIN_SEPARATION * (high - low) * (1 + 1e-6), apart.max())
    at = int(np.abs(grid - suggested).argmin())
    # The least noise and equal LRs cost the moments some digits, which the confidence bound is made of.
    assert value[at] >= value[eligible].max() - 1e-5 * (1.0 + abs(value[eligible].max()))


@pytest.mark.parametrize(("k", "n"), [(1, 1), (32, 5), (13, 10), (9, 16)])
def test_small_products_are_the_same_wherever_they_lie_and_however_many_there_are(k: int, n: int) -> None:
    """What the sums over the settings rely on: one product for each setting, of searches that are fitted together."""
    rng = np.random.default_rng(n)
    rows = rng.normal(size=(k + 5, n + 1, n))
    expected = np.matmul(rows.transpose(0, 2, 1), rows)
    for offset in range(9):
        place = np.empty(rows.size + 9)[offset : offset + rows.size].reshape(rows.shape)
        place[...] = rows
        for some in (slice(0, k), slice(3, 4), slice(2, k + 2)):
            part, others = place[some], np.array(place[some])
            np.testing.assert_array_equal(np.matmul(part.transpose(0, 2, 1), others), expected[some])
