"""The optimizers of `torch.optim` and of the collection `pytorch_optimizer`, each in a training run of its own."""

from __future__ import annotations

import collections
import dataclasses
import inspect
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytorch_optimizer as collected
import torch
from torch import nn
from torch.nn import functional
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

Batch = tuple[torch.Tensor, torch.Tensor]
Style = Callable[["Run", Batch], Any]
"""One update of the weights; gives its loss."""


class Images(nn.Module):
    """A convolution with batch norm, matrices and dropout, from (n, 1, 4, 4) to (n, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten())
        self.head = nn.Sequential(nn.Linear(16, 8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.head(self.features(x))
        return y


class Plain(nn.Module):
    """Matrices and vectors only, from (n, 1, 4, 4) to (n, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.net(x.to(next(self.parameters()).dtype)).float()
        return y


class Words(nn.Module):
    """An embedding with sparse gradients, from (n, 1, 4, 4) to (n, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(12, 1, sparse=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.table((x.flatten(1).abs() * 4).long().clamp(max=11)).mean(1)
        return y


def by_loop(run: Run, batch: Batch) -> Any:
    """The usual way."""
    run.optimizer.zero_grad()
    loss = run.loss(batch)
    torch.autograd.backward(loss)
    run.optimizer.step()
    return loss


def by_closure(run: Run, batch: Batch) -> Any:
    """The optimizer calls forward and backward pass itself, as often as it likes."""
    losses: list[torch.Tensor] = []

    def closure() -> torch.Tensor:
        run.optimizer.zero_grad()
        losses.append(run.loss(batch))
        torch.autograd.backward(losses[-1])
        return losses[-1]

    with torch.enable_grad():
        run.optimizer.step(closure)  # type: ignore[arg-type]  # many want a tensor
    return losses[0]


def by_gradient_and_closure(run: Run, batch: Batch) -> Any:
    """The first gradient comes from the loop, those at other weights from the closure: for sharpness-aware ones."""

    def closure() -> torch.Tensor:
        run.optimizer.zero_grad()
        again = run.loss(batch)
        torch.autograd.backward(again)
        return again

    run.optimizer.zero_grad()
    loss = run.loss(batch)
    torch.autograd.backward(loss)
    run.optimizer.step(closure)  # type: ignore[arg-type]  # many want a tensor
    return loss


def with_graph(run: Run, batch: Batch) -> Any:
    """For second derivatives, which the optimizer takes from the graph of the gradients."""
    run.optimizer.zero_grad()
    loss = run.loss(batch)
    torch.autograd.backward(loss, create_graph=True)
    run.optimizer.step()
    run.optimizer.zero_grad()
    return loss.detach()


def fused(run: Run, batch: Batch) -> Any:
    """The update is made inside of the backward pass, at an LR that the loop passes."""
    loss = run.loss(batch)
    optimizer: Any = run.optimizer
    optimizer.fused_backward(loss, optimizer.param_groups[0]["lr"])
    return loss


def by_tasks(run: Run, batch: Batch) -> Any:
    """Makes a step with two losses whose gradients conflict."""
    x, y = batch
    losses = [run.loss((x, y)), run.loss((x, -y))]
    optimizer: Any = run.optimizer
    optimizer.pc_backward(losses)
    optimizer.step()
    return losses[0]


def by_set_closure(run: Run, batch: Batch) -> Any:
    """GSAM's own closure. The weights are perturbed by a share that follows the LR."""
    optimizer: Any = run.optimizer
    optimizer.set_closure(lambda output, target: functional.mse_loss(output, target) * run.factor, *batch)
    _, loss = optimizer.step()
    optimizer.update_rho_t()
    return loss


def with_scaled_loss(run: Run, batch: Batch) -> Any:
    """Half-precision weights, whose masters the optimizer keeps."""
    optimizer: Any = run.optimizer
    optimizer.zero_grad()
    loss = run.loss(batch)
    optimizer.backward(loss)
    optimizer.clip_main_grads(1.0)
    optimizer.step()
    return loss


def flagged(cls: Any) -> Callable[[nn.Module], Optimizer]:
    """Muon's kind: matrices in one group, the others in another."""

    def make(net: nn.Module) -> Optimizer:
        matrices, others = _split(net)
        optimizer: Optimizer = cls([{"params": matrices, "use_muon": True}, {"params": others, "use_muon": False}])
        return optimizer

    return make


def low_rank(cls: Any) -> Callable[[nn.Module], Optimizer]:
    """GaLore's kind: gradients of matrices are projected, to another space every third step."""

    def make(net: nn.Module) -> Optimizer:
        matrices, others = _split(net)
        projected = {"params": matrices, "rank": 2, "update_proj_gap": 3, "scale": 1.0, "projection_type": "std"}
        optimizer: Optimizer = cls([{"params": others}, projected])
        return optimizer

    return make


def _split(net: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    matrices = [p for p in net.parameters() if p.ndim == 2]
    return matrices, [p for p in net.parameters() if p.ndim != 2]


def gsam(net: nn.Module) -> Optimizer:
    base = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    scheduler = collected.ProportionScheduler(LambdaLR(base, lambda _: 1.0), 0.1, 0.0, 2.0, 1.0)
    return collected.GSAM(net.parameters(), base_optimizer=base, model=net, rho_scheduler=scheduler)


def schedule_free(net: nn.Module) -> Optimizer:
    optimizer = collected.ScheduleFreeWrapper(torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9))
    optimizer.train()  # type: ignore[no-untyped-call]
    return optimizer


def half(net: nn.Module) -> Optimizer:
    return collected.SafeFP16Optimizer(torch.optim.SGD(net.half().parameters(), lr=0.05, momentum=0.9))


def around(cls: Any, **options: Any) -> Callable[[nn.Module], Optimizer]:
    """A wrapper of an optimizer."""

    def make(net: nn.Module) -> Optimizer:
        optimizer: Optimizer = cls(torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9), **options)
        return optimizer

    return make


