"""What tests of the surrogate share."""

from __future__ import annotations

import numpy as np
import pytest

from tuner_server.core.search.gaussian_process import hyperparameters


@pytest.fixture
def single_setting(monkeypatch: pytest.MonkeyPatch) -> tuple[float, float, float]:
    """A grid of one: lengthscale, output scale, noise scale."""
    values = (0.35, 1.4, 0.1)
    one = hyperparameters.Grid.of(*(np.array([value]) for value in values))
    monkeypatch.setattr(hyperparameters, "grid", lambda: one)
    return values
