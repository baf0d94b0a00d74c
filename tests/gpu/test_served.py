"""Jobs of a server on a device: whole searches leave no trace, and a run goes on from its checkpoint, bit for bit."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import lrpilot
import pytest
import torch
from torch.nn import functional

from tests.support.training.device_training import LR, Committed, DeviceRun, Numbers, as_bytes, random_state, replayed

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("sqlalchemy") is None, reason="needs the server's dependencies"),
]
# An ending at zero leaves the weights that a replay comes to, and no average of them.
POLICIES: dict[str, dict[str, Any]] = {
    "budget": {"ending": "zero", "probe_steps": 8, "refinements": 1, "max_candidates": 4},
    "autolrs": {"tau": 30, "tau_prime": 5, "tau_max": 30, "candidates": 3},
}


@pytest.fixture(autouse=True)
def database(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Embedded servers keep their jobs here."""
    monkeypatch.delenv("LRPILOT_SERVER", raising=False)
    monkeypatch.setenv("LRPILOT_DB", f"sqlite:///{tmp_path}/jobs.db")


def validation(run: DeviceRun) -> Any:
    """A loss that is measured in evaluation mode, and draws random numbers meanwhile."""

    def validate() -> float:
        x, y = run.pool[0]
        run.model.eval()
        torch.rand(3, device=run.device)
        with torch.no_grad():
            return float(functional.cross_entropy(run.model(x), y))

    return validate


def tuner_of(run: DeviceRun, policy: str, **arguments: Any) -> lrpilot.Tuner:
    return lrpilot.Tuner(
        run.model,
        run.optimizers,
        register=run.registered,
        validate=validation(run),
        policy=policy,
        policy_options=POLICIES[policy],
        total_steps=500 if policy == "budget" else 200,
        lr_bounds=(LR / 30, LR * 10),
        seed=3,
        strict=True,
        timeout_s=60.0,
        **arguments,
    )


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("optimizer", ["adamw, fused, tensor lr", "sgd with momentum"])
def test_searches_leave_no_trace(device: torch.device, policy: str, optimizer: str) -> None:
    run, log = DeviceRun(device, "images", optimizer), Committed()
    torch.manual_seed(11)
    with tuner_of(run, policy) as tuner:
        for number in tuner.batches(Numbers()):
            before, lrs, searching = tuner.committed_step, run.lrs(), tuner.searching
            loss = run.step(number)
            state = random_state(device)
            tuner.step(loss)
            if tuner.committed_step < before:  # steps that were to stay were undone
                del log.steps[tuner.committed_step :]
            elif not searching:
                log.steps.append((number, lrs, state))
    assert tuner.search_steps > 0
    assert len(log.steps) == tuner.committed_step
    again = DeviceRun(device, "images", optimizer)
    assert replayed(again, log) == []
    assert run.bits() == again.bits()


@pytest.mark.parametrize("stop", [3, 150])
def test_a_run_goes_on_from_its_checkpoint(device: torch.device, tmp_path: Path, stop: int) -> None:
    """It is the run that was not interrupted, whether a search or a committed step was."""
    path = tmp_path / "checkpoint.pt"

    def go_on(run: DeviceRun, tuner: lrpilot.Tuner, n_calls: int, until: int | None) -> int:
        for number in tuner.batches(list(range(32))):
            tuner.step(run.step(number))
            n_calls += 1
            if n_calls == until:
                saved = {"tuner": tuner.state_dict(), "model": run.model.state_dict()}
                torch.save(saved | {"optimizer": run.optimizers[0].state_dict()}, path)
                break
        return n_calls

    def begun(until: int | None) -> tuple[DeviceRun, int]:
        run = DeviceRun(device, "images", "adamw")
        torch.manual_seed(11)
        with tuner_of(run, "budget") as tuner:
            n_calls = go_on(run, tuner, 0, until)
            assert tuner.search_steps > 0
            assert until is None or (tuner.committed_step > 0) is not tuner.searching
            return run, n_calls

    whole, n_calls = begun(None)
    begun(stop)
    loaded = torch.load(path, map_location="cpu", weights_only=True)
    resumed = DeviceRun(device, "images", "adamw")
    torch.manual_seed(99)
    resumed.model.load_state_dict(loaded["model"])
    resumed.optimizers[0].load_state_dict(loaded["optimizer"])
    with tuner_of(resumed, "budget") as tuner:
        tuner.load_state_dict(loaded["tuner"])
        assert go_on(resumed, tuner, stop, None) == n_calls
    weights = [{name: as_bytes(t) for name, t in run.model.state_dict().items()} for run in (whole, resumed)]
    assert weights[0] == weights[1]
