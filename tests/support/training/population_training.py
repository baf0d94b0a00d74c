"""Ranks that try probes at the same time, for `RankProcesses` to run: every function is one rank's part."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lrpilot import ConfigError
from lrpilot.transport.scripted import ScriptedTransport
from lrpilot.tuner import Tuner
from lrpilot.v1 import tuner_pb2 as pb
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler

from tests.support.training.distributed_training import BATCH, Outcome, Training
from tests.support.training.scripted_directives import probe


def together(lrs: Sequence[float], n_steps: int, first: bool = False, **fields: Any) -> list[pb.Directive]:
    """The directives of a round: the first one tells the others."""
    told = [probe(lr, n_steps, apart=True) for lr in lrs[1:]]
    begins = probe(lrs[0], n_steps, first, apart=True, alongside=told, **fields)
    return [begins, *(probe(lr, n_steps, apart=True, taken_along=True) for lr in lrs[1:])]


def sent(script: Sequence[pb.Directive]) -> list[bytes]:
    """Directives on their way to other processes."""
    return [directive.SerializeToString() for directive in script]


class LonelyTraining(Training):
    """The run of rank 0, with its data and its random numbers, on this rank alone."""

    def __init__(self, size: int) -> None:
        """Is one of `size` ranks, as far as its data go."""
        self.group = dist.new_group([dist.get_rank()], use_local_synchronization=True)
        super().__init__("ddp")
        self.sampler = DistributedSampler(self.loader.dataset, size, 0, seed=5)
        self.loader = DataLoader(self.loader.dataset, BATCH, sampler=self.sampler)
        torch.manual_seed(0)

    def _distributed(self, model: nn.Sequential) -> nn.Module:
        model.insert(1, nn.BatchNorm1d(16))
        return DistributedDataParallel(model, process_group=self.group)


def alone(script: list[bytes], size: int, poison: int | None) -> list[bytes]:
    """The reports of rank 0 where it carries out directives without the others; `poison`: the step without a loss."""
    if dist.get_rank() > 0:
        return []
    training = LonelyTraining(size)
    transport = ScriptedTransport([pb.Directive.FromString(each) for each in script])
    with training.tuner(transport=transport, process_group=training.group) as tuner:
        for n_steps, batch in enumerate(tuner.batches(training.loader), 1):
            tuner.step(training.update(batch) * (float("nan") if n_steps == poison else 1.0))
    return [report.SerializeToString() for report in transport.reports]


def search_alone(server: str, size: int, arguments: dict[str, Any]) -> tuple[str, int] | None:
    """The search of rank 0 without the others: the job's id, and its search steps."""
    if dist.get_rank() > 0:
        return None
    training = LonelyTraining(size)
    with training.tuner(server=server, process_group=training.group, **arguments) as tuner:
        training.run(tuner)
    return tuner.job_id, tuner.search_steps


def train_past_a_skip(script: list[bytes], at: int) -> Outcome:
    """Rank 1 leaves out `tuner.step` once, and the step with it."""
    training = Training("ddp")
    directives = [pb.Directive.FromString(each) for each in script]
    total_steps = sum(each.n_steps for each in directives if not each.taken_along)
    n_seen = 0
    with training.tuner(transport=ScriptedTransport(directives), total_steps=total_steps, population=True) as tuner:
        for batch in tuner.batches(training.loader):
            n_seen += 1
            if (n_seen, dist.get_rank()) != (at, 1):
                tuner.step(training.update(batch))
        return training.outcome(tuner.schedule)


def replan(server: str, arguments: dict[str, Any], n_steps: int) -> Outcome:
    """A run whose plan changes after so many steps, by which it is past its search."""
    training = Training("ddp")

    def change() -> None:
        if len(training.lrs) == n_steps:
            assert not tuner.searching
            tuner.replan("other data")

    with training.tuner(server=server, **arguments) as tuner:
        return training.run(tuner, change)


