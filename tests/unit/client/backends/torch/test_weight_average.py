"""The average of the weights: what it is, what is in it, and what becomes of the model's own."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lrpilot.backends.torch.backend import TorchBackend
from lrpilot.backends.torch.weight_average import TorchWeightAverage
from lrpilot.errors import ConfigError
from torch import nn


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 1))


def averaging(model: nn.Module, memory_steps: float = 4.0, every: int = 1) -> TorchWeightAverage:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    average = TorchWeightAverage([model], [torch.optim.SGD(trained, lr=0.1)])
    average.begin(memory_steps, every)
    return average


def move(model: nn.Module, seed: int) -> None:
    """What training may do to a model's tensors."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator))
        for buffer in model.buffers():
            buffer.add_(1)


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return copy.deepcopy(model.state_dict())


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize(("memory_steps", "every"), [(4.0, 1), (10.0, 3), (1.0, 5)])
def test_it_is_the_exponential_average_of_the_weights(memory_steps: float, every: int) -> None:
    model = network()
    average = averaging(model, memory_steps, every)
    expected = {name: value.double() for name, value in state(model).items()}
    for step in range(1, 14):
        move(model, step)
        average.count()
        if step % every == 0:
            for name, value in state(model).items():
                expected[name] += (1 - math.exp(-every / memory_steps)) * (value.double() - expected[name])
    last = state(model)
    average.adopt()
    for name, value in state(model).items():
        if value.is_floating_point():
            torch.testing.assert_close(value, expected[name].float(), rtol=1e-5, atol=1e-6)
        else:  # counters
            assert torch.equal(value, last[name])
    average.undo()
    assert_equal(state(model), last)


def test_the_model_s_tensors_stay_the_same_objects() -> None:
    model = network()
    average = averaging(model)
    before = [(id(tensor), tensor.data_ptr()) for tensor in (*model.parameters(), *model.buffers())]
    move(model, 0)
    average.count()
    for act in (average.adopt, average.adopt, average.undo, average.undo, average.adopt, average.end):
        act()
        assert [(id(tensor), tensor.data_ptr()) for tensor in (*model.parameters(), *model.buffers())] == before


def test_weights_that_stand_still_are_their_own_average_bit_for_bit() -> None:
    model = network()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 / 3)
    last = state(model)
    average = averaging(model, 7.3)
    for _ in range(20):
        average.count()
    average.adopt()
    assert_equal(state(model), last)


def test_on_a_noisy_quadratic_it_has_a_small_part_of_the_variance() -> None:
    """Curvature and gradient noise are 1: at LR 0.1 the weights scatter by 0.1 / 1.9 about the minimum."""
    torch.manual_seed(0)
    model = nn.Linear(2000, 1, bias=False)
    nn.init.zeros_(model.weight)
    average = averaging(model, 200.0, 5)
    with torch.no_grad():
        for _ in range(1000):
            model.weight -= 0.1 * (model.weight + torch.randn_like(model.weight))
            average.count()
    last = float(model.weight.detach().square().mean())
    average.adopt()
    mean = float(model.weight.detach().square().mean())
    assert last == pytest.approx(0.1 / 1.9, rel=0.2)
    assert mean == pytest.approx(1 / 400, rel=0.3)


def test_half_precision_is_averaged_in_single_precision() -> None:
    """Updates too small for the weights' own precision add up."""
    model = nn.Linear(8, 8, bias=False).bfloat16()
    nn.init.ones_(model.weight)
    average = averaging(model, 1000.0)
    with torch.no_grad():
        model.weight.fill_(1.5)
    for _ in range(1000):
        average.count()
    average.adopt()
    assert model.weight.dtype == torch.bfloat16
    torch.testing.assert_close(model.weight.float(), torch.full((8, 8), 1.5 - 0.5 / math.e), rtol=0.01, atol=0)
    average.undo()
    assert torch.equal(model.weight.float(), torch.full((8, 8), 1.5))


def test_frozen_parameters_are_those_of_the_last_weights_and_cost_no_copy() -> None:
    frozen, trained = nn.Linear(4, 4), nn.Linear(4, 4)
    frozen.requires_grad_(False)
    average = averaging(nn.Sequential(frozen, trained))
    with torch.no_grad():
        frozen.weight.fill_(7.0)
        trained.weight.add_(1.0)
    average.count()
    found = average.state_dict()
    assert found is not None
    assert len(found["average"]) == 2
    average.adopt()
    assert torch.equal(frozen.weight, torch.full((4, 4), 7.0))


def test_a_parameter_that_is_unfrozen_joins_with_the_values_that_it_has() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[0].requires_grad_(False)
    average = TorchWeightAverage([model], [torch.optim.SGD(model.parameters(), lr=0.1)])
    average.begin(4.0, 1)
    model[0].requires_grad_(True)
    expected = state(model)
    average.count()
    move(model, 0)
    average.count()
    average.adopt()
    found = state(model)
    assert not torch.equal(found["0.weight"], expected["0.weight"])
    average.undo()
    moved = state(model)["0.weight"]
    part = -math.expm1(-1 / 4)
    torch.testing.assert_close(found["0.weight"], expected["0.weight"].lerp(moved, part))


