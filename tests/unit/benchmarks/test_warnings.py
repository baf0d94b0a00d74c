"""The benchmark of early warnings: what it counts, and one small search."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks import warnings
from benchmarks.recorded_probes import DIVERGED, LOST, SOUND, Probe
from benchmarks.warnings import Scale, as_json, as_markdown, draw, measure, rows
from tuner_server.core.stages.early_warning import EarlyWarningName, early_warnings

(RATIO,) = early_warnings((EarlyWarningName.UPDATE_RATIO,))
HIGH = 2 * RATIO.level


def probe(outcome: str, ratios: Sequence[float | None], gained: float = 0.0) -> Probe:
    return Probe("mlp", 1, 0, 1.0, 40, 2, 0.1, outcome, gained, {"update_ratio": ratios})


def test_a_probe_ends_at_the_first_look_after_a_sign_unless_it_had_ended_by_then() -> None:
    assert probe(SOUND, [0.01] * 10 + [HIGH] * 30).ended_by(RATIO) == 15, "five steps, and a look after every five"
    assert probe(SOUND, [0.01] * 11 + [HIGH] * 29).ended_by(RATIO) == 20
    assert probe(SOUND, [0.01] * 34 + [HIGH] * 6).ended_by(RATIO) is None, "the next look is at its end"
    assert probe(DIVERGED, [0.01] * 6 + [HIGH] * 9).ended_by(RATIO) is None
    assert probe(DIVERGED, [0.01] * 5 + [HIGH] * 10).ended_by(RATIO) == 10
    assert probe(SOUND, [None] * 40).ended_by(RATIO) is None


def test_false_alarms_are_those_about_sound_probes_and_what_is_saved_is_a_part_of_the_steps_that_were_run() -> None:
    probes = [
        probe(SOUND, [0.01] * 40, 1.0),
        probe(SOUND, [HIGH] * 40, 0.7),
        probe(LOST, [HIGH] * 40),
        probe(DIVERGED, [HIGH] * 20),
        probe(DIVERGED, [0.01] * 20),
    ]
    (row,) = [row for row in rows(probes) if row.default]
    assert row.n_probes == {SOUND: 2, LOST: 1, DIVERGED: 2}
    assert row.n_warned == {SOUND: 1, LOST: 1, DIVERGED: 1}
    assert row.most_gained == 0.7
    assert row.saved == pytest.approx((20 - 10) / 40)
    assert row.saved_lost == pytest.approx(30 / 40)
    higher = [other for other in rows(probes) if other.warning.level > HIGH]
    assert not any(any(other.n_warned.values()) for other in higher)
    assert warnings.present_rule(probes) == pytest.approx(0.5)


@pytest.mark.slow
def test_a_search_is_measured_once_and_ends_no_probe_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scale, cache = Scale(("inpainting",), 1, (100.0,), (12,)), tmp_path / "warnings.jsonl"
    probes = measure(scale, cache)
    monkeypatch.setattr(warnings, "search", None)
    assert measure(scale, cache) == probes
    assert {p.outcome for p in probes} >= {SOUND, DIVERGED}
    assert {"gradient_norm", "update_ratio", "output_logit"} <= set(probes[0].measures)
    assert all(p.n_run == p.n_steps for p in probes if p.outcome != DIVERGED)
    assert max(p.gained for p in probes) == 1.0
    text = json.dumps(as_json(scale, probes), allow_nan=False)
    assert "ended_by" in text
    assert "gradient_norm, rise (default)" in as_markdown(probes)
    draw(probes).savefig(tmp_path / "warnings.png")
    assert math.isfinite(probes[0].lr)
