"""Lightning's Trainer with a tuner in two processes: every function is one rank's part."""

from __future__ import annotations

import dataclasses
import logging
import warnings
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from lrpilot import ConfigError
from lrpilot.integrations.lightning import TunerCallback
from lrpilot.run.runners import plan_runner
from lrpilot.transport.scripted import ScriptedTransport
from lrpilot.v1 import tuner_pb2 as pb
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from tests.support.frameworks.launched import as_launched, kill
from tests.support.frameworks.rank_runs import AUTOLRS, RankRun, state_of, told_of
from tests.support.training.centred import Centred

BATCH = 4


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Outcome(RankRun):
    """A rank's run, and what its Trainer tells of it."""

    metrics: dict[str, float]
    n_steps: int


class Net(LightningModule):  # type: ignore[misc]  # Lightning's types are not read
    """Random numbers, and buffers that move unless it is to be sharded."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        norm = [nn.BatchNorm1d(16), Centred(16)] if kind == "ddp" else []
        self.net = nn.Sequential(nn.Linear(8, 16), *norm, nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 2))
        self.kind = kind

    def configure_model(self) -> None:
        if self.kind == "fsdp" and not isinstance(next(self.net.parameters()), DTensor):
            mesh = self.device_mesh["data_parallel"]
            fully_shard(self.net[0], mesh=mesh)
            fully_shard(self.net, mesh=mesh)

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> torch.Tensor:
        inputs, targets = batch
        loss = functional.cross_entropy(self.net(inputs), targets)
        self.log("loss", loss, on_step=False, on_epoch=True, sync_dist=True, batch_size=len(targets))
        return loss

    def validation_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> None:
        inputs, targets = batch
        loss = functional.cross_entropy(self.net(inputs), targets)
        self.log("val_loss", loss, sync_dist=True, batch_size=len(targets))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=0.02)


class Watcher(Callback):  # type: ignore[misc]  # Lightning's types are not read
    """Notes the LR of every step of the Trainer's own loop."""

    def __init__(self) -> None:
        self.lrs: list[float] = []

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: Any, optimizer: Any) -> None:
        self.lrs.append(float(optimizer.param_groups[0]["lr"]))


def _loader() -> DataLoader[Any]:
    """56 samples: 7 batches an epoch on each rank, so that its last update of two is of one."""
    targets = torch.arange(56) % 2
    inputs = torch.randn(56, 8, generator=torch.Generator().manual_seed(7)) + targets[:, None]
    return DataLoader(TensorDataset(inputs, targets), batch_size=BATCH, shuffle=True)


def _trainer(kind: str, path: Path, callbacks: list[Callback], **others: Any) -> Trainer:
    as_launched()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning|torch")
    size = dist.get_world_size()
    strategy: Strategy = {
        "ddp": lambda: DDPStrategy(),
        "fsdp": lambda: ModelParallelStrategy(data_parallel_size=size, tensor_parallel_size=1),
        "tensors": lambda: ModelParallelStrategy(data_parallel_size=1, tensor_parallel_size=size),
    }[kind]()
    defaults: dict[str, Any] = {
        "default_root_dir": path,
        "accelerator": "cpu",
        "devices": size,
        "accumulate_grad_batches": 2,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "limit_val_batches": 3,
    }
    # Clipping is by value where Lightning can't have the norm of shards.
    clipping = {"gradient_clip_val": 1.0, "gradient_clip_algorithm": "norm"} if kind == "ddp" else {}
    return Trainer(strategy=strategy, callbacks=callbacks, **(defaults | clipping | others))


def _fit(kind: str, trainer: Trainer, checkpoint: Path | None = None) -> Net:
    torch.manual_seed(3)
    net = Net(kind)
    torch.manual_seed(100 + dist.get_rank())
    trainer.fit(net, _loader(), _loader(), ckpt_path=checkpoint, weights_only=checkpoint is not None or None)
    return net


def _outcome(net: Net, trainer: Trainer, watcher: Watcher, callback: TunerCallback | None = None) -> Outcome:
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    told = told_of(None if callback is None else callback.tuner)
    state = state_of(net, trainer.optimizers[0])
    return Outcome(state=state, lrs=watcher.lrs, metrics=metrics, n_steps=trainer.global_step, **told)


# --- what `RankProcesses` run -----------------------------------------------------------------------------------------


def train_bare(kind: str, path: Path, n_steps: int, *, averages: bool = False) -> Outcome:
    """Trains without a tuner; `averages`: with Lightning's average of the weights, which it ends with."""
    watcher = Watcher()
    trainer = _trainer(kind, path, [watcher, *_averages(averages)], max_steps=n_steps)
    return _outcome(_fit(kind, trainer), trainer, watcher)


def _averages(wanted: bool) -> list[Callback]:
    return [EMAWeightAveraging(decay=0.9)] if wanted else []


