"""The largest output of modules that the user named: which forward calls count, and what is left of the hooks."""

from __future__ import annotations

import collections
import copy
import io
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch._dynamo
from lrpilot.backends.measures import GRADIENT_NORM, OUTPUT_LOGIT
from lrpilot.backends.torch.arguments import checked_logits
from lrpilot.backends.torch.backend import TorchBackend
from lrpilot.errors import ConfigError
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.utils.checkpoint import checkpoint

from tests.support.backends.watching import Watching


class Scaled(nn.Module):
    """Gives its input, times a weight that is 1, in some form."""

    def __init__(self, form: Callable[[torch.Tensor], Any] = lambda output: output) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.form = form

    def forward(self, inputs: torch.Tensor) -> Any:
        return self.form(self.weight * inputs)


def watched(
    model: nn.Module, *logits: nn.Module, validate: Any = None, names: tuple[str, ...] = (OUTPUT_LOGIT,)
) -> Any:
    """A backend that measures; its optimizer moves nothing that can be seen."""
    optimizer = torch.optim.SGD(model.parameters(), 1e-30)
    own = TorchBackend(model, [optimizer], validate, {}, logits=logits or (model,))
    own.begin(20)
    own.measure(20, dict.fromkeys(names, ()))
    return own


def steps(own: Any, n: int = 1) -> list[float]:
    """What was measured in the last steps, of which one is made now."""
    own._optimizers[0].step()
    own.append(1.0)
    values: list[float] = own.peek_measures()[OUTPUT_LOGIT][-n:]
    return values


def hooks_of(module: nn.Module) -> int:
    return len(module._forward_hooks)


def test_a_step_has_the_largest_of_all_its_forward_calls_and_the_next_one_begins_anew() -> None:
    model = nn.ModuleList([Scaled(), Scaled()])
    own = watched(model, *model)
    for value in ([1.0, -7.0], [2.0, 3.0]):  # two micro-batches
        model[0](torch.tensor(value))
    model[1](torch.tensor([[5.0], [-4.0]]))
    assert steps(own) == [7.0]
    model[1](torch.tensor(-0.5))
    assert steps(own, 2) == [7.0, 0.5]
    assert math.isnan(steps(own)[0]), "a step that called no such module"
    assert own.flush_measures(3)[OUTPUT_LOGIT][:2] == [7.0, 0.5]
    model[0](torch.tensor(2.0))
    assert steps(own) == [2.0]


def test_forward_calls_that_do_not_train_do_not_count() -> None:
    model = Scaled()

    def validate() -> float:
        return float(model(torch.tensor(300.0)).detach())  # in training mode, and with gradients

    own = watched(model, validate=validate)
    large = torch.tensor(100.0)
    model(torch.tensor(1.0))
    model.eval()
    model(large)
    model.train()
    for off in (torch.no_grad, torch.inference_mode):
        with off():
            model(large)
    assert own.validate() == 300.0
    assert steps(own) == [1.0]


def test_a_checkpointed_call_counts_and_one_that_a_rollback_cut_off_does_not() -> None:
    model = Scaled()
    own = watched(model)
    checkpoint(model, torch.tensor(4.0, requires_grad=True), use_reentrant=True).backward()
    assert steps(own) == [4.0]
    own.take()
    model(torch.tensor(9.0))
    own.restore()
    own.begin(20)
    own.measure(20, {OUTPUT_LOGIT: ()})
    model(torch.tensor(2.0))
    assert steps(own, 20) == [2.0]
    model(torch.tensor(9.0))
    own._collector.skip()  # as where a GradScaler leaves an update out
    assert math.isnan(steps(own)[0])


class Reply(collections.UserDict[str, torch.Tensor]):
    """A dict that is none, as models' replies are."""


