"""The benchmark's GreedyLR beside that of Transformers, which any user of its Trainer has."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from benchmarks.quality.greedy_lr import GreedyLr, GreedySettings

GreedyLR: Any = getattr(pytest.importorskip("transformers.optimization"), "GreedyLR", None)

pytestmark = pytest.mark.skipif(GreedyLR is None, reason="this version of Transformers has no GreedyLR")

SETTINGS = (
    GreedySettings(),
    GreedySettings(factor=0.5, patience=1, cooldown=2, warmup=1, min_lr=0.02, max_lr=0.5, n_before_reset=3),
    GreedySettings(factor=0.8, patience=2, min_lr=0.5, n_before_reset=4, smoothed=5),
    GreedySettings(factor=0.9, patience=0, min_lr=0.0, max_lr=0.05),
)


@pytest.mark.parametrize("settings", SETTINGS)
def test_it_has_the_lrs_of_transformers(settings: GreedySettings) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    theirs = GreedyLR(
        optimizer,
        factor=settings.factor,
        patience=settings.patience,
        threshold=settings.threshold,
        cooldown=settings.cooldown,
        warmup=settings.warmup,
        min_lr=settings.min_lr,
        max_lr=settings.max_lr,
        smooth=settings.smoothed > 1,
        window_size=settings.smoothed,
        reset_start=settings.n_before_reset,
    )
    ours = GreedyLr(0.1, settings)
    noise = random.Random(0)
    for step in range(400):
        # It falls for a while, then stays where it is.
        loss = max(1.0 - step / 150, 0.0) + 0.01 * noise.random()
        theirs.step(loss)
        ours.observe(loss)
        assert ours.lr(step) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12), step
