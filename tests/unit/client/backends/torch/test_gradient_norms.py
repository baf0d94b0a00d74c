"""The norms that are recorded are those of the gradients that an optimizer sees, whatever calls it and how."""

from __future__ import annotations

import copy
import gc
import logging
import math
import weakref
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import pytest
import torch
import torch._dynamo
from lrpilot.backends.measures import GRADIENT_NORM
from lrpilot.backends.torch.backend import TorchBackend
from lrpilot.backends.torch.measures.collector import MeasureCollector
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch._dynamo.utils import counters
from torch.nn.utils import clip_grad_norm_, get_total_norm

from tests.support.backends.watching import Watching

Step = Callable[[torch.optim.Optimizer, Callable[[], torch.Tensor]], float]
"""Makes an update with the gradients that a function computes; their norm."""


def network(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 1)).to(dtype)


def backend(model: nn.Module, *optimizers: torch.optim.Optimizer, **register: Any) -> TorchBackend:
    made = TorchBackend(model, optimizers, None, register)
    made.begin(20)
    made.measure(20, {GRADIENT_NORM: ()})
    return made


def norm_of(parameters: Any) -> float:
    return get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None]).item()


def loss_of(model: nn.Module, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    loss: torch.Tensor = model(torch.randn(4, 5, dtype=dtype)).square().mean()
    return loss


def measured(own: TorchBackend, n_steps: int) -> list[float]:
    return own.flush_measures(n_steps)[GRADIENT_NORM]


# --- how an update is made --------------------------------------------------------------------------------------------


def plainly(optimizer: torch.optim.Optimizer, gradients: Callable[[], torch.Tensor]) -> float:
    gradients()
    norm = norm_of(p for group in optimizer.param_groups for p in group["params"])
    optimizer.step()
    optimizer.zero_grad()
    return norm


def by_closure(optimizer: torch.optim.Optimizer, gradients: Callable[[], torch.Tensor]) -> float:
    norms: list[float] = []

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = gradients()
        norms.append(norm_of(p for group in optimizer.param_groups for p in group["params"]))
        return loss

    loss = optimizer.step(closure)  # type: ignore[arg-type]  # all but LBFGS take what a loss is
    assert loss is not None
    return norms[-1]


def by_named_closure(optimizer: torch.optim.Optimizer, gradients: Callable[[], torch.Tensor]) -> float:
    with mock.patch.object(optimizer, "step", lambda closure: type(optimizer).step(optimizer, closure=closure)):
        return by_closure(optimizer, gradients)


def fused(parameters: Any, lr: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr, fused=True)


def in_groups(parameters: Any, lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD([{"params": [each]} for each in parameters], lr, momentum=0.9)


def searching_a_line(parameters: Any, lr: float) -> torch.optim.Optimizer:
    return torch.optim.LBFGS(parameters, lr, max_iter=4)


STEPS = (plainly, by_closure, by_named_closure)
KINDS = (torch.optim.SGD, torch.optim.AdamW, fused, in_groups)


# PyTorch 2.8 says this of its own LBFGS.
@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True to a scalar")
@pytest.mark.parametrize(
    ("step", "kind"),
    [(by_closure, searching_a_line), *((step, kind) for step in STEPS for kind in KINDS)],
)
def test_norms_are_those_of_the_gradients_at_the_update_bit_for_bit(step: Step, kind: Any) -> None:
    model = network()
    optimizer = kind(model.parameters(), 0.01)
    own = backend(model, optimizer)

    def gradients() -> torch.Tensor:
        loss = loss_of(model)
        torch.autograd.backward(loss)
        clip_grad_norm_(model.parameters(), 0.3)  # what the optimizer sees is clipped
        return loss

    norms = []
    for _ in range(6):
        norms.append(step(optimizer, gradients))
        own.append(torch.tensor(1.0))
    assert measured(own, 6) == norms
    assert measured(own, 6) != norms  # they are forgotten


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 1e-6), (torch.bfloat16, 1e-2), (torch.float16, 1e-2), (torch.complex64, 1e-6)],
)
def test_gradients_of_any_type_have_one_in_single_precision(dtype: torch.dtype, tolerance: float) -> None:
    weights = nn.Parameter(torch.randn(50, dtype=torch.float32).to(dtype))
    optimizer = torch.optim.SGD([weights], 0.01)
    own = backend(nn.ParameterList([weights]), optimizer)
    weights.grad = torch.full_like(weights, 100.0)
    optimizer.step()
    own.append(1.0)
    weights.grad = torch.full_like(weights, 0.25)
    optimizer.step()
    own.append(1.0)
    assert measured(own, 2) == pytest.approx([100.0 * 50**0.5, 0.25 * 50**0.5], rel=tolerance)