@pytest.mark.parametrize(
    ("form", "value"),
    [
        (lambda x: (x, 100 * x), 3.0),
        (lambda x: [[x.long()], {"more": x}], 3.0),
        (lambda x: {"loss": 100 * x, "logits": x}, 3.0),
        (lambda x: Reply(loss=100 * x, logits=x), 3.0),
        (lambda x: x * math.inf, math.inf),
        (lambda x: x * math.nan, math.nan),
        (lambda x: x[:0], math.nan),
        (lambda x: x.long(), math.nan),
        (lambda x: None, math.nan),
        (lambda x: {"text": "3"}, math.nan),
        (lambda x: x.to_sparse(), math.nan),
    ],
)
def test_outputs_of_any_form_have_their_first_tensor_measured_or_nothing(form: Any, value: float) -> None:
    model = Scaled(form)
    own = watched(model, names=(OUTPUT_LOGIT, GRADIENT_NORM))
    model.weight.grad = torch.tensor(2.0)
    model(torch.tensor([-3.0, 1.0]))
    assert steps(own) == pytest.approx([value], nan_ok=True)
    assert own.peek_measures()[GRADIENT_NORM] == [2.0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_outputs_of_any_precision_are_told_in_single_precision(dtype: torch.dtype) -> None:
    model = Scaled(lambda x: x.to(dtype))
    own = watched(model)
    model(torch.tensor([-30_000.0, 5.0]))
    [value] = steps(own)
    assert value == float(torch.tensor(30_000.0, dtype=dtype))
    assert own._collector._memory.dtype is torch.float32


def test_under_autocast_the_output_is_measured_as_it_is() -> None:
    model = nn.Linear(3, 2)
    own = watched(model)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(torch.randn(4, 3))
    assert output.dtype is torch.bfloat16
    assert steps(own) == [output.abs().max().item()]


def test_what_exists_only_inside_of_a_transformation_is_not_measured_and_spoils_nothing() -> None:
    model = nn.Linear(3, 2)
    own = watched(model, names=(OUTPUT_LOGIT, GRADIENT_NORM))
    weights = {name: each.detach() for name, each in model.named_parameters()}
    inputs = torch.randn(4, 3)

    def loss(weights: dict[str, torch.Tensor], inputs: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = functional_call(model, weights, (inputs,))
        return outputs.square().mean()

    for gradients in (grad(loss)(weights, inputs), vmap(grad(loss), (None, 0))(weights, inputs)):
        for name, parameter in model.named_parameters():
            parameter.grad = gradients[name].reshape(-1, *parameter.shape).mean(0)
        assert math.isnan(steps(own)[0])
    assert all(norm > 0 for norm in own.flush_measures(2)[GRADIENT_NORM])


def test_there_is_a_hook_only_while_it_is_asked_for_and_no_snapshot_has_it() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    kept: list[torch.Tensor] = []
    model[1].register_forward_hook(lambda module, arguments, output: kept.append(output.detach()))
    own = watched(model, model[1])
    optimizer = own._optimizers[0]
    assert (hooks_of(model[1]), hooks_of(model[0]), hooks_of(model)) == (2, 0, 0)
    assert not optimizer._optimizer_step_pre_hooks, "an optimizer is not looked at for it"
    own.take()
    own.measure(20, {})
    assert hooks_of(model[1]) == 1
    own.restore()
    assert hooks_of(model[1]) == 1
    own.measure(20, {OUTPUT_LOGIT: (1.0,)})
    own.restore()
    model(torch.ones(1, 3))
    assert steps(own, 2) == [1.0, kept[-1].abs().max().item()]
    own.close()
    assert hooks_of(model[1]) == 1


@pytest.mark.parametrize("twin_of", [copy.deepcopy, lambda model: _through_a_file(model)])
def test_a_copy_of_the_model_tells_nothing(twin_of: Callable[[nn.Module], nn.Module]) -> None:
    model = nn.Linear(3, 2)
    own = watched(model)
    twin = twin_of(model)
    twin(torch.full((1, 3), 1e6))
    output = model(torch.ones(1, 3))
    assert steps(own) == [output.abs().max().item()]


def _through_a_file(model: nn.Module) -> nn.Module:
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    loaded: nn.Module = torch.load(buffer, weights_only=False)
    return loaded


@pytest.mark.parametrize("named", ["inside", "outside", "in place"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_a_compiled_module_is_compiled_once_with_and_once_without_and_breaks_nowhere(named: str) -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    inner = nn.Linear(3, 2)
    model = nn.Sequential(inner)
    called: nn.Module = torch.compile(model, backend="eager")  # type: ignore[assignment]
    if named == "in place":
        called = model
        inner.compile(backend="eager")
    own = watched(called, called if named == "outside" else inner)
    for number in range(6):
        own.begin(20)
        own.measure(20, {OUTPUT_LOGIT: ()} if number % 2 == 0 else {})
        output = called(torch.randn(4, 3))
        own._optimizers[0].step()
        own.append(1.0)
        found = own.flush_measures(1).get(OUTPUT_LOGIT, [])
        expected = output.abs().max().item() if named == "outside" else math.nan
        assert found == pytest.approx([expected] if number % 2 == 0 else [], nan_ok=True)
    counters = torch._dynamo.utils.counters
    assert counters["stats"]["unique_graphs"] <= 2
    assert not counters["graph_break"]
    torch._dynamo.reset()


def test_a_step_waits_for_no_device() -> None:
    model = nn.Linear(3, 2)
    own = watched(model)
    inputs, loss = torch.randn(4, 3), torch.tensor(1.0)
    with Watching() as watching:
        for _ in range(2):
            model(inputs)
        own._optimizers[0].step()
        own.append(loss)
    assert watching.names.count("aten::aminmax") == 2
    assert not watching.waits


def test_measuring_changes_no_bit_of_a_training() -> None:
    ends = []
    for names in ((), (OUTPUT_LOGIT,)):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 1))
        optimizer = torch.optim.Adam(model.parameters(), 0.01)
        own = TorchBackend(model, [optimizer], None, {}, logits=[model[2]])
        own.begin(5)
        own.measure(5, dict.fromkeys(names, ()))
        for _ in range(5):
            optimizer.zero_grad()
            torch.autograd.backward(model(torch.randn(4, 3)).square().mean())
            optimizer.step()
            own.append(1.0)
        ends.append(torch.cat([each.detach().flatten() for each in model.parameters()]))
    assert torch.equal(*ends)


def test_it_can_be_measured_where_modules_were_named() -> None:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    assert OUTPUT_LOGIT not in TorchBackend(model, [optimizer], None, {}).measures
    assert OUTPUT_LOGIT in TorchBackend(model, [optimizer], None, {}, logits=[model]).measures


HEADS = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
BODY = nn.Linear(2, 2)
MODEL = nn.ModuleDict({"heads": HEADS, "body": BODY})


@pytest.mark.parametrize(
    ("logits", "words"),
    [
        (nn.Linear(2, 2), "a Linear is no part of the model"),
        ([BODY, nn.ReLU()], "a ReLU is no part of the model"),
        ("body", "'body' is no torch.nn.Module"),
        (3, "3 is no torch.nn.Module"),
        ([], "an empty list names none"),
        (HEADS, "a ModuleList has no calls that can be seen"),
    ],
)
def test_what_is_no_module_of_the_model_is_refused_with_the_field_and_a_remedy(logits: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=f"^logits: {words}.*; give a module of the model"):
        checked_logits(MODEL, logits)


def test_one_module_or_several_are_taken_each_once() -> None:
    assert checked_logits(MODEL, None) == ()
    assert checked_logits(MODEL, BODY) == (BODY,)
    assert checked_logits(MODEL, (each for each in [*HEADS, HEADS[0]])) == tuple(HEADS)
