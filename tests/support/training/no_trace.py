"""What a training run leaves, compared bit for bit with one whose probes were rolled back."""

from __future__ import annotations

import collections
import dataclasses
import random
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from lrpilot.rng import RandomState
from lrpilot.transport.scripted import ScriptedTransport
from lrpilot.tuner import Tuner
from lrpilot.v1 import tuner_pb2 as pb
from torch import nn
from torch._dynamo.eval_frame import OptimizedModule
from torch.nn.parallel import DistributedDataParallel
from torch.utils.hooks import RemovableHandle

from tests.support.training.scripted_directives import probe, training

N_FEATURES = 4
COMMITTED_LRS = [0.02] * 3 + [0.03] * 6
"""Of the steps that `SCRIPT` commits."""
WILD_LR = 2.0
"""Of the first probe."""

_TUNERS = ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")
"""Attributes that a tuner adds to."""


def script() -> list[pb.Directive]:
    """Probes before anything has been committed, and in the middle."""
    return [
        probe(WILD_LR, 4, first=True),
        probe(0.3, 6),
        training(0.02, 3, restore=True),
        probe(WILD_LR, 3, first=True),
        probe(0.3, 5),
        training(0.03, 6, restore=True),
    ]


@dataclasses.dataclass
class Loop:
    """A training loop: what a tuner is given, and one update of it."""

    model: nn.Module
    optimizers: Sequence[Any]
    update: Callable[[torch.Tensor], torch.Tensor]
    """On a batch of (6, `N_FEATURES`) normal numbers; gives the loss."""
    register: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    state: Any = None
    """What is compared beside all that the tuner is given."""
    validate: Callable[[], float] | None = None
    tuner: Tuner | None = None

    @property
    def probing(self) -> bool:
        """Whether the next step will be rolled back."""
        return self.tuner is not None and self.tuner.searching

    def bits(self) -> Any:
        """All that the run has left."""
        roots = [self.model, list(self.optimizers), dict(self.register), self.state]
        return Bits().of([roots, RandomState.capture().states])


class Net(nn.Module):
    """A small network; what a case adds is called at every training step, on the hidden layer."""

    def __init__(self, hook: Callable[[Any, torch.Tensor], Any] | None = None, **state: Any) -> None:
        super().__init__()
        self.first = nn.Linear(N_FEATURES, 8)
        self.last = nn.Linear(8, 1)
        self.hook = hook
        for name, value in state.items():
            setattr(self, name, value)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.tanh(self.first(x))
        if self.hook is not None:
            hidden = self.hook(self, hidden)
        y: torch.Tensor = self.last(hidden)
        return y


class Cases(dict[str, Callable[[], Loop]]):
    """Training loops that a module compares, by the names of the functions that make them."""

    def add(self, make: Callable[[], Loop]) -> Callable[[], Loop]:
        """Adds a loop; a decorator of the function that makes it."""
        self[make.__name__.replace("_", " ")] = make
        return make


def loop(model: nn.Module, optimizer: Any = None, **arguments: Any) -> Loop:
    """Of a model whose output is the loss's; SGD with momentum unless something else is given."""
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def update(batch: torch.Tensor) -> torch.Tensor:
        model.zero_grad()
        optimizer.zero_grad()
        loss: torch.Tensor = (model(batch) - batch.sum(1, keepdim=True)).square().mean()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_([p for p in model.parameters() if p.grad is not None], 1.0)
        optimizer.step()
        return loss.detach()

    return Loop(model, [optimizer], update, **arguments)


def batches() -> list[torch.Tensor]:
    """More than any run takes."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(6, N_FEATURES, generator=generator) for _ in range(20)]


def seed() -> None:
    """Of all global generators."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


def plain_run(make: Callable[[], Loop], lrs: Sequence[float] = COMMITTED_LRS) -> tuple[Any, list[float]]:
    """What a run without a tuner leaves, and its losses."""
    seed()
    run = make()
    losses = []
    for lr, batch in zip(lrs, batches(), strict=False):
        for optimizer in run.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr
        losses.append(run.update(batch).item())
    return run.bits(), losses


def probed_run(make: Callable[[], Loop], directives: Sequence[pb.Directive] | None = None) -> tuple[Any, list[float]]:
    """What a run with probes leaves, and the losses of its committed steps."""
    seed()
    run = make()
    directives = script() if directives is None else directives
    transport = ScriptedTransport(directives)
    n_steps = sum(directive.n_steps for directive in directives)
    run.tuner = tuner = Tuner(
        run.model,
        run.optimizers,
        register=run.register,
        transport=transport,
        total_steps=n_steps,
        validate=run.validate,
    )
    losses = []
    for batch in tuner.batches(batches()):
        committed = not tuner.searching
        loss = run.update(batch)
        if committed:
            losses.append(loss.item())
        tuner.step(loss)
    assert len(transport.reports) == len(directives), "the tuner gave up"
    return run.bits(), losses