def over(name: str, **options: Any) -> Callable[[nn.Module], Optimizer]:
    """A wrapper that makes the optimizer inside of it."""
    cls = getattr(collected, name)

    def make(net: nn.Module) -> Optimizer:
        own = {"lr": 0.05, "momentum": 0.9, "base_optimizer": torch.optim.SGD, **options}
        first = [net] if "model" in inspect.signature(cls).parameters else []
        optimizer: Optimizer = cls(*first, net.parameters(), **own)
        return optimizer

    return make


def matrices(cls: Any) -> Callable[[nn.Module], Optimizer]:
    """An optimizer of matrices alone."""

    def make(net: nn.Module) -> Optimizer:
        optimizer: Optimizer = cls(_split(net)[0])
        return optimizer

    return make


@dataclasses.dataclass(frozen=True)
class Member:
    """How an optimizer is made, and the ways to drive it."""

    make: Callable[[nn.Module], Optimizer]
    styles: tuple[Style, ...] = (by_loop, by_closure)
    net: Callable[[], nn.Module] = Images
    inner: Callable[[Any], Any] = lambda optimizer: optimizer
    """What a tuner is given: the optimizer itself, where it has parameter groups."""


def _of(cls: type[Optimizer]) -> Member:
    """Made from parameters, or a model, and nothing else."""

    def make(net: nn.Module) -> Optimizer:
        whole = next(iter(inspect.signature(cls).parameters)) == "model"
        making: Any = cls
        optimizer: Optimizer = making(net if whole else net.parameters())
        return optimizer

    return Member(make)


def _with(cls: Any, **options: Any) -> Member:
    def make(net: nn.Module) -> Optimizer:
        optimizer: Optimizer = cls(net.parameters(), **options)
        return optimizer

    return Member(make)


def _all() -> dict[str, type[Optimizer]]:
    """Every class of optimizers, by its name; "torch " stands before PyTorch's own."""
    found: dict[str, type[Optimizer]] = {}
    for prefix, module in {"torch ": torch.optim, "": collected}.items():
        for cls in vars(module).values():
            if inspect.isclass(cls) and issubclass(cls, Optimizer) and cls is not Optimizer:
                own = cls.__module__.startswith("torch.") == bool(prefix)
                found |= {f"{prefix}{cls.__name__}": cls} if own else {}
    return found


CLASSES = _all()

