"""Factors of many small matrices at once, element by element.

A loop runs over the elements of a matrix, and every operation in it over all matrices: for a dozen rows that is faster
than calling LAPACK once for each matrix. Each number is made by additions, multiplications and divisions in an order
that depends on its place in its own matrix alone, so it is the same, bit for bit, whatever other matrices are there.

Notation and shapes (w matrices of n rows):

    A  [n, n + 1, w]   the matrices, columns first: A[j, i] is row i of column j; only i >= j is read. Row n is the
                       transposed right-hand side y
    L, D               A = L D L', L unit lower triangular, D diagonal
    C  [n, n + 1, w]   L D; it takes the place of A. Row n is z = L^-1 y: to eliminate a further row of the matrix is to
                       solve for it (Golub and Van Loan, 2013, section 4.1.2, algorithm 4.1.1, column by column)
"""

from __future__ import annotations

import threading

import cachetools
import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

MAX_NUMBERS = 2**17
"""Numbers in A at most, if there is more than one problem: 1 MB, which a core has close at hand."""
_MAX_WIDTH_FACTOR = 8
_KEPT_NUMBERS = 2**21
"""Numbers in the A of all workspaces that a thread keeps: of searches with up to a dozen points, in every width. They
take 40 MB at most."""
_PIVOTS_A_LOG = 16
"""Pivots that are multiplied before the logarithm is taken: each lies between 1e-4 and 1e17."""


class Elimination:
    """The memory for w factorisations, with every view that the loop needs.

    Making the views costs as much as the arithmetic, so it is used again and again; what was in it is lost with the
    next use. It belongs to one thread.

    Attributes:
        columns: [n, n + 1, w] A, to be filled in by the user; then C.
        diagonal: [n, w] the diagonal of A, a view.
        target: [n, w] row n: y, then z, a view.
        unit: [n, n + 1, w] L below the diagonal, columns first; row n is D^-1 z.
        inverse_pivot: [n, w] the diagonal of D^-1.
    """

    def __init__(self, n: int, width: int) -> None:
        """Makes room for matrices with n rows."""
        self.n, self.width = n, width
        self.columns = np.empty((n, n + 1, width))
        self.unit = np.empty_like(self.columns)
        self.inverse_pivot = np.empty((n, width))
        self.diagonal = self.columns.reshape(n * (n + 1), width)[:: n + 2]
        self.target = self.columns[:, n]
        self._solved = self.unit[:, n]
        self._products = np.empty(max((j * (n + 1 - j) for j in range(n)), default=0) * width)
        self._sums = np.empty((n + 1, width))
        self._steps = [self._step(j, j) for j in range(n)]

    def _step(self, j: int, earlier: int) -> tuple[FloatArray, ...]:
        """The views for what `earlier` columns take from column j."""
        rows, width = self.n + 1 - j, self.columns.shape[2]
        return (
            self.columns[:earlier, j:],
            self.unit[:earlier, j, None],
            self._products[: earlier * rows * width].reshape(earlier, rows, width),
            self._sums[:rows],
            self.columns[j, j:],
            self.columns[j, j],
            self.inverse_pivot[j],
            self.columns[j, j + 1 :],
            self.unit[j, j + 1 :],
        )

    def run(self, start: int = 0, stop: int | None = None) -> None:
        """Eliminates the columns from `start` on; those before it must have been."""
        multiply, add, subtract, divide = np.multiply, np.add.reduce, np.subtract, np.divide
        for rows, row, products, sums, column, pivot, inverse, below, unit in self._steps[start:stop]:
            if len(products):
                multiply(rows, row, products)
                # Along the first axis it adds one row after the other, whatever the other axes are.
                add(products, 0, out=sums)
                subtract(column, sums, column)
            divide(1.0, pivot, inverse)
            multiply(below, inverse, unit)

    def remainder(self, start: int, into: Elimination) -> None:
        """What the first `start` columns, which have been eliminated, leave of the others: the Schur complement."""
        for j in range(start, self.n):
            rows, row, products, sums, column, *_ = self._step(j, start)
            np.multiply(rows, row, products)
            np.add.reduce(products, 0, out=sums)
            np.subtract(column, sums, into.columns[j - start, j - start :])

    def log_likelihood(self) -> FloatArray:
        """[w] log N(y | 0, A), less the constant: Rasmussen and Williams (2006), equation 2.30."""
        quadratic = np.add.reduce(self.target * self._solved, 0)
        inverse = self.inverse_pivot
        log_det = np.log(np.multiply.reduce(inverse[:_PIVOTS_A_LOG], 0))
        for start in range(_PIVOTS_A_LOG, self.n, _PIVOTS_A_LOG):
            log_det += np.log(np.multiply.reduce(inverse[start : start + _PIVOTS_A_LOG], 0))
        result: FloatArray = 0.5 * (log_det - quadratic)
        return result


def unit_inverse(unit: FloatArray) -> FloatArray:
    """[r, n, k] W = L^-1 for L as `Elimination.unit` has it, [n, r, k]; rows first: W[i, j] is row i of column j.

    What there is below L, as r = n + 1, comes out multiplied by -W.
    """
    n, r, k = unit.shape
    inverse = np.zeros((r, n, k))
    inverse.reshape(r * n, k)[: n * n : n + 1] = 1.0
    negative = np.negative(unit)
    for i in range(1, r):
        known = min(i, n)
        np.add.reduce(negative[:known, i, None] * inverse[:known, :known], 0, out=inverse[i, :known])
    return inverse


def widest(n: int, n_settings: int) -> int:
    """How many problems of n rows are worth eliminating together, each with so many settings."""
    return max(min(_MAX_WIDTH_FACTOR, MAX_NUMBERS // (n_settings * n * (n + 1) or 1)), 1)


class _Workspaces(threading.local):
    def __init__(self) -> None:
        self.kept: cachetools.LRUCache[tuple[int, int], Elimination] = cachetools.LRUCache(
            _KEPT_NUMBERS, lambda kept: kept.columns.size
        )
        self.latest = Elimination(0, 0)


_workspaces = _Workspaces()


def elimination(n: int, width: int) -> Elimination:
    """A workspace of this thread, kept from its last use unless it is large."""
    latest = _workspaces.latest
    if (latest.n, latest.width) == (n, width):
        return latest
    kept = _workspaces.kept
    found = kept.get((n, width))
    if found is None:
        found = Elimination(n, width)
        if found.columns.size > MAX_NUMBERS:
            return found
        kept[n, width] = found
    _workspaces.latest = found
    return found