def assert_no_trace(make: Callable[[], Loop], lrs: Sequence[float] = COMMITTED_LRS) -> None:
    """Fails unless a run with probes comes out as one without."""
    expected, expected_losses = plain_run(make, lrs)
    found, losses = probed_run(make)
    assert losses == expected_losses, f"{losses} != {expected_losses}"
    different = differences(expected, found)
    assert not different, "\n".join(different)


def differences(a: Any, b: Any, path: str = "") -> list[str]:
    """Where two results of `Bits.of` are not the same."""
    if type(a) is tuple and type(b) is tuple and len(a) == len(b):
        return [line for i, pair in enumerate(zip(a, b, strict=True)) for line in differences(*pair, f"{path}/{i}")]
    return [] if type(a) is type(b) and a == b else [f"{path}: {str(a)[:200]} != {str(b)[:200]}"]


class Bits:
    """Everything that can be reached from an object, as plain values that are equal if the objects are alike.

    Objects that are found twice are told by the number of the first time: what is shared must stay shared.
    """

    def __init__(self) -> None:
        self._seen: dict[int, tuple[int, Any]] = {}
        self._storages: dict[int, int] = {}

    def of(self, value: Any) -> Any:
        """The bits of an object."""
        if value is None or isinstance(value, bool | int | str | bytes | torch.dtype | torch.device | torch.Size):
            return value
        if isinstance(value, float | complex):
            return repr(value)
        if isinstance(value, types.FunctionType | types.BuiltinFunctionType | type | types.ModuleType):
            return value.__name__
        if isinstance(value, RemovableHandle):
            return "handle"
        if id(value) in self._seen:
            return ("again", self._seen[id(value)][0])
        if isinstance(value, OptimizedModule | DistributedDataParallel):
            return self.of(value._modules)
        self._seen[id(value)] = len(self._seen), value
        return (type(value).__qualname__, *self._parts(value))

    def _parts(self, value: Any) -> Iterator[Any]:
        if isinstance(value, torch.Tensor):
            yield from self._of_tensor(value)
        elif isinstance(value, np.ndarray):
            yield from (str(value.dtype), value.shape)
            yield tuple(map(self.of, value.flat)) if value.dtype.hasobject else value.tobytes()
        elif isinstance(value, torch.Generator):
            yield value.get_state().numpy().tobytes()
        elif isinstance(value, random.Random):
            yield value.getstate()
        elif isinstance(value, np.random.Generator):
            yield str(value.bit_generator.state)
        elif isinstance(value, np.random.RandomState):
            yield str(value.get_state(legacy=False))
        elif isinstance(value, dict | collections.UserDict):
            yield from (part for item in value.items() for part in self._item(*item))
        elif isinstance(value, set | frozenset):
            yield from sorted(map(repr, map(self.of, value)))
        elif isinstance(value, list | tuple | collections.deque):
            yield from map(self.of, value)
        elif isinstance(value, types.MethodType):
            yield from (value.__name__, self.of(value.__self__))
        if not isinstance(value, torch.Tensor) and type(value).__module__.partition(".")[0] not in ("threading", "_io"):
            for name, part in getattr(value, "__dict__", {}).items():
                if name not in _TUNERS:
                    yield from (name, self.of(part))
            for base in type(value).__mro__:
                for name in {*base.__dict__.get("__slots__", ())} - {"__weakref__", "__dict__"}:
                    yield from (name, self.of(getattr(value, name, "unset")))

    def _item(self, key: Any, value: Any) -> Iterator[Any]:
        # Numbers of hooks are counted in the process.
        yield "hook" if isinstance(key, int) and (callable(value) or value is True) else self.of(key)
        yield self.of(value)

    def _of_tensor(self, tensor: torch.Tensor) -> Iterator[Any]:
        yield from (str(tensor.dtype), str(tensor.layout), tensor.requires_grad, tensor.is_leaf)
        if isinstance(tensor, nn.UninitializedParameter | nn.parameter.UninitializedBuffer):
            return
        if tensor.is_nested:
            yield from map(self.of, tensor.detach().unbind())
            return
        yield tuple(tensor.shape)
        if tensor.is_meta:
            return
        data = tensor.detach()
        if data.layout is torch.strided:
            storage = data.untyped_storage().data_ptr()
            yield self._storages.setdefault(storage, len(self._storages)) if storage else None
            yield data.stride()
        else:
            data = data.to_dense()
        data = data.int_repr() if data.is_quantized else data
        yield (
            data.resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
            if data.numel()
            else b""
        )
        if tensor.is_leaf:
            yield self.of(tensor.grad)
        yield from (len(hooks or ()) for hooks in (tensor._backward_hooks, tensor._post_accumulate_grad_hooks))
        yield from (self.of(part) for part in tensor.__dict__.items())


def network() -> nn.Sequential:
    """A small network with batch statistics and dropout."""
    return nn.Sequential(nn.Linear(N_FEATURES, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 1))


def loss_of(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    """How far a model is from the sum of its inputs."""
    loss: torch.Tensor = (model(batch) - batch.sum(1, keepdim=True)).square().mean()
    return loss
