"""What was measured at the committed steps of a run, as it is gathered from reports."""

from __future__ import annotations

import array
import math
from collections.abc import Iterable, Sequence

from lrpilot.wire.schedule_data import Measured


class MeasureSeries:
    """One value of each measure for every committed step; NaN where a step has none."""

    def __init__(self, measures: Iterable[Measured] = (), n_steps: int = 0) -> None:
        """Goes on from what was measured at the first `n_steps` steps."""
        # In single precision, as on the wire; a long run has millions.
        self._series = {measure.name: array.array("f", measure.values) for measure in measures}
        self._n_steps = n_steps

    def add(self, n_steps: int, measures: Iterable[tuple[str, Sequence[float]]]) -> None:
        """Takes what a report on so many committed steps has: names, and a value for each step."""
        for name, values in measures:
            series = self._series.setdefault(name, array.array("f"))
            series.extend([math.nan] * (self._n_steps - len(series)))
            series.extend(values)
        self._n_steps += n_steps

    def cut(self, n_steps: int) -> None:
        """Forgets the steps after the first `n_steps`, which were rolled back."""
        self._n_steps = n_steps
        for series in self._series.values():
            del series[n_steps:]

    def measured(self) -> tuple[Measured, ...]:
        """The measures by name."""
        return tuple(Measured(name, tuple(values)) for name, values in sorted(self._series.items()))
