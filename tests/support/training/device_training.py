"""Small training runs on any device, and what tuned ones committed: runs by hand must come to the same, bit for bit."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import lrpilot
import torch
from lrpilot.transport.scripted import ScriptedTransport
from lrpilot.v1 import tuner_pb2 as pb
from torch import nn
from torch.nn import functional
from torch.optim import Optimizer

from tests.support.training.scripted_directives import probe, training

LR = 1e-3
POOL = 32
"""Batches that a run has; it begins again behind the last one."""
WORDS, LENGTH, IMAGE = 64, 16, 8


class Images(nn.Module):
    """Batch norm and dropout; no pooling, whose gradients are not deterministic on CUDA."""

    def __init__(self, dropout: float = 0.2) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Dropout(dropout),
        )
        self.head = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.head(self.body(x).mean((2, 3)))
        return y

    @staticmethod
    def batch(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        y = torch.randint(10, (8,), generator=generator, device="cpu")
        x = torch.randn(8, 3, IMAGE, IMAGE, generator=generator, device="cpu")
        return x + y[:, None, None, None] / 10, y


class Block(nn.Module):
    """Attention with its own dropout, as language models have it."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, length, width = x.shape
        parts = self.qkv(self.norm1(x)).view(n, length, 3, 2, width // 2).permute(2, 0, 3, 1, 4)
        query, key, value = parts.unbind(0)
        dropout = self.dropout if self.training else 0.0
        y = functional.scaled_dot_product_attention(query, key, value, is_causal=True, dropout_p=dropout)
        x = x + self.out(y.transpose(1, 2).reshape(n, length, width))
        z: torch.Tensor = x + self.mlp(self.norm2(x))
        return z


class Language(nn.Module):
    """A small language model."""

    def __init__(self, dropout: float = 0.1, width: int = 32, depth: int = 2) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, width)
        self.position = nn.Parameter(torch.zeros(LENGTH, width))
        self.blocks = nn.Sequential(*(Block(width, dropout) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, WORDS, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.head(self.norm(self.blocks(self.embedding(x) + self.position)))
        return y.flatten(0, 1)

    @staticmethod
    def batch(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        words = torch.randint(WORDS, (4, LENGTH + 1), generator=generator, device="cpu")
        return words[:, :-1].contiguous(), words[:, 1:].flatten()


NETS: dict[str, Any] = {"images": Images, "language": Language}


class Lion(Optimizer):
    """A user's own optimizer: plain loops, state made when it is first needed, a Python number in it."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # it gives no loss
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state["momentum"], state["calls"] = torch.zeros_like(p), 0
                state["calls"] += 1
                p.add_(torch.sign(state["momentum"] * 0.9 + p.grad * 0.1), alpha=-float(group["lr"]))
                state["momentum"].mul_(0.99).add_(p.grad, alpha=0.01)


def _groups(parameters: Any) -> list[dict[str, Any]]:
    parameters = list(parameters)
    return [{"params": parameters[:2], "lr": LR}, {"params": parameters[2:], "lr": LR / 3}]


def _on_gpu(parameters: Sequence[nn.Parameter]) -> bool:
    return parameters[0].device.type != "cpu"


def _tensor_lr(parameters: Sequence[nn.Parameter]) -> torch.Tensor:
    return torch.tensor(LR, device=parameters[0].device)


def _muon_and_adamw(parameters: Sequence[nn.Parameter]) -> list[Optimizer]:
    matrices = [p for p in parameters if p.ndim == 2]
    others = [p for p in parameters if p.ndim != 2]
    return [torch.optim.Muon(matrices, lr=LR), torch.optim.AdamW(others, lr=LR / 2)]


OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], Any]] = {
    "sgd with momentum": lambda p: torch.optim.SGD(_groups(p), lr=LR, momentum=0.9, weight_decay=1e-3),
    "adamw": lambda p: torch.optim.AdamW(_groups(p), lr=LR),
    "adamw, plain loops": lambda p: torch.optim.AdamW(p, lr=LR, foreach=False),
    "adamw, foreach": lambda p: torch.optim.AdamW(p, lr=LR, foreach=True),
    "adamw, fused": lambda p: torch.optim.AdamW(_groups(p), lr=LR, fused=True),
    "adamw, capturable": lambda p: torch.optim.AdamW(p, lr=LR, capturable=_on_gpu(p)),
    "adamw, capturable, tensor lr": lambda p: torch.optim.AdamW(p, lr=_tensor_lr(p), capturable=_on_gpu(p)),
    "adamw, fused, tensor lr": lambda p: torch.optim.AdamW(p, lr=_tensor_lr(p), fused=True),
    "adam with amsgrad": lambda p: torch.optim.Adam(p, lr=LR, amsgrad=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=LR, momentum=0.5, centered=True),
    "sgd, fused": lambda p: torch.optim.SGD(p, lr=LR, momentum=0.9, fused=True),
    "lion": lambda p: Lion(p, lr=LR / 10),
}
if hasattr(torch.optim, "Muon"):  # PyTorch has it since 2.9
    OPTIMIZERS["muon and adamw"] = _muon_and_adamw


class DeviceRun:
    """A training run whose batches are known by their number. Two that are made alike are, bit for bit."""

    def __init__(self, device: torch.device, net: str = "images", optimizer: str = "adamw", **options: Any) -> None:
        """Makes a run.

        Options: `dropout`, `autocast` (a type), `scaler` (whether there is one), `compiled` (a backend for the model),
        `compiler_mode` (of inductor), `compiled_step` (a backend for the optimizers' step), `wrap` (of the model).
        """
        torch.manual_seed(3)
        self.device = device
        kwargs = {"dropout": options["dropout"]} if "dropout" in options else {}
        self.model: nn.Module = options.get("wrap", lambda model: model)(NETS[net](**kwargs).to(device))
        made = OPTIMIZERS[optimizer](list(self.model.parameters()))
        self.optimizers: list[Optimizer] = made if isinstance(made, list) else [made]
        generator = torch.Generator(device="cpu").manual_seed(5)
        self.pool = [tuple(t.to(device) for t in NETS[net].batch(generator)) for _ in range(POOL)]
        self.autocast: torch.dtype | None = options.get("autocast")
        self.scaler = (
            torch.amp.GradScaler(device.type, init_scale=2.0**8, growth_interval=6) if options.get("scaler") else None
        )
        self.overflows: Callable[[int], bool] = lambda number: False
        compiler, step_compiler = options.get("compiled"), options.get("compiled_step")
        mode = options.get("compiler_mode")
        self.forward: Any = torch.compile(self.model, backend=compiler, mode=mode) if compiler else self.model
        self._step = torch.compile(self._plain_step, backend=step_compiler) if step_compiler else self._plain_step

    def _plain_step(self) -> None:
        for optimizer in self.optimizers:
            optimizer.step()

    def step(self, number: int) -> torch.Tensor:
        """One update, with a batch; gives its loss."""
        x, y = self.pool[number % POOL]
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        with torch.autocast(self.device.type, dtype=self.autocast, enabled=self.autocast is not None):
            loss: torch.Tensor = functional.cross_entropy(self.forward(x).float(), y)
        if self.scaler is None:
            torch.autograd.backward(loss)
            self._step()
            return loss
        torch.autograd.backward(self.scaler.scale(loss))
        if self.overflows(number):
            gradient = next(p.grad for p in self.model.parameters() if p.grad is not None)
            gradient.view(-1)[0] = math.inf
        for optimizer in self.optimizers:
            self.scaler.step(optimizer)
        self.scaler.update()
        return loss

    @property
    def groups(self) -> list[dict[str, Any]]:
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    def lrs(self) -> list[float]:
        return [float(group["lr"]) for group in self.groups]

    def set_lrs(self, lrs: Sequence[float]) -> None:
        for group, lr in zip(self.groups, lrs, strict=True):
            group["lr"] = group["lr"].fill_(lr) if isinstance(group["lr"], torch.Tensor) else lr

    @property
    def registered(self) -> dict[str, Any]:
        return {} if self.scaler is None else {"scaler": self.scaler}

    def owned(self) -> dict[str, torch.Tensor]:
        """The tensors of model, optimizers and LRs, by name."""
        owned = {f"model.{name}": t for name, t in [*self.model.named_parameters(), *self.model.named_buffers()]}
        for number, optimizer in enumerate(self.optimizers):
            for place, p in enumerate(p for group in optimizer.param_groups for p in group["params"]):
                state = optimizer.state.get(p, {})
                owned |= {f"optimizer.{number}.{place}.{name}": torch.as_tensor(v) for name, v in state.items()}
        return owned | {f"lr.{n}": g["lr"] for n, g in enumerate(self.groups) if isinstance(g["lr"], torch.Tensor)}

    def bits(self) -> dict[str, bytes]:
        """All that training moves, LRs apart, and the random state."""
        tensors = {name: local(t) for name, t in self.owned().items() if not name.startswith("lr.")}
        if self.scaler is not None:
            growth: Any = self.scaler
            tensors["scaler"] = torch.tensor([growth.get_scale(), float(growth._get_growth_tracker())])
        return {name: as_bytes(tensor) for name, tensor in tensors.items()} | {"random": random_state(self.device)}

    def addresses(self) -> dict[str, int]:
        """Where the tensors lie; numbers in an optimizer's state have no address."""
        return {name: local(t).data_ptr() for name, t in self.owned().items() if not name.endswith(".calls")}


def local(tensor: torch.Tensor) -> torch.Tensor:
    """The shard of a distributed tensor, or the tensor."""
    shard: torch.Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return shard


def as_bytes(tensor: torch.Tensor) -> bytes:
    raw: bytes = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return raw


def random_state(device: torch.device) -> bytes:
    """The state of the CPU's generator and of the device's."""
    states = [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]
    return b"".join(map(as_bytes, states))


def script(wild: float = 1e8) -> list[pb.Directive]:
    """A search at the start, with a probe that diverges; a decay; a search in the middle; committed steps."""
    down = pb.Profile(shape="linear", start_lr=LR * 3, end_lr=LR, length=8)
    decay = training(LR, 8, restore=True)
    decay.profile.CopyFrom(down)
    return [
        probe(LR, 4, first=True),
        probe(LR * wild, 9),
        decay,
        probe(LR * 2, 4, first=True),
        probe(LR * wild, 16),
        training(LR, 5, restore=True),
        training(LR / 2, 3),
    ]


class Numbers:
    """A loader of batches' numbers, without an end."""

    def __iter__(self) -> Iterator[int]:
        return iter(range(10**9))


@dataclasses.dataclass
class Committed:
    """What a tuned run committed: batch, LRs and the random state after it, also where a scaler skipped the update."""

    steps: list[tuple[int, list[float], bytes]] = dataclasses.field(default_factory=list)
    n_calls: int = 0
    n_counted: int = 0
    outcomes: list[pb.Outcome.ValueType] = dataclasses.field(default_factory=list)
    losses: list[torch.Tensor] = dataclasses.field(default_factory=list)
    """As the run had them, one for each of `steps`; they are on the device."""
    reported: list[float] = dataclasses.field(default_factory=list)
    """As the tuner had them, one for each committed step."""


def tuned(run: Any, directives: Sequence[pb.Directive], **arguments: Any) -> Committed:
    """Trains with a tuner that follows a script, and writes down what it committed."""
    log = Committed()
    transport = ScriptedTransport(directives)
    torch.manual_seed(11)
    with lrpilot.Tuner(
        run.model,
        run.optimizers,
        register=run.registered,
        transport=transport,
        total_steps=sum(each.n_steps for each in directives),
        **arguments,
    ) as tuner:
        for number in tuner.batches(Numbers()):
            lrs, searching = run.lrs(), tuner.searching
            loss = run.step(number)
            log.n_calls += 1
            if not searching:
                log.steps.append((number, lrs, random_state(run.device)))
                log.losses.append(loss.detach().clone())
            tuner.step(loss)
    log.n_counted = tuner.committed_step + tuner.search_steps
    log.outcomes = [report.outcome for report in transport.reports]
    log.reported = list(tuner.schedule.losses)
    return log


def replayed(run: Any, log: Committed) -> list[int]:
    """Trains by hand what was committed; the steps after which the random state is another."""
    torch.manual_seed(11)
    wrong = []
    for place, (number, lrs, state) in enumerate(log.steps):
        run.set_lrs(lrs)
        run.step(number)
        if random_state(run.device) != state:
            wrong.append(place)
    return wrong


def assert_no_trace(make: Callable[[], Any], directives: Sequence[pb.Directive] | None = None, **arguments: Any) -> Any:
    """Fails unless a tuned run comes out as one by hand; gives the tuned run, and what it committed."""
    run = make()
    log = tuned(run, script() if directives is None else directives, **arguments)
    found = run.bits()
    again = make()
    assert log.steps
    assert replayed(again, log) == []
    expected = again.bits()
    assert [name for name in found | expected if found.get(name) != expected.get(name)] == []
    return run, log
