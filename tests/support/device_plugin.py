"""The device that tests run on, as a plugin of pytest: alone it needs nothing of the server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.support.devices import deterministic, devices, make_by_default_on


def pytest_addoption(parser: pytest.Parser) -> None:
    """Has the tests that name no device run on another one than the CPU: `make test-gpu` does."""
    parser.addoption("--on", default="cpu", choices=["cpu", "cuda"], help="where tensors are made that name no device")


def pytest_configure(config: pytest.Config) -> None:
    """Before anything is collected: what modules make as they are imported is on that device, too."""
    make_by_default_on(config.getoption("--on"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Gives a test that takes a device each one that this machine has."""
    if "device" in metafunc.fixturenames:
        metafunc.parametrize("device", devices(), indirect=True)


@pytest.fixture
def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """A device to train on, whose kernels are deterministic as long as the test runs."""
    with deterministic():
        yield torch.device(request.param)
