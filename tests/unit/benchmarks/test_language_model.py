"""The benchmark of a language model: its text, its sizes, and a run of the smallest one that goes on where it was."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.language_model import __main__ as command
from benchmarks.language_model import runs as running
from benchmarks.language_model import sources
from benchmarks.language_model.contestants import CONTESTANTS
from benchmarks.language_model.runs import planned
from benchmarks.language_model.sizes import FULL, QUICK, SIZES, TINY, Size
from benchmarks.quality.results import ResultFile, RunKey
from benchmarks.quality.training import Curve, update

CPU = torch.device("cpu")
TRAINED = ("budget", "budget, no bounds", "schedule_free")
"""What the test trains; the runs of the others are found in the cache."""


def _library(root: Path, n_files: int = 40) -> Path:
    for i in range(n_files):
        folder = root / f"package{i % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"module{i}.py").write_text(f"number = {i}\n" * 5)
    return root


def test_a_file_is_on_one_side_and_the_digest_tells_of_every_byte(tmp_path: Path) -> None:
    root = _library(tmp_path)
    found = sources.read(root)
    validation = bytes(found.validation.characters.tolist())
    train = bytes(found.train.characters.tolist())
    for path in root.rglob("*.py"):
        assert (path.read_bytes() in validation) != (path.read_bytes() in train)
    assert sources.read(root).digest == found.digest
    (root / "package0" / "module0.py").write_text("number = 7\n")
    assert sources.read(root).digest != found.digest


def test_copies_and_what_is_skipped_are_left_out(tmp_path: Path) -> None:
    root = _library(tmp_path)
    found = sources.read(root)
    (root / "package0" / "module99.py").write_bytes((root / "package0" / "module0.py").read_bytes())
    for name in ("test/module.py", "site-packages/package/module.py", "_sysconfigdata_x.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("left_out = 1\n")
    assert sources.read(root).digest == found.digest


def test_a_library_of_one_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text("number = 1\n")
    with pytest.raises(ValueError, match="1 files, too few"):
        sources.read(tmp_path)


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_a_size_has_as_many_weights_as_it_says(size: Size) -> None:
    session = size.workload(CPU).build(0)
    assert sum(p.numel() for p in session.model.parameters()) == size.n_weights
    assert size.lr_range[0] < size.lr_grid[0] < size.lr_grid[-1] <= size.lr_range[1]


def test_the_full_size_is_some_10_million_weights_for_5000_steps() -> None:
    assert 10e6 < FULL.n_weights < 12e6
    assert 0.4e6 < QUICK.n_weights < 1e6
    assert FULL.n_steps == 5000
    assert {key.contestant for key in planned(FULL, CPU)} == set(CONTESTANTS)
    assert len([key for key in planned(FULL, CPU) if key.contestant == "linear"]) == 5 * FULL.n_seeds


def test_gradients_are_clipped_before_the_update() -> None:
    session = TINY.workload(CPU).build(0)
    session.optimizer = torch.optim.SGD(session.model.parameters(), lr=1.0)
    session.max_norm = 1e-3
    before = [p.detach().clone() for p in session.model.parameters()]
    update(session, next(session.batches()))
    moved = [(p.detach() - was).norm() for p, was in zip(session.model.parameters(), before, strict=True)]
    assert float(torch.stack(moved).norm()) == pytest.approx(1e-3, rel=1e-2)


def _in_this_process(
    _title: str,
    keys: Sequence[RunKey],
    work: Callable[[RunKey], Curve],
    _describe: Callable[[RunKey], str],
    _n_workers: int,
) -> Iterator[tuple[RunKey, Curve]]:
    for key in keys:
        yield key, work(key)


def _store(cache: Path, contestants: Collection[str]) -> None:
    """Made-up runs of some contestants, of which "linear" has the best grid LR first, with a loss of 2.7."""
    steps = [round(TINY.n_steps * i / 40) for i in range(1, 41)]
    for i, key in enumerate(planned(TINY, CPU)):
        if key.contestant in contestants:
            ResultFile(cache).append(key, Curve(2.5 + 0.1 * i, False, steps, [3.0] * 40, [3.0] * 40, wall_s=1.0))


@pytest.fixture
def figures_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], dict[str, Any]]:
    """The figures of the command, by contestant, with the runs in a file."""
    monkeypatch.setattr(running, "run_in_workers", _in_this_process)
    monkeypatch.setattr(command, "best_device", lambda: CPU)
    out = ["--json", str(tmp_path / "lm.json"), "--plots", str(tmp_path)]

    def figures_of(cache: Path) -> dict[str, Any]:
        monkeypatch.setattr(sys, "argv", ["language_model", "--tiny", "--cache", str(cache), *out])
        command.main()
        figures = json.loads((tmp_path / "lm.json").read_text())
        return {own["name"]: own for own in figures["contestants"]}

    return figures_of


def test_nothing_is_trained_where_all_runs_are_there(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    figures_of: Callable[[Path], dict[str, Any]],
) -> None:
    _store(tmp_path / "runs.jsonl", CONTESTANTS)
    monkeypatch.setattr(running, "run", lambda _key: pytest.fail("all runs are there"))
    found = figures_of(tmp_path / "runs.jsonl")
    assert found.keys() >= set(TRAINED)
    assert found["linear, best of grid"]["steps"] == 5 * TINY.n_steps
    assert "Finished runs: 9 of 9" in capsys.readouterr().out
    assert (tmp_path / "language_model.png").stat().st_size > 10_000


@pytest.mark.slow
def test_the_smallest_size_is_trained_where_runs_are_missing(
    tmp_path: Path, figures_of: Callable[[Path], dict[str, Any]]
) -> None:
    torch.set_num_threads(1)
    cache = tmp_path / "runs.jsonl"
    _store(cache, CONTESTANTS.keys() - set(TRAINED))
    stored = cache.read_bytes()
    found = figures_of(cache)

    assert cache.read_bytes().startswith(stored)
    assert len(ResultFile(cache).load()) == len(planned(TINY, CPU))
    untrained = 5.5  # that of bytes which are all as likely
    for name in TRAINED:
        assert found[name]["losses"][0] < 0.6 * untrained
        assert found[name]["step_s"] > 0
        assert found[name]["beyond_best"]["mean"] == pytest.approx(found[name]["losses"][0] - 2.7)
    assert 0 < found["budget"]["search_share"] < found["budget, no bounds"]["search_share"] < 0.25
