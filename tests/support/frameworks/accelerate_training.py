"""A loop over what Accelerate has prepared, in two processes: every function is one rank's part."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import (
    DataLoaderConfiguration,
    FullyShardedDataParallelPlugin,
    GradientAccumulationPlugin,
)
from lrpilot import ConfigError
from lrpilot.integrations.accelerate import tuner as make_tuner
from lrpilot.transport.scripted import ScriptedTransport
from lrpilot.tuner import Tuner
from lrpilot.v1 import tuner_pb2 as pb
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from tests.support.frameworks.accelerate_state import set_kind, small_shards
from tests.support.frameworks.launched import as_launched
from tests.support.frameworks.rank_runs import AUTOLRS, RankRun, state_of, told_of
from tests.support.training.centred import Centred


class Training:
    """Small batches, an odd number an epoch, with accumulation, clipping and a scaler.

    `kind`: "ddp", "dispatched" (rank 0 alone reads the data), or "fsdp", in a state that Accelerate sets on GPUs only.
    """

    def __init__(
        self, kind: str, accumulation: int = 1, seed: int = 0, *, scaled: bool = True, gathers: bool = False
    ) -> None:
        as_launched()
        AcceleratorState._reset_state(reset_partial_state=True)
        torch.manual_seed(seed)
        self.kind = kind
        self.gathers = gathers
        self.accelerator = Accelerator(
            cpu=True,
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=accumulation, sync_with_dataloader=False),
            dataloader_config=DataLoaderConfiguration(dispatch_batches=kind == "dispatched"),
        )
        if kind == "fsdp":
            _pretend_to_shard(self.accelerator)
        layers: list[nn.Module] = [nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 2)]
        if kind != "fsdp":
            layers[1:1] = [nn.BatchNorm1d(16), Centred(16)]
        if scaled:
            self.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=3)
        model = nn.Sequential(*layers)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
        generator = torch.Generator().manual_seed(7)
        targets = torch.arange(56) % 2
        inputs = torch.randn(56, 8, generator=generator) + targets[:, None]
        loader = DataLoader(TensorDataset(inputs, targets), batch_size=4, shuffle=True)
        self.model, self.optimizer, self.loader = self.accelerator.prepare(model, optimizer, loader)
        self.losses: list[torch.Tensor] = []
        self.lrs: list[float] = []
        self.poisoned_at: tuple[int, int] | None = None
        """The rank and the step whose gradients overflow."""
        torch.manual_seed(100 * seed + dist.get_rank())

    def update(self, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor | None:
        """A micro-batch; the mean loss of the update that it completes."""
        inputs, targets = batch
        with self.accelerator.accumulate(self.model):
            loss = functional.cross_entropy(self.model(inputs), targets)
            poisoned = self.poisoned_at == (dist.get_rank(), len(self.lrs))
            self.accelerator.backward(loss * float("inf") if poisoned else loss)
            if self.accelerator.sync_gradients:
                self.accelerator.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()
        self.losses.append(loss.detach())
        if self.gathers:
            with torch.no_grad():
                seen, _ = self.accelerator.gather_for_metrics((self.model(inputs).argmax(-1), targets))
            assert len(seen) == dist.get_world_size() * len(targets)
        if not self.accelerator.sync_gradients:
            return None
        self.lrs.append(float(self.optimizer.param_groups[0]["lr"]))
        mean = torch.stack(self.losses).mean()
        self.losses.clear()
        return mean

    def tuner(self, **arguments: Any) -> Tuner:
        return make_tuner(self.accelerator, self.model, self.optimizer, validate=self.validate, **arguments)

    def validate(self) -> float:
        """The loss on all data, of which each rank has a part."""
        self.model.eval()
        inputs, targets = self.loader.dataset.tensors
        share = slice(dist.get_rank(), None, dist.get_world_size())
        with torch.no_grad():
            loss = functional.cross_entropy(self.model(inputs[share]), targets[share])
        return float(self.accelerator.reduce(loss, "mean"))

    def train(self, tuner: Tuner, save_at: int = -1, directory: Path | None = None) -> None:
        for batch in tuner.batches(self.loader):
            loss = self.update(batch)
            if loss is not None:
                tuner.step(loss)
                if len(self.lrs) == save_at:
                    self.accelerator.save_state(str(directory))

    def outcome(self, tuner: Tuner | None = None) -> RankRun:
        state = state_of(self.model, self.optimizer)
        if self.accelerator.scaler is not None:
            state["scale"] = torch.tensor(self.accelerator.scaler.get_scale())
        return RankRun(state=state, lrs=self.lrs, **told_of(tuner))


def _pretend_to_shard(accelerator: Accelerator) -> None:
    """Has Accelerate shard on the CPU, which PyTorch can and Accelerate does not ask it for."""
    set_kind("FSDP")
    accelerator.state.fsdp_plugin = small_shards()


def _endless(loader: Any) -> Iterator[Any]:
    for epoch in itertools.count():
        loader.set_epoch(epoch)
        yield from loader


# --- what `RankProcesses` run -----------------------------------------------------------------------------------------


def train_bare(kind: str, accumulation: int, n_steps: int, *, gathers: bool = False) -> RankRun:
    """Trains without a tuner; `gathers`: with what was predicted for each batch brought together."""
    training = Training(kind, accumulation, gathers=gathers)
    batches = _endless(training.loader)
    while len(training.lrs) < n_steps:
        training.update(next(batches))
    return training.outcome()


def gather_by_script(script: list[bytes], n_steps: int) -> tuple[RankRun, RankRun]:
    """Both without a tuner and with one, where the loop gathers what was predicted."""
    bare = train_bare("ddp", 2, n_steps, gathers=True)
    return bare, train_by_script("ddp", 2, script, gathers=True)[0]


def train_by_script(
    kind: str,
    accumulation: int,
    script: list[bytes],
    poisoned_at: tuple[int, int] | None = None,
    *,
    gathers: bool = False,
) -> tuple[RankRun, list[bytes]]:
    """Carries directives out; with the reports on them (none of ranks but 0). `gathers`: as for `train_bare`."""
    training = Training(kind, accumulation, gathers=gathers)
    training.poisoned_at = poisoned_at
    transport = ScriptedTransport([pb.Directive.FromString(each) for each in script])
    total_steps = sum(pb.Directive.FromString(each).n_steps for each in script)
    with training.tuner(transport=transport, total_steps=total_steps) as tuner:
        training.train(tuner)
        return training.outcome(tuner), [report.SerializeToString() for report in transport.reports]


def _keeps_scale(kind: str) -> bool:
    """Whether `load_state` leaves the scaler as it was saved: of shards it makes a step, which the scaler counts."""
    return kind != "fsdp"


def train_and_save(kind: str, server: str, directory: Path, save_at: int) -> RankRun:
    """A whole run, which leaves a state behind."""
    training = Training(kind, 2, scaled=_keeps_scale(kind))
    with training.tuner(server=server, total_steps=60, **AUTOLRS) as tuner:
        training.train(tuner, save_at, directory)
        return training.outcome(tuner)


def resume(kind: str, server: str, directory: Path) -> RankRun:
    """Goes on from the state, in a model of other weights."""
    training = Training(kind, 2, seed=9, scaled=_keeps_scale(kind))
    with training.tuner(server=server, total_steps=60, **AUTOLRS) as tuner:
        training.accelerator.load_state(str(directory))
        training.train(tuner)
        return training.outcome(tuner)


def refuse(kind: str | None, parallelism: dict[str, int] | None, even_batches: bool) -> str:
    """What is said to an accelerator whose processes share the training in another way."""
    training = Training("ddp")
    training.accelerator.even_batches = even_batches
    if kind is not None:
        set_kind(kind)
        training.accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(fsdp_version=1)
    training.accelerator.state.parallelism_config = None if parallelism is None else SimpleNamespace(**parallelism)
    try:
        training.tuner(transport=ScriptedTransport([]), total_steps=10)
    except ConfigError as error:
        return str(error)
    raise AssertionError("nothing was raised")