def train_by_script(
    kind: str, path: Path, script: list[bytes], *, averages: bool = False
) -> tuple[Outcome, list[bytes]]:
    """Carries directives out; with the reports on them (none of ranks but 0). `averages`: as for `train_bare`."""
    directives = [pb.Directive.FromString(each) for each in script]
    transport = ScriptedTransport(directives)
    callback, watcher = TunerCallback(transport=transport, validate="val_loss"), Watcher()
    callbacks = [callback, watcher, *_averages(averages)]
    trainer = _trainer(kind, path, callbacks, max_steps=sum(each.n_steps for each in directives))
    net = _fit(kind, trainer)
    return _outcome(net, trainer, watcher, callback), [report.SerializeToString() for report in transport.reports]


def average_by_script(path: Path, script: list[bytes], n_steps: int) -> tuple[Outcome, Outcome]:
    """Both without a tuner and with one, where Lightning averages the weights."""
    return train_bare("ddp", path, n_steps, averages=True), train_by_script("ddp", path, script, averages=True)[0]


def train_and_save(kind: str, server: str, path: Path, every: int | None = None) -> Outcome:
    """A whole run, which leaves a checkpoint of every epoch behind, or one after so many steps each."""
    callback, watcher = TunerCallback(server=server, **AUTOLRS), Watcher()
    filename = "{epoch}" if every is None else "{step}"
    saves = ModelCheckpoint(path, filename=filename, save_top_k=-1, every_n_train_steps=every)
    trainer = _trainer(kind, path, [callback, watcher, saves], max_epochs=15, enable_checkpointing=True)
    return _outcome(_fit(kind, trainer), trainer, watcher, callback)


class Killer(Callback):  # type: ignore[misc]  # Lightning's types are not read
    """Ends a process after a committed step."""

    def __init__(self, pid: int, n_steps: int) -> None:
        self._pid, self._n_steps = pid, n_steps

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self._n_steps:
            kill(self._pid)


def train_past_a_server(server: str, path: Path, pid: int) -> tuple[Outcome, int]:
    """The server dies in the first stage, for good; with the number of search steps."""
    callback, watcher = TunerCallback(server=server, timeout_s=0.5, **AUTOLRS), Watcher()
    trainer = _trainer("ddp", path, [callback, watcher, Killer(pid, 5)], max_steps=60)
    net = _fit("ddp", trainer)
    return _outcome(net, trainer, watcher, callback), callback.tuner.search_steps


def resume(kind: str, server: str, path: Path, checkpoint: str) -> Outcome:
    """Goes on from a checkpoint."""
    callback, watcher = TunerCallback(server=server, **AUTOLRS), Watcher()
    trainer = _trainer(kind, path, [callback, watcher], max_epochs=15)
    return _outcome(_fit(kind, trainer, path / f"{checkpoint}.ckpt"), trainer, watcher, callback)


class Extender(Callback):  # type: ignore[misc]  # Lightning's types are not read
    """Asks for more steps on rank 0 alone."""

    def __init__(self, callback: TunerCallback) -> None:
        self._callback, self._asked = callback, False

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.is_global_zero and trainer.global_step == 5 and not self._asked:
            self._asked = True
            self._callback.tuner.extend(20)


def extend_on_rank_0(server: str, path: Path) -> tuple[Outcome, int]:
    """One rank changes the plan, which the others hear of; with the steps of the plan."""
    callback, watcher = TunerCallback(server=server, lr_bounds=(1e-4, 1.0)), Watcher()
    trainer = _trainer("ddp", path, [callback, watcher, Extender(callback)], max_epochs=20)
    with mock.patch.object(plan_runner, "PATIENCE_S", 0.3):
        net = _fit("ddp", trainer)
    return _outcome(net, trainer, watcher, callback), callback.tuner.total_steps or 0


def fit_in_processes_of_its_own(strategy: str, server: str, path: Path) -> tuple[bool, str]:
    """Not on a rank: has Lightning start the processes itself; whether they trained, and what is said of the tuner."""
    callback = TunerCallback(server=server, validate="val_loss", **AUTOLRS)
    warnings.filterwarnings("ignore", module="lightning|torch")
    trainer = Trainer(
        strategy=strategy,
        accelerator="cpu",
        devices=2,
        max_epochs=15,
        callbacks=[callback],
        default_root_dir=path,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    net = Net("ddp")
    before = [parameter.detach().clone() for parameter in net.parameters()]
    trainer.fit(net, _loader(), _loader())
    moved = not any(map(torch.equal, before, net.parameters()))
    try:
        return moved, str(callback.tuner)
    except RuntimeError as error:
        return moved, str(error)


def refuse(kind: str, path: Path) -> str:
    """What is said to a strategy."""
    trainer = _trainer(kind, path, [TunerCallback(transport=ScriptedTransport([]))], max_steps=10)
    try:
        _fit(kind, trainer)
    except ConfigError as error:
        return str(error)
    raise AssertionError("nothing was raised")
