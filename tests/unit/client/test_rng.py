import contextlib
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lrpilot import rng
from lrpilot.rng import RandomState, preserved


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), torch.rand(()).item()


def test_restore_repeats_every_generator_any_number_of_times() -> None:
    state = RandomState.capture()
    expected = [draw() for _ in range(5)]
    for _ in range(3):
        state.restore()
        assert [draw() for _ in range(5)] == expected


def test_capture_does_not_draw() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    RandomState.capture()
    assert torch.equal(torch.rand(3), expected)


def test_the_cached_half_of_a_pair_of_normals_is_part_of_the_state() -> None:
    np.random.randn()
    random.gauss(0, 1)
    state = RandomState.capture()
    expected = np.random.randn(), random.gauss(0, 1)
    state.restore()
    assert (np.random.randn(), random.gauss(0, 1)) == expected


def test_preserved_undoes_draws_also_after_an_exception() -> None:
    state = RandomState.capture()
    with preserved():
        draw()
    with contextlib.suppress(KeyError), preserved():
        draw()
        raise KeyError
    assert RandomState.capture().changed_since(state) is None


@pytest.mark.parametrize(
    ("name", "draw_one"),
    [("python", random.random), ("numpy", np.random.rand), ("torch", lambda: torch.rand(()))],
)
def test_changed_since_holds_what_moved_and_nothing_else(name: str, draw_one: object) -> None:
    assert callable(draw_one)
    before = RandomState.capture()
    draw_one()
    changed = RandomState.capture().changed_since(before)
    assert changed is not None
    assert set(changed.states) == {name}

    expected = draw_one()
    others = draw()
    before.restore()
    changed.restore()
    assert draw_one() == expected
    assert others  # Drawn only to move the generators on.


def test_another_bit_generator_than_the_mersenne_twister_is_restored() -> None:
    numpy_random: Any = np.random  # Its stubs leave these functions out.
    original = numpy_random.get_bit_generator()
    try:
        numpy_random.set_bit_generator(np.random.PCG64(3))
        state = RandomState.capture()
        expected = np.random.rand()
        state.restore()
        assert np.random.rand() == expected
    finally:
        numpy_random.set_bit_generator(original)


def test_nothing_is_imported_for_it() -> None:
    code = (
        "import sys\n"
        "from lrpilot.rng import RandomState\n"
        "state = RandomState.capture(); state.restore()\n"
        "assert set(state.states) == {'python'}, state.states.keys()\n"
        "assert not {'numpy', 'torch'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


def test_a_state_goes_through_a_checkpoint_that_is_read_without_pickle(tmp_path: Path) -> None:
    draw()
    state = RandomState.capture()
    expected = draw()
    torch.save(state.state_dict(), tmp_path / "random.pt")
    RandomState.from_state_dict(torch.load(tmp_path / "random.pt", weights_only=True)).restore()
    assert draw() == expected


def test_a_state_that_has_not_moved_is_known_again_and_one_that_has_is_not() -> None:
    np.random.seed(3)
    first = RandomState.capture()
    assert RandomState.capture().states["numpy"] is first.states["numpy"]
    for draw_one in (np.random.rand, np.random.randn, np.random.randn, lambda: np.random.seed(4)):
        before = RandomState.capture()
        draw_one()
        changed = RandomState.capture().changed_since(before)
        assert changed is not None
        assert changed.states.keys() == {"numpy"}
    first.restore()
    assert RandomState.capture().changed_since(first) is None


class Generator:
    """A GPU's."""

    def __init__(self) -> None:
        self.seed, self.offset = 1, 0

    def initial_seed(self) -> int:
        return self.seed

    def get_offset(self) -> int:
        return self.offset


class Devices:
    """What `torch.cuda` has of two of them."""

    __name__ = "torch.devices"

    def __init__(self) -> None:
        self.default_generators = (Generator(), Generator())
        self.n_asked = 0

    def get_rng_state_all(self) -> list[torch.Tensor]:
        self.n_asked += 1
        return [torch.tensor([each.seed, each.offset]) for each in self.default_generators]


def test_the_states_of_devices_are_asked_for_when_one_has_moved() -> None:
    devices = Devices()
    for seed, offset in ((1, 0), (1, 4), (2, 0)):
        devices.default_generators[1].seed, devices.default_generators[1].offset = seed, offset
        for _ in range(3):
            assert rng._states_of_devices(devices)[1].tolist() == [seed, offset]
    assert devices.n_asked == 3
