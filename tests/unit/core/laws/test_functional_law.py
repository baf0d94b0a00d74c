from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tuner_server.core.laws.functional_law import BestSchedule, FunctionalLaw, best_schedule
from tuner_server.core.laws.lr_path import FloatArray


def weights(kind: str, n_steps: int, share: float = 0.2) -> FloatArray:
    """A schedule of one step more, whose last LR is zero."""
    done = np.arange(n_steps) / n_steps
    whole: dict[str, FloatArray] = {
        "constant": np.ones(n_steps),
        "linear": 1 - done,
        "cosine": (1 + np.cos(np.pi * done)) / 2,
        "rex": (1 - done) / (1 - done / 2),
    }
    if kind in whole:
        return whole[kind]
    n = int(share * (n_steps + 1))
    part = (np.arange(n) + 1) / n
    fall = 1 - part if kind == "wsd" else 1 - np.sqrt(part)
    return np.concatenate([np.ones(n_steps + 1 - n), fall])[:n_steps]


def test_schedules_have_their_losses(vectors: dict[str, Any]) -> None:
    known = vectors["functional_law"]
    law = FunctionalLaw(*(known["params"][name] for name in ("L0", "c", "s", "k", "kb")))
    found = {kind: law.loss(known["peak"] * weights(kind, known["T"])) for kind in known["loss"]}
    assert found == pytest.approx(known["loss"], rel=1e-8)
    for kind, best in known["best_peak_and_loss_on_grid_(0.05*2^(i/4))"].items():
        loss, peak = min((law.loss(peak * weights(kind, known["T"])), peak) for peak in 0.05 * 2 ** (np.arange(33) / 4))
        assert (peak, loss) == pytest.approx((best["peak"], best["loss"]), rel=1e-5)


def test_easy_tasks_want_a_power_decay_and_hard_ones_hold_their_lr() -> None:
    assert best_schedule(0.6, 2.0) == BestSchedule(easy=True, power=3.0)
    assert best_schedule(0.4, 2.0) == BestSchedule(easy=False, power=None)
    with pytest.raises(ValueError, match="capacity 1"):
        best_schedule(0.4, 1.0)