def test_a_norm_in_half_precision_does_not_overflow() -> None:
    weights = nn.Parameter(torch.zeros(64, dtype=torch.float16))
    optimizer = torch.optim.SGD([weights], 0.01)
    own = backend(nn.ParameterList([weights]), optimizer)
    weights.grad = torch.full_like(weights, 60000.0)
    optimizer.step()
    own.append(1.0)
    assert measured(own, 1) == pytest.approx([60000.0 * 8], rel=1e-3)


def test_several_types_and_gradients_that_are_none_or_sparse_make_one_norm() -> None:
    model = nn.ModuleList([nn.Embedding(9, 3, sparse=True), nn.Linear(3, 3), nn.Linear(3, 2).double(), nn.Linear(2, 2)])
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    own = backend(model, optimizer)
    embedding, first, second, unused = model
    loss = second(first(embedding(torch.tensor([1, 1, 2]))).double()).square().sum()
    torch.autograd.backward(loss)
    gradients = [p.grad.to_dense().double() for p in model.parameters() if p.grad is not None]
    assert len(gradients) == 5
    assert unused.weight.grad is None
    optimizer.step()
    own.append(loss.detach())
    assert measured(own, 1) == pytest.approx([torch.cat([g.flatten() for g in gradients]).norm().item()], rel=1e-6)


def test_an_update_without_gradients_has_norm_zero_as_pytorch_says() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    own = backend(model, optimizer)
    optimizer.step()
    own.append(1.0)
    assert measured(own, 1) == [get_total_norm([]).item()] == [0.0]


# --- several optimizers -----------------------------------------------------------------------------------------------


def test_the_updates_of_one_step_are_taken_together_and_the_last_of_an_optimizer_counts() -> None:
    model = network()
    first = torch.optim.SGD(model[0].parameters(), 0.01)
    second = torch.optim.SGD(model[2].parameters(), 0.01)
    own = backend(model, first, second)
    norms = []
    for optimizers in ([first, second], [second], [first, first, second], []):
        last: dict[int, float] = {}
        for optimizer in optimizers:
            torch.autograd.backward(loss_of(model))
            last[id(optimizer)] = norm_of(p for group in optimizer.param_groups for p in group["params"])
            optimizer.step()
            model.zero_grad()
        if optimizers:
            own.append(1.0)
            norms.append(math.hypot(*last.values()))
    assert measured(own, 3) == pytest.approx(norms, rel=1e-6)


class Wrapping(torch.optim.Optimizer):
    """Steps an optimizer that it wraps with other gradients than its own, as SAM does, some parameters at a time."""

    def __init__(self, *inner: torch.optim.Optimizer) -> None:
        self.inner = inner
        super().__init__([group for each in inner for group in each.param_groups], {"lr": 0.01})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # nothing to give
        for each in self.inner:
            for group in each.param_groups:
                for parameter in group["params"]:
                    parameter.grad *= 3.0
            each.step()


@pytest.mark.parametrize("layers", [[[0, 2]], [[0], [2]]])
def test_an_optimizer_inside_another_one_moves_the_weights_so_its_gradients_count(layers: list[list[int]]) -> None:
    model = network()
    parts = [[p for layer in part for p in model[layer].parameters()] for part in layers]
    outer = Wrapping(*(torch.optim.SGD(part, 0.01) for part in parts))
    own = backend(model, outer)
    torch.autograd.backward(loss_of(model))
    norm = norm_of(model.parameters())
    outer.step()
    own.append(1.0)
    assert measured(own, 1) == pytest.approx([3 * norm], rel=1e-6)


def test_an_optimizer_that_leaves_a_part_to_another_one_counts_by_itself() -> None:
    """Each rank of ZeRO steps its own share of the parameters, and has all gradients."""
    model = network()
    optimizer = Wrapping(torch.optim.SGD(model[0].parameters(), 0.01))
    optimizer.add_param_group({"params": list(model[2].parameters())})
    own = backend(model, optimizer)
    torch.autograd.backward(loss_of(model))
    norm = norm_of(model.parameters())
    optimizer.step()
    own.append(1.0)
    assert measured(own, 1) == [norm]


# --- scaled gradients, and skipped updates ----------------------------------------------------------------------------


