"""What is odd about each workload on which tuners go wrong."""

from __future__ import annotations

import math
from itertools import islice

import pytest
import torch

from benchmarks.quality.datasets import images
from benchmarks.quality.training import set_lr, train_step
from benchmarks.quality.workloads import HARD, USUAL, WORKLOADS, noisylabels, smallvalidation


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def _judged(name: str, lr: float, n_steps: int) -> float:
    """What a run at a constant LR is judged by."""
    session = WORKLOADS[name].build(0)
    set_lr(session.optimizer, lr)
    for batch in islice(session.batches(), n_steps):
        train_step(session, batch)
    return session.judge()


def test_the_usual_workloads_come_first() -> None:
    assert tuple(WORKLOADS) == (*USUAL, *HARD)


def test_a_high_lr_kills_dying() -> None:
    assert _judged("dying", 0.32, 300) == pytest.approx(math.log(10), abs=0.05)
    assert _judged("dying", 0.03, 300) < 1.5


def test_a_high_lr_loses_what_was_pretrained() -> None:
    untouched = WORKLOADS["lostpretraining"].build(0).judge()
    assert _judged("lostpretraining", 1e-3, 100) < untouched
    assert _judged("lostpretraining", 1e-2, 300) > untouched


def test_two_in_five_labels_are_wrong() -> None:
    right, learnt = images.mnist()[0].labels, noisylabels._train().labels
    assert float((right != learnt).float().mean()) == pytest.approx(0.4, abs=0.03)
    assert set(learnt.tolist()) == set(range(10))


def test_no_image_that_judges_is_one_that_validates() -> None:
    seen, unseen = smallvalidation._held_out()
    assert len(seen.images) == 100
    assert not any((unseen.images == image).all(dim=(1, 2, 3)).any() for image in seen.images)


def test_the_loss_of_density_starts_above_zero_and_ends_below() -> None:
    assert WORKLOADS["density"].build(0).judge() > 0.1
    assert _judged("density", 1e-2, 300) < -0.1
    assert WORKLOADS["density"].score(-1.0) == pytest.approx(1 / math.e)
