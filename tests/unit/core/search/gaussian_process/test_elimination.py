"""Factors of many matrices at once: what they are, and that each is the same bit for bit whatever the others are."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from tuner_server.core.search.gaussian_process.elimination import MAX_NUMBERS, Elimination, elimination, widest
from tuner_server.core.search.gaussian_process.hyperparameters import FloatArray


def problems(n: int, width: int) -> tuple[FloatArray, FloatArray]:
    """Positive definite matrices [width, n, n] of all conditions, and right-hand sides [width, n]."""
    rng = np.random.default_rng([n, width])
    root = rng.normal(size=(width, n, n))
    matrices = root @ root.transpose(0, 2, 1) + 10.0 ** rng.uniform(-4, 2, size=(width, 1, 1)) * np.eye(n)
    return matrices, rng.normal(size=(width, n))


def fill(work: Elimination, matrices: FloatArray, targets: FloatArray) -> Elimination:
    work.columns[:, : work.n] = matrices.transpose(1, 2, 0)
    work.target[:] = targets.T
    return work


@pytest.mark.parametrize("n", [1, 2, 5, 12, 40])
def test_factors_and_log_likelihood_are_lapacks(n: int) -> None:
    matrices, targets = problems(n, 6)
    work = fill(Elimination(n, 6, 6), matrices, targets)
    work.run()
    inverses = work.inverses(np.arange(6))
    for i, (matrix, target) in enumerate(zip(matrices, targets, strict=True)):
        chol = np.linalg.cholesky(matrix)
        pivots = np.diag(chol) ** 2
        np.testing.assert_allclose(work.diagonal[:, i], pivots, rtol=1e-9)
        lower = np.tril(work.unit[:, :n, i].T, -1) + np.eye(n)
        np.testing.assert_allclose(lower * np.sqrt(pivots), chol, rtol=1e-7, atol=1e-9)
        expected = -0.5 * (target @ np.linalg.solve(matrix, target) + np.log(pivots).sum())
        assert work.log_likelihood()[i] == pytest.approx(expected, rel=1e-9)
        inverse = inverses[..., i]
        np.testing.assert_allclose(inverse[:n] @ lower, np.eye(n), atol=1e-9)
        np.testing.assert_allclose(inverse[n] @ matrix, -target, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("start", [0, 1, 3, 7])
def test_what_is_left_of_the_others_is_the_schur_complement(start: int) -> None:
    n = 7
    matrices, targets = problems(n, 5)
    work = fill(Elimination(n, 5), matrices, targets)
    work.run(stop=start)
    left = Elimination(n - start, 5)
    work.remainder(start, left)
    for i, (matrix, target) in enumerate(zip(matrices, targets, strict=True)):
        seen, others = slice(start), slice(start, n)
        gain = matrix[others, seen] @ np.linalg.inv(matrix[seen, seen])
        expected = matrix[others, others] - gain @ matrix[seen, others]
        got = np.tril(left.columns[:, : n - start, i].T)
        np.testing.assert_allclose(got, np.tril(expected), rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(left.target[:, i], target[others] - gain @ target[seen], rtol=1e-6, atol=1e-8)
    whole = fill(Elimination(n, 5), matrices, targets)
    whole.run()
    work.run(start)
    assert work.log_likelihood().tobytes() == whole.log_likelihood().tobytes()


@pytest.mark.parametrize("n", [*range(1, 17), 33])
def test_a_factor_is_the_same_bit_for_bit_in_every_width_and_place(n: int) -> None:
    """Operations on vectors treat their ends otherwise than their middle: every width, and places all along."""
    matrices, targets = problems(n, 131)
    whole = fill(Elimination(n, 131, 131), matrices, targets)
    whole.run()
    inverse = whole.inverses(np.arange(131))
    likelihood = whole.log_likelihood()
    for width in (1, 2, 3, 5, 7, 8, 9, 15, 17, 31, 33, 64, 65, 127, 130):
        for start in {0, 1, 3, 131 - width} & set(range(132 - width)):
            some = slice(start, start + width)
            part = fill(Elimination(n, width, width + start), matrices[some], targets[some])
            part.run()
            for got, expected in (
                (part.diagonal, whole.diagonal),
                (part.target, whole.target),
                (part.inverses(np.arange(width)), inverse),
                (part.log_likelihood(), likelihood),
            ):
                np.testing.assert_array_equal(got, expected[..., some])


def test_a_workspace_is_used_again_by_its_thread_alone_unless_it_is_large() -> None:
    mine = elimination(4, 128)
    assert elimination(4, 128) is mine
    others: list[Elimination] = []
    thread = threading.Thread(target=lambda: others.append(elimination(4, 128)))
    thread.start()
    thread.join()
    assert others[0] is not mine
    assert elimination(200, 128) is not elimination(200, 128)


def test_as_many_are_taken_together_as_stay_close_at_hand_and_one_at_least() -> None:
    for n in (0, 1, 5, 10, 20, 300):
        width = widest(n, 128)
        assert width >= 1
        assert width == 1 or width * 128 * n * (n + 1) <= MAX_NUMBERS
    assert widest(10, 128) == 8