_FLAGGED = ("AdaGO", "AdaMuon", "DistributedMuon", "Muon", "MuonClip", "NorMuon")
_PROJECTED = ("Alice", "Fira", "GaLore")
_SAM: dict[str, dict[str, Any]] = {"FriendlySAM": {}, "LookSAM": {"k": 2}, "SAM": {"adaptive": True}, "WSAM": {}}
_OTHERS: dict[str, Member] = {
    "torch LBFGS": dataclasses.replace(
        _with(torch.optim.LBFGS, lr=0.1, max_iter=2, history_size=3), styles=(by_closure,)
    ),
    "torch SparseAdam": Member(_with(torch.optim.SparseAdam).make, net=Words),
    "AdaFactor": _with(collected.AdaFactor, relative_step=False, scale_parameter=False),
    "AdaHessian": Member(_of(collected.AdaHessian).make, (with_graph,)),
    "AdaLOMO": Member(_of(collected.AdaLOMO).make, (fused,), Plain),
    "ApolloDQN": _with(collected.ApolloDQN, warmup_steps=1),
    "BSAM": Member(_with(collected.BSAM, num_data=64).make, (by_gradient_and_closure,)),
    "GSAM": Member(gsam, (by_set_closure,)),
    "LOMO": Member(_of(collected.LOMO).make, (fused,)),
    "Lookahead": Member(around(collected.Lookahead, k=3, pullback_momentum="pullback")),
    "Magma": Member(around(collected.Magma)),
    "OrthoGrad": Member(around(collected.OrthoGrad)),
    "PCGrad": Member(around(collected.PCGrad), (by_tasks,)),
    "Ranger21": _with(collected.Ranger21, num_iterations=50),
    "SafeFP16Optimizer": Member(half, (with_scaled_loss,), Plain, lambda safe: safe.optimizer),
    "ScheduleFreeWrapper": Member(schedule_free),
    "SOAP": _with(collected.SOAP, precondition_frequency=2),
    "SPlus": _with(collected.SPlus, inverse_steps=2),
    "SophiaH": Member(_with(collected.SophiaH, update_period=2).make, (with_graph,)),
    "SpectralSphere": Member(matrices(collected.SpectralSphere)),
    "TRAC": Member(around(collected.TRAC, s_prev=0.1)),
}
if hasattr(torch.optim, "Muon"):  # PyTorch has it since 2.9
    _OTHERS["torch Muon"] = Member(matrices(torch.optim.Muon))
MEMBERS: dict[str, Member] = {
    **{name: _of(cls) for name, cls in CLASSES.items()},
    **{f"{name}": Member(flagged(getattr(collected, name))) for name in _FLAGGED},
    **{f"{name}": Member(low_rank(getattr(collected, name))) for name in _PROJECTED},
    **{f"{name}": Member(over(name, **own), (by_gradient_and_closure,)) for name, own in _SAM.items()},
    **_OTHERS,
}


class Run:
    """A training run of an optimizer, at LRs that are given."""

    def __init__(self, member: Member, style: Style) -> None:
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)
        self.batches = [(x, x.sum((1, 2, 3))[:, None]) for x in torch.randn(7, 6, 1, 4, 4)]
        self.net = member.net()
        self.optimizer = member.make(self.net)
        self.tuned: Optimizer = member.inner(self.optimizer)
        self.style = style
        self.factor = 1.0
        """Of the loss: not a number in a run that diverges."""

    def loss(self, batch: Batch) -> torch.Tensor:
        x, y = batch
        return functional.mse_loss(self.net(x), y) * self.factor

    def update(self, batch: Batch) -> Any:
        return self.style(self, batch)

    def state(self) -> dict[str, bytes]:
        """All that steps change, by where it is, as bytes: NaN equals itself, and zero is not minus zero."""
        return _all_leaves(net=self.net, optimizer=self.optimizer, random=_random_state())

    def saved(self) -> dict[str, bytes]:
        """What goes into a checkpoint, likewise."""
        net, optimizer = self.net.state_dict(), self.optimizer.state_dict()
        return _all_leaves(net=net, optimizer=optimizer, random=_random_state())


def _random_state() -> list[Any]:
    return [torch.get_rng_state(), random.getstate(), str(np.random.get_state())]


def _all_leaves(**roots: Any) -> dict[str, bytes]:
    return {path: leaf for root, value in roots.items() for path, leaf in _leaves(root, value, set())}


def _leaves(path: str, value: Any, seen: set[int]) -> Iterator[tuple[str, bytes]]:
    """The plain values and tensors in an object; written apart from the code under test."""
    if isinstance(value, torch.Tensor):
        dense = value.detach().to_dense() if value.is_sparse else value.detach()
        raw = dense.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        yield path, f"{value.dtype} {tuple(value.shape)} ".encode() + raw
        if value.is_leaf and value.grad is not None:
            yield from _leaves(f"{path}.grad", value.grad, seen)
    elif isinstance(value, bool | int | float | str | None):
        yield path, repr(value).encode()
    elif isinstance(value, tuple) or id(value) not in seen:
        seen.add(id(value))
        yield from _inner_leaves(path, value, seen)


def _inner_leaves(path: str, value: Any, seen: set[int]) -> Iterator[tuple[str, bytes]]:
    if isinstance(value, dict):
        for i, (key, child) in enumerate(value.items()):
            yield from _leaves(f"{path}[{key!r}]" if isinstance(key, str) else f"{path}[#{i}]", child, seen)
    elif isinstance(value, list | tuple | collections.deque):
        for i, child in enumerate(value):
            yield from _leaves(f"{path}[{i}]", child, seen)
    elif isinstance(value, nn.Module | Optimizer) or type(value).__module__.startswith("pytorch_optimizer"):
        for name, child in vars(value).items():
            yield from _leaves(f"{path}.{name}", child, seen)
