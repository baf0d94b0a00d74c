"""The demo as `make demo` runs it, with few steps."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import lrpilot
import pytest

LRPILOT = Path(sys.executable).with_name("lrpilot")
GUESSES = [f"linear from {lr}" for lr in ("1", "0.3", "0.1", "0.03", "0.01")]
N_STEPS = 800
"""The fewest that the policy accepts."""
TIMEOUT_S = 150


def start(out: Path, n_steps: int) -> subprocess.Popen[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("LRPILOT_")}
    return subprocess.Popen(
        [LRPILOT, "demo", "--autolrs", "--out", out, "--steps", str(n_steps)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment | {"OMP_NUM_THREADS": "1"},
    )


def processes_of(out: Path) -> list[str]:
    """Command lines of live processes that name the directory."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = file.read_bytes().replace(b"\0", b" ").decode()
        except OSError:  # it has ended meanwhile
            continue
        if str(out) in command:
            found.append(command)
    return found


@pytest.mark.slow
def test_the_demo_compares_and_leaves_its_results(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    demo = start(out, N_STEPS)
    shown, errors = demo.communicate(timeout=TIMEOUT_S)

    assert demo.returncode == 0, errors
    summary = json.loads((out / "summary.json").read_text())
    assert summary["total_steps"] == N_STEPS
    contestants = {contestant["name"]: contestant for contestant in summary["contestants"]}
    assert list(contestants) == ["budget", "autolrs", *GUESSES]
    for name, contestant in contestants.items():
        assert name in shown
        assert [run["seed"] for run in contestant["runs"]] == [0, 1]
        for run in contestant["runs"]:
            assert run["committed_steps"] + run["search_steps"] == N_STEPS
            assert f"{run['validation_loss']:.4f}" in shown
    assert min(contestant["behind_best"] for contestant in contestants.values()) == 0
    # One that is tuned can't have learnt nothing: a tenth would be chance. A guess may.
    assert all(run["validation_accuracy"] > 0.5 for name in ("budget", "autolrs") for run in contestants[name]["runs"])
    assert all(run["search_steps"] == 0 for name in GUESSES for run in contestants[name]["runs"])
    assert f"{5 * N_STEPS:,}" in shown

    for run, file in zip(contestants["budget"]["runs"], ("schedule", "schedule-seed-1"), strict=True):
        schedule = lrpilot.Schedule.load(out / f"{file}.json")
        assert (schedule.job_id, schedule.n_steps) == (run["job_id"], run["committed_steps"])
        assert 0 < sum(len(probe.losses) for probe in schedule.probes) == run["search_steps"]
        assert (out / f"{file}.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert processes_of(out) == []


@pytest.mark.slow
def test_too_few_steps_are_refused_in_one_line(tmp_path: Path) -> None:
    demo = start(tmp_path, 100)
    _, errors = demo.communicate(timeout=TIMEOUT_S)
    assert demo.returncode == 2
    assert len(errors.splitlines()) == 1
    assert "total_steps" in errors
    assert processes_of(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_process_is_left_when_the_demo_is_ended(tmp_path: Path, number: signal.Signals) -> None:
    demo = start(tmp_path, 100_000)
    assert demo.stdout is not None
    assert demo.stderr is not None
    with demo:
        for line in demo.stdout:
            if line.startswith("budget, seed "):  # server and trainers are at work
                break
        assert len(processes_of(tmp_path)) == 4
        demo.send_signal(number)
        demo.communicate(timeout=TIMEOUT_S)
    deadline = time.monotonic() + TIMEOUT_S
    while processes_of(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert processes_of(tmp_path) == []