def test_a_group_that_is_added_joins() -> None:
    model, other = network(), nn.Linear(3, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    average = TorchWeightAverage([model], [optimizer])
    average.begin(4.0, 1)
    optimizer.add_param_group({"params": other.parameters()})
    average.count()
    before = state(other)
    move(other, 1)
    average.count()
    average.adopt()
    assert not torch.equal(other.weight, before["weight"])
    average.undo()
    average.adopt()
    assert average.adopted


class Tied(nn.Module):
    """A tied parameter, one that shares another's memory, a mask of minus infinity, a table of integers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.view = nn.Parameter(self.first.bias.data[:])
        self.register_buffer("mask", torch.full((3, 3), -math.inf).triu(1))
        self.register_buffer("table", torch.arange(3))
        self.register_buffer("flags", torch.tensor([True, False]))


def test_tied_parameters_stay_tied_and_masks_and_tables_stay_what_they_are() -> None:
    model = Tied()
    average = averaging(model)
    before = state(model)
    for seed in range(3):
        with torch.no_grad():
            model.first.weight.add_(torch.randn(3, 3, generator=torch.Generator().manual_seed(seed)))
            model.first.bias.add_(1.0)
        average.count()
    last = state(model)
    average.adopt()
    assert model.second.weight is model.first.weight
    assert torch.equal(model.view, model.first.bias)
    assert not torch.equal(model.first.weight, last["first.weight"])
    for name in ("mask", "table", "flags"):
        assert torch.equal(state(model)[name], before[name])
    average.undo()
    assert_equal(state(model), last)


def test_buffers_of_a_module_that_nothing_trains_stay_as_they_are() -> None:
    """Such as those of a user's own average, which is registered to be rolled back."""
    model = network()
    own = copy.deepcopy(model)
    average = TorchWeightAverage([model, own], [torch.optim.SGD(model.parameters(), lr=0.1)])
    average.begin(4.0, 1)
    move(own, 1)
    move(model, 2)
    average.count()
    last = state(own)
    average.adopt()
    assert_equal(state(own), last)


def test_it_does_not_grow_and_takes_no_graph_along() -> None:
    model = network()
    average = averaging(model)

    def kept() -> list[tuple[int, bool]]:
        return [(each.data_ptr(), each.requires_grad) for each in average._averages.values()]

    before = kept()
    for seed in range(5):
        move(model, seed)
        average.count()
    assert kept() == before
    assert not any(requires_grad for _, requires_grad in before)


@pytest.mark.parametrize("adopted", [False, True])
def test_it_goes_on_in_another_process_bit_for_bit(adopted: bool) -> None:
    def run(model: nn.Module, average: TorchWeightAverage, steps: range) -> None:
        for step in steps:
            move(model, step)
            average.count()

    whole = network()
    through = averaging(whole, 10.0, 3)
    run(whole, through, range(20))
    through.adopt()

    first = network()
    average = averaging(first, 10.0, 3)
    run(first, average, range(7))
    if adopted:
        average.adopt()
    file = io.BytesIO()
    torch.save({"model": first.state_dict(), "average": average.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    second = network()
    second.load_state_dict(saved["model"])
    resumed = TorchWeightAverage([second], [torch.optim.SGD(second.parameters(), lr=0.1)])
    resumed.load_state_dict(saved["average"])
    assert resumed.adopted is adopted
    resumed.undo()
    run(second, resumed, range(7, 20))
    resumed.adopt()
    assert_equal(state(second), state(whole))


def test_the_state_of_another_model_is_refused() -> None:
    found = averaging(network()).state_dict()
    other = nn.Linear(4, 4)
    average = TorchWeightAverage([other], [torch.optim.SGD(other.parameters(), lr=0.1)])
    with pytest.raises(ConfigError, match="another model"):
        average.load_state_dict(found)
    average.load_state_dict(None)
    assert not average.active


def test_what_is_not_kept_can_not_be_adopted() -> None:
    average = averaging(network())
    average.end()
    with pytest.raises(RuntimeError, match="no average"):
        average.adopt()


def test_where_averaging_fails_training_goes_on_without(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = network()
    average = averaging(model)

    def fails(*_: object) -> None:
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(torch, "_foreach_lerp_", fails)
    average.count()
    average.count()
    assert not average.active
    assert [record.getMessage() for record in caplog.records] == [
        "lrpilot: the weights can't be averaged any more: OutOfMemoryError: no room"
    ]


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, KeyboardInterrupt])
def test_an_average_that_is_half_in_the_model_goes_out_again(
    monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    model = network()
    average = averaging(model)
    move(model, 0)
    average.count()
    last = state(model)
    where, calls = torch.where, 0

    def interrupted(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise error
        return where(*arguments)

    monkeypatch.setattr(torch, "where", interrupted)
    with pytest.raises(error):
        average.adopt()
    assert not average.adopted
    assert_equal(state(model), last)
    average.adopt()
    assert not torch.equal(state(model)["0.weight"], last["0.weight"])


class Moded(torch.optim.SGD):
    """Trains at other weights than it evaluates, as Schedule-Free does."""

    train = eval = lambda self: None


@pytest.mark.parametrize(("kind", "averages"), [(torch.optim.SGD, True), (Moded, False)])
def test_an_optimizer_that_averages_by_itself_is_left_alone(kind: Callable[..., Any], averages: bool) -> None:
    model = network()
    backend = TorchBackend(model, [kind(model.parameters(), lr=0.1)], None, {})
    assert (backend.average is not None) is averages
    backend.begin(1)
    backend.append(1.0)
    backend.close()
