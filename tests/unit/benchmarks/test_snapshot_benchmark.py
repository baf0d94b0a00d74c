import gc
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import snapshot

WAYS = {
    snapshot.PLAIN,
    "take, device",
    "restore, device",
    "take, disk",
    "restore, disk",
    "copy.deepcopy",
    "torch.save, memory",
    "torch.save, file",
}


def test_shares_are_of_the_plain_copy_of_the_same_round() -> None:
    times = {snapshot.PLAIN: np.array([1.0, 2.0, 4.0]), "take": np.array([2.0, 2.0, 16.0])}
    plain, take = snapshot.summarise(times, 8 * 10**9)
    assert plain["median_gb_s"] == 4.0
    assert plain["range_share"] == [1.0, 1.0]
    assert take["range_gb_s"] == [0.5, 4.0]
    assert take["median_share"] == 0.5
    assert take["range_share"] == [0.25, 1.0]


def test_a_small_run_writes_figures_of_every_way_and_a_plot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, picture, disk = tmp_path / "snapshot.json", tmp_path / "snapshot.png", tmp_path / "disk"
    disk.mkdir()
    command = f"snapshot --json {file} --plot {picture} --parameters 1e5 --rounds 2 --directory {disk}"
    monkeypatch.setattr(sys, "argv", command.split())
    # Before each measurement: here there is more to look through than is measured.
    monkeypatch.setattr(gc, "collect", lambda: None)
    snapshot.main()
    results = json.loads(file.read_text())
    assert results["bytes"] == pytest.approx(12 * 1e5, rel=0.05)
    assert {row["way"] for row in results["ways"]} == WAYS
    assert all(len(row["samples_s"]) == 2 and row["median_gb_s"] > 0 for row in results["ways"])
    assert results["first_take_s"].keys() == {"first take, device", "first take, disk"}
    assert picture.stat().st_size > 0
    assert not any(disk.iterdir())
