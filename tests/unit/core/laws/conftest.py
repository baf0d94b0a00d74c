from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tuner_server.core.laws.lr_path import FloatArray

DATA = Path(__file__).parents[3] / "data" / "methods"
WARMUP, PEAK, LOW = 2160, 3e-4, 3e-5
"""The setting of the public curves of Luo et al. 2025."""


@pytest.fixture(scope="session")
def vectors() -> dict[str, Any]:
    """What the laws give for known input."""
    found: dict[str, Any] = json.loads((DATA / "laws.json").read_text("utf-8"))
    return found


@pytest.fixture(scope="session")
def real_curves() -> dict[str, dict[str, list[float]]]:
    """Losses of a language model of 100M parameters, by schedule (Luo et al. 2025, MIT licence)."""
    found: dict[str, dict[str, list[float]]] = json.loads((DATA / "multi_power_law_curves.json").read_text("utf-8"))[
        "curves"
    ]["100M"]
    return found


@pytest.fixture(scope="session")
def real_lrs() -> dict[str, FloatArray]:
    """The LRs behind the curves, by schedule."""

    def after_warmup(total: int, kind: str, start: int = WARMUP, low: float = LOW) -> FloatArray:
        steps = np.arange(WARMUP, total)
        done = np.clip((steps - start) / (total - start), 0.0, 1.0)
        lrs = {
            "constant": np.full(steps.size, PEAK),
            "cosine": low + (PEAK - low) * (1 + np.cos(np.pi * done)) / 2,
            "exponential": PEAK ** (1 - done) * low**done,
            "linear": PEAK + (low - PEAK) * done,
            "two stages": np.where(steps < start, PEAK, low),
        }[kind]
        return np.concatenate([np.linspace(0.0, PEAK, WARMUP), lrs])

    return {
        "cosine_24000": after_warmup(24_000, "cosine"),
        "constant_24000": after_warmup(24_000, "constant"),
        "wsd_20000_24000": after_warmup(24_000, "exponential", 20_000),
        "wsdld_20000_24000": after_warmup(24_000, "linear", 20_000),
        "wsdcon_9": after_warmup(16_000, "two stages", 8_000, 9e-5),
        "wsdcon_3": after_warmup(16_000, "two stages", 8_000, 3e-5),
        "cosine_72000": after_warmup(72_000, "cosine"),
        "constant_72000": after_warmup(72_000, "constant"),
    }
