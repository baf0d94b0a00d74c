"""The page on bringing a framework: it shows the whole of its example, and the example is tuned by a real server."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from examples.numpy_backend import Softmax, inputs, targets, train
from tests.support.repository import doc_pages


def test_the_page_and_the_example_are_one() -> None:
    page = doc_pages.ROOT / "docs" / "extending" / "bring-a-framework.md"
    assert doc_pages.shows_all(page, "numpy_backend")


def test_the_example_is_tuned_by_a_server_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LRPILOT_SERVER", raising=False)
    monkeypatch.setenv("LRPILOT_DB", f"sqlite:///{tmp_path / 'own.db'}")
    np.random.seed(0)
    model = Softmax(64, 10)
    held_out = inputs[1400:], targets[1400:]
    start = model.loss(*held_out)
    tuner = train(model, total_steps=500, lr_bounds=(1e-4, 1.0), timeout_s=60)
    assert tuner.committed_step + tuner.search_steps == 500
    assert tuner.search_steps > 0
    assert tuner.schedule.probes
    assert not tuner.schedule.unrepeatable
    assert model.loss(*held_out) < 0.2 * start
