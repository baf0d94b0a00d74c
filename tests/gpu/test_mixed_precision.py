"""Mixed precision: what a GradScaler skips is no step, whether the host or the device finds the overflow."""

from __future__ import annotations

import pytest
import torch

from tests.support.training.device_training import DeviceRun, assert_no_trace, script, tuned


def half(device: torch.device) -> torch.dtype:
    """What is autocast to under a GradScaler; the CPU has few kernels of half precision."""
    return torch.float16 if device.type == "cuda" else torch.bfloat16


@pytest.mark.parametrize(
    "optimizer",
    ["adamw", pytest.param("adamw, capturable", marks=pytest.mark.slow), pytest.param("lion", marks=pytest.mark.slow)],
)
def test_updates_that_a_scaler_skips_are_not_counted_and_leave_no_trace(device: torch.device, optimizer: str) -> None:
    def make() -> DeviceRun:
        run = DeviceRun(device, "images", optimizer, autocast=half(device), scaler=True)
        run.overflows = lambda number: number % 5 == 2
        return run

    _, log = assert_no_trace(make, script(wild=30))
    assert log.n_calls - log.n_counted >= log.n_calls // 8


@pytest.mark.parametrize("optimizer", ["adamw, fused", pytest.param("sgd, fused", marks=pytest.mark.slow)])
def test_updates_that_a_fused_optimizer_skips_are_made_up_for(device: torch.device, optimizer: str) -> None:
    def run(*, overflows: bool) -> tuple[int, int]:
        made = DeviceRun(device, "images", optimizer, autocast=half(device), scaler=True)
        made.overflows = lambda number: overflows and number % 5 == 2
        log = tuned(made, script(wild=30))
        return log.n_counted, log.n_calls

    counted, n_calls = run(overflows=True)
    assert counted == run(overflows=False)[0]
    assert n_calls > counted


@pytest.mark.slow
def test_bfloat16_leaves_no_trace(device: torch.device) -> None:
    assert_no_trace(lambda: DeviceRun(device, "language", "adamw", autocast=torch.bfloat16))