@pytest.mark.parametrize("is_fused", [False, True])
@pytest.mark.parametrize("clipped", [False, True])
def test_norms_are_those_of_unscaled_gradients_and_a_skipped_update_has_none(is_fused: bool, clipped: bool) -> None:
    model, twin = network(), network()
    optimizer = torch.optim.AdamW(model.parameters(), 0.01, fused=is_fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    own = backend(model, optimizer, scaler=scaler)
    norms, counted = [], []
    for step in range(5):
        torch.manual_seed(step)
        twin.load_state_dict(model.state_dict())
        twin.zero_grad()
        torch.autograd.backward(loss_of(twin))
        torch.manual_seed(step)
        optimizer.zero_grad()
        loss = loss_of(model)
        torch.autograd.backward(scaler.scale(loss))
        if step == 2:
            spoilt = next(model.parameters()).grad
            assert spoilt is not None
            spoilt[0] = math.inf
        if clipped:
            scaler.unscale_(optimizer)
            clip_grad_norm_(model.parameters(), 0.1)
            clip_grad_norm_(twin.parameters(), 0.1)
        scaler.step(optimizer)
        scaler.update()
        counted.append(own.append(loss))
        if counted[-1]:
            norms.append(norm_of(twin.parameters()))
    assert counted == [True, True, False, True, True]
    assert measured(own, 4) == pytest.approx(norms, rel=1e-5)


def test_a_step_that_is_counted_without_an_update_has_no_norm() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    own = backend(model, optimizer)
    torch.autograd.backward(loss_of(model))
    optimizer.step()
    assert own.append(1.0)
    assert not own.append(1.0)
    assert own.append(math.nan)
    first, second = measured(own, 2)
    assert first > 0
    assert math.isnan(second)


# --- what it costs, and what it leaves --------------------------------------------------------------------------------


def hooks(*optimizers: torch.optim.Optimizer) -> int:
    return sum(len(each._optimizer_step_pre_hooks) for each in optimizers)


def test_optimizers_have_a_hook_only_while_norms_are_asked_for() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    own = TorchBackend(model, [optimizer], None, {})
    own.begin(5)
    assert hooks(optimizer) == 0
    assert own.flush_measures(5) == own.peek_measures() == {}
    for _ in range(3):
        own.measure(5, {GRADIENT_NORM: ()})
        assert hooks(optimizer) == 1
    own.measure(5, {})
    assert hooks(optimizer) == 0
    own.measure(5, {GRADIENT_NORM: ()})
    own.close()
    assert hooks(optimizer) == 0


# Dynamo's tracing of an optimizer imports what PyTorch itself compiles the old way.
compiles = pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")


@pytest.fixture
def dynamo() -> Iterator[None]:
    """Dynamo with no graphs of other tests."""
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def trained_by_a_compiled_step(compiler: Any, asks: Callable[[int], bool]) -> tuple[list[list[float]], torch.Tensor]:
    """The norms of 20 directives that ask or do not, each after a snapshot, and the weights in the end."""
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    own = TorchBackend(model, [optimizer], None, {})
    step = torch.compile(optimizer.step, backend=compiler)
    norms = []
    for directive in range(20):
        own.measure(2, {GRADIENT_NORM: ()} if asks(directive) else {})
        own.begin(2)
        own.take()
        for _ in range(2):
            torch.autograd.backward(loss_of(model))
            step()
            optimizer.zero_grad()
            own.append(1.0)
        own.flush()
        norms.append(own.flush_measures(2).get(GRADIENT_NORM, []))
        if directive % 3 == 0:
            own.restore()
    own.close()
    return norms, nn.utils.parameters_to_vector(model.parameters()).detach()


@compiles
@pytest.mark.usefixtures("dynamo")
def test_a_compiled_step_is_compiled_once_more_at_most_and_its_graph_stays_the_same() -> None:
    def compiled_with(asks: Callable[[int], bool]) -> tuple[int, int, list[list[float]], torch.Tensor]:
        torch._dynamo.reset()
        counters.clear()
        compiler = CompileCounter()
        norms, weights = trained_by_a_compiled_step(compiler, asks)
        return counters["frames"]["total"], int(compiler.op_count), norms, weights

    frames, operations, _, weights = compiled_with(lambda _: False)
    more_frames, same_operations, norms, same_weights = compiled_with(lambda directive: directive % 2 == 1)
    assert more_frames == frames + 1
    assert same_operations == operations > 0
    assert torch.equal(weights, same_weights)
    assert [len(each) for each in norms] == [0, 2] * 10
    assert all(math.isnan(norm) for each in norms for norm in each)


@compiles
@pytest.mark.usefixtures("dynamo")
def test_a_step_with_a_compiled_update_and_another_one_has_no_norm_and_the_next_has_one() -> None:
    model = network()
    first = torch.optim.SGD(model[0].parameters(), 0.01)
    second = torch.optim.SGD(model[2].parameters(), 0.01)
    own = backend(model, first, second)
    compiled = torch.compile(first.step, backend=CompileCounter())
    torch.autograd.backward(loss_of(model))
    norm = norm_of(model.parameters())
    for step in (compiled, first.step):
        step()
        second.step()
        own.append(1.0)
    together, after = measured(own, 2)
    assert math.isnan(together)
    assert after == pytest.approx(norm, rel=1e-6)


@pytest.mark.parametrize("n_optimizers", [1, 2])
def test_a_step_waits_for_no_device(n_optimizers: int) -> None:
    """Only reading a value, or a shape that depends on one, would."""
    model = network()
    parts = [model.parameters()] if n_optimizers == 1 else [model[0].parameters(), model[2].parameters()]
    optimizers = [torch.optim.SGD(part, 0.01) for part in parts]
    own = backend(model, *optimizers)
    torch.autograd.backward(loss_of(model))
    loss = torch.tensor(1.0)
    with Watching() as watching:
        for _ in range(2):
            for optimizer in optimizers:
                optimizer.step()
            own.append(loss)
    assert watching.names.count("aten::_foreach_norm.Scalar") == 2 * n_optimizers
    assert not watching.waits
    with Watching() as watching:
        measured(own, 2)
    assert len(watching.names) < 10


def test_no_snapshot_has_the_hook() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    own = backend(model, optimizer)
    own.take()
    assert hooks(optimizer) == 1
    state = copy.deepcopy(own.state_dict())
    own.restore()
    assert hooks(optimizer) == 1
    own.measure(5, {})
    own.restore()
    assert state is not None
    own.load_state_dict(state)
    assert hooks(optimizer) == 0
    own.measure(5, {GRADIENT_NORM: ()})
    own.restore()
    torch.autograd.backward(loss_of(model))
    optimizer.step()
    own.append(1.0)
    assert measured(own, 1)[0] > 0


def test_an_optimizer_does_not_keep_what_watches_it() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    norms = MeasureCollector([optimizer])
    norms.begin(3, {GRADIENT_NORM: ()})
    gone = weakref.ref(norms)
    del norms
    gc.collect()
    assert gone() is None
    assert hooks(optimizer) == 0
    optimizer.step()


def test_the_memory_is_used_again() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    norms = MeasureCollector([optimizer])
    norms.begin(3, {GRADIENT_NORM: ()})
    place = norms._memory.data_ptr()
    for _ in range(4):
        optimizer.step()
        for _ in range(3):
            norms.append()
        assert len(norms.flush(3)[GRADIENT_NORM]) == 3
        norms.begin(2, {GRADIENT_NORM: ()})
        assert norms._memory.data_ptr() == place
    for _ in range(3):
        norms.append()
    assert len(norms.peek()[GRADIENT_NORM]) == 3


def test_a_gradient_that_has_no_norm_is_told_once_and_does_not_stop_the_training(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    own = backend(model, optimizer)
    with (
        caplog.at_level(logging.WARNING, "lrpilot"),
        mock.patch("torch._foreach_norm", side_effect=RuntimeError("odd")),
    ):
        for _ in range(3):
            torch.autograd.backward(loss_of(model))
            optimizer.step()
            own.append(1.0)
    torch.autograd.backward(loss_of(model))
    optimizer.step()
    own.append(1.0)
    *first, last = measured(own, 4)
    assert all(map(math.isnan, first))
    assert last > 0
    assert [record.getMessage() for record in caplog.records] == [
        "lrpilot: gradient_norm can't be measured: RuntimeError: odd"
    ]


def test_a_step_more_than_there_is_room_for_ends_the_measuring_and_not_the_training(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    own = TorchBackend(model, [optimizer], None, {})
    own.begin(3)
    own.measure(2, {GRADIENT_NORM: ()})
    for _ in range(3):
        optimizer.step()
        assert own.append(1.0)
    assert "gradient_norm can't be measured: IndexError" in caplog.text
    assert own.flush_measures(3) == {}
    assert hooks(optimizer) == 0


def test_norms_of_an_earlier_process_come_first_and_ones_that_are_missing_are_no_numbers() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    own = TorchBackend(model, [optimizer], None, {})
    own.begin(5, earlier=[1.0, 1.0])
    own.measure(5, {GRADIENT_NORM: [0.5, 0.25]})
    optimizer.step()
    own.append(1.0)
    assert own.peek_measures() == {GRADIENT_NORM: [0.5, 0.25, 0.0]}
    assert math.isnan(own.flush_measures(4)[GRADIENT_NORM][0])
    own.measure(5, {GRADIENT_NORM: [0.5, 0.25]})
    assert measured(own, 2) == [0.5, 0.25]


def test_norms_are_taken_in_inference_mode_too() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    own = backend(model, optimizer)
    torch.autograd.backward(loss_of(model))
    norm = norm_of(model.parameters())
    optimizer.step()
    with torch.inference_mode():
        own.append(torch.tensor(1.0))
    optimizer.step()
    own.append(torch.tensor(1.0))
    assert measured(own, 2) == [norm, norm]
