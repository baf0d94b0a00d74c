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
    W  [n, n, w]       L^-1

Sums of products are `numpy.einsum`'s, which takes the axis with the longest steps as its outermost loop, and so adds up
one row after the other; it calls no BLAS, and needs no array for the products.
"""

from __future__ import annotations

import inspect
import threading

import cachetools
import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IndexArray = npt.NDArray[np.intp]

MAX_NUMBERS = 2**17
"""Numbers in A at most, if there is more than one problem: 1 MB, which a core has close at hand."""
_MAX_WIDTH_FACTOR = 8
einsum = inspect.unwrap(np.einsum)
"""NumPy's, without the look for arrays of other libraries, which takes a quarter as long as a sum itself."""
_KEPT_NUMBERS = 2**21
"""Numbers in the A of all workspaces that a thread keeps: of searches with up to a dozen points, in every width. They
take 40 MB at most."""
_PIVOTS_A_LOG = 16
"""Pivots that are multiplied before the logarithm is taken: each lies between 1e-4 and 1e17."""


class Elimination:
    """The memory for w factorisations, and for the inverses of some of them, with every view that the loops need.

    Making the views costs as much as the arithmetic, so it is used again and again; what was in it is lost with the
    next use. It belongs to one thread.

    Attributes:
        columns: [n, n + 1, w] A, to be filled in by the user; then C.
        diagonal: [n, w] the diagonal of A, then D, a view.
        target: [n, w] row n: y, then z, a view.
        unit: [n, n + 1, w] L below the diagonal, columns first; row n is D^-1 z.
    """

    def __init__(self, n: int, width: int, inverses: int = 0) -> None:
        """Makes room for matrices with n rows, and for so many inverses at once."""
        self.n, self.width = n, width
        self.columns = np.empty((n, n + 1, width))
        self.unit = np.empty_like(self.columns)
        self.diagonal = self.columns.reshape(n * (n + 1), width)[:: n + 2]
        self.target = self.columns[:, n]
        self._solved = self.unit[:, n]
        self._sums = np.empty((n + 1, width))
        self._steps = [self._step(j, j) for j in range(n)]
        self._inverses = inverses
        self._inversions: dict[int, _Inversion] = {}

    def _step(self, j: int, earlier: int) -> tuple[FloatArray, ...]:
        """The views for what `earlier` columns take from column j."""
        return (
            self.columns[:earlier, j:],
            self.unit[:earlier, j],
            self._sums[: self.n + 1 - j],
            self.columns[j, j:],
            self.columns[j, j],
            self.columns[j, j + 1 :],
            self.unit[j, j + 1 :],
        )

    def run(self, start: int = 0, stop: int | None = None) -> None:
        """Eliminates the columns from `start` on; those before it must have been."""
        multiply, subtract, divide = np.multiply, np.subtract, np.divide
        for earlier, (rows, row, sums, column, pivot, below, unit) in enumerate(self._steps[start:stop], start):
            if earlier > 1:
                einsum("mrw,mw->rw", rows, row, out=sums)
                subtract(column, sums, column)
            elif earlier:
                multiply(rows[0], row[0], sums)
                subtract(column, sums, column)
            divide(below, pivot, unit)

    def remainder(self, start: int, into: Elimination) -> None:
        """What the first `start` columns, which have been eliminated, leave of the others: the Schur complement."""
        for j in range(start, self.n):
            rows, row, sums, column, *_ = self._step(j, start)
            einsum("mrw,mw->rw", rows, row, out=sums)
            np.subtract(column, sums, into.columns[j - start, j - start :])

    def log_likelihood(self) -> FloatArray:
        """[w] log N(y | 0, A), less the constant: Rasmussen and Williams (2006), equation 2.30."""
        result: FloatArray = einsum("mw,mw->w", self.target, self._solved)
        for start in range(0, self.n, _PIVOTS_A_LOG):
            result += np.log(np.multiply.reduce(self.diagonal[start : start + _PIVOTS_A_LOG], 0))
        result *= -0.5
        return result

    def inverses(self, places: IndexArray) -> FloatArray:
        """[n + 1, n, k] W of the factors at these places, k of them at most as there is room for; it is lost likewise.

        Rows come first: W[i, j] is row i of column j; row n is -(A^-1 y)'.
        """
        k, half = len(places), self._inverses // 2
        room = half if k <= half else self._inverses
        inversion = self._inversions.get(room)
        if inversion is None:
            inversion = self._inversions[room] = _Inversion(self.n, room)
        # Every inverse that there is room for is made: the views are for all of them.
        inversion.places[:k] = places
        self.unit.take(inversion.places, 2, inversion.unit, "clip")
        inversion.run()
        return inversion.inverse[..., :k]


class _Inversion:
    """The memory for w inverses of unit lower triangular matrices, as an `Elimination` is for factors.

    Attributes:
        places: [w] where the matrices are taken from.
        unit: [n, n + 1, w] L below the diagonal, columns first, to be filled in by the user; its sign is turned.
        inverse: [n + 1, n, w] W, rows first. What there is below L, as its last row, comes out multiplied by -W.
    """

    def __init__(self, n: int, width: int) -> None:
        self.places = np.zeros(width, np.intp)
        self.unit = np.empty((n, n + 1, width))
        self.inverse = np.zeros((n + 1, n, width))
        self.inverse.reshape((n + 1) * n, width)[: n * n : n + 1] = 1.0
        self._second = self.inverse[1:2, :1], self.unit[:1, 1:2]
        self._steps = [
            (self.unit[:known, i], self.inverse[:known, :known], self.inverse[i, :known])
            for i, known in enumerate([*range(n), n])
            if known > 1
        ]

    def run(self) -> None:
        np.negative(self.unit, self.unit)
        second, negative = self._second
        second[...] = negative
        for row, above, inverse in self._steps:
            einsum("mw,mcw->cw", row, above, out=inverse)


def widest(n: int, n_settings: int) -> int:
    """How many problems of n rows are worth eliminating together, each with so many settings."""
    return max(min(_MAX_WIDTH_FACTOR, MAX_NUMBERS // (n_settings * n * (n + 1) or 1)), 1)


class _Workspaces(threading.local):
    def __init__(self) -> None:
        self.kept: cachetools.LRUCache[tuple[int, int, int], Elimination] = cachetools.LRUCache(
            _KEPT_NUMBERS, lambda kept: kept.columns.size
        )
        self.latest = Elimination(0, 0)
        self.latest_key = (0, 0, 0)


_workspaces = _Workspaces()


def elimination(n: int, width: int, inverses: int = 0) -> Elimination:
    """A workspace of this thread, kept from its last use unless it is large."""
    key = (n, width, inverses)
    if _workspaces.latest_key == key:
        return _workspaces.latest
    found = _workspaces.kept.get(key)
    if found is None:
        found = Elimination(n, width, inverses)
        if found.columns.size > MAX_NUMBERS:
            return found
        _workspaces.kept[key] = found
    _workspaces.latest, _workspaces.latest_key = found, key
    return found