def close_in_a_round(script: list[bytes], n_steps: int, more: int) -> Outcome:
    """The tuner is closed after so many steps, and some more are made without it, on the batches that come next."""
    training = Training("ddp")
    transport = ScriptedTransport([pb.Directive.FromString(each) for each in script])
    with training.tuner(transport=transport, population=True) as tuner:
        for batch in tuner.batches(training.loader):
            tuner.step(training.update(batch))
            if len(training.lrs) == n_steps:
                break
    for number, batch in enumerate(training.loader):
        if number < more:
            training.update(batch)
    return training.outcome(tuner.schedule)


def refused(kind: str) -> str:
    """What is said to a run that can't be a population."""
    training = Training("fsdp" if kind == "fsdp" else "ddp")
    model: nn.Module = training.model
    optimizer: torch.optim.Optimizer = training.optimizer
    register: dict[str, Any] = {}
    if kind == "inside":
        assert isinstance(model, DistributedDataParallel)
        model = model.module
    elif kind == "outside":
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))]})
    elif kind == "static graph":
        model = DistributedDataParallel(nn.Linear(2, 2), static_graph=True)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    elif kind == "batch norm":
        model.register_module("extra", nn.SyncBatchNorm(2))
    elif kind == "optimizer":
        from torch.distributed.optim import ZeroRedundancyOptimizer  # warns where it is imported

        optimizer = ZeroRedundancyOptimizer(model.parameters(), torch.optim.SGD, lr=0.1)
    elif kind == "scaler":
        register = {"scaler": torch.amp.GradScaler("cpu")}
    try:
        Tuner(model, optimizer, total_steps=500, lr_bounds=(1e-3, 1.0), population=True, register=register)
    except ConfigError as error:
        return str(error)
    raise AssertionError("nothing was refused")


def own_batches(script: list[bytes]) -> str:
    """A loop that draws its batches by itself: what is said to that, and after how many steps."""
    training = Training("ddp")
    transport = ScriptedTransport([pb.Directive.FromString(each) for each in script])
    with contextlib.closing(training.tuner(transport=transport, population=True)) as tuner:
        try:
            for batch in training.loader:
                tuner.step(training.update(batch))
        except ConfigError as error:
            return f"{len(training.lrs)}: {error}"
    raise AssertionError("nothing was refused")


def failing_loader(script: list[bytes], call: int) -> tuple[str, str]:
    """Rank 0 can't draw a batch: what each rank sees raised."""
    training = Training("ddp")
    transport = ScriptedTransport([pb.Directive.FromString(each) for each in script])
    drawn = 0

    class Failing:
        def __iter__(self) -> Any:
            nonlocal drawn
            for batch in training.loader:
                drawn += 1
                if drawn == call:
                    raise OSError("the disk is gone")
                yield batch

    try:
        with training.tuner(transport=transport, population=True) as tuner:
            for batch in tuner.batches(Failing()):
                tuner.step(training.update(batch))
    except Exception as error:
        return type(error).__name__, str(error)
    raise AssertionError("nothing was raised")


def train_and_save_rank_0s_weights(server: str, directory: Path, n_steps: int, arguments: dict[str, Any]) -> None:
    """Leaves a checkpoint after so many steps, as many programs do: model and optimizer are those of rank 0."""
    training = Training("ddp")
    tuner = training.tuner(server=server, **arguments)
    for batch in tuner.batches(training.loader):
        tuner.step(training.update(batch))
        if len(training.lrs) == n_steps:
            shared = [training.model.state_dict(), training.optimizer.state_dict()]
            dist.broadcast_object_list(shared)
            state = {"model": shared[0], "optimizer": shared[1], "tuner": tuner.state_dict()}
            torch.save(state, directory / f"{dist.get_rank()}.pt")
        if len(training.lrs) == n_steps + 3:
            break
    dist.barrier()
