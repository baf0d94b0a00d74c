"""Ranks that do not do alike, and the channel between them: every function is one rank's part, for `RankProcesses`."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import time
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from lrpilot import ConfigError
from lrpilot.distributed.ranks import Ranks
from lrpilot.run.runners import directive_runner, plan_runner
from lrpilot.tuner import Tuner
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Subset

from tests.support.training.distributed_training import BATCH, TOTAL_STEPS, Outcome, Training, endless


def change_plans_alone(
    server: str, who: int | None, what: str, in_search: bool, arguments: dict[str, Any] | None = None
) -> tuple[Outcome, list[str], int, float]:
    """A run in which one rank alone asks for a change of the plan (None: all do), in the first search or after it.

    With the changes by name, the steps at which they took effect, and the seconds that the asking took.
    """
    training, seconds = Training("ddp"), 0.0
    with training.tuner(server=server, **arguments or {}) as tuner, mock.patch.object(plan_runner, "PATIENCE_S", 0.3):
        asks = who in (None, dist.get_rank())
        for batch in tuner.batches(training.loader):
            tuner.step(training.update(batch))
            n_steps = tuner.search_steps if in_search else tuner.committed_step
            if asks and n_steps == 5 and tuner.searching == in_search:
                started, asks = time.monotonic(), False
                {"extend": lambda: tuner.extend(40), "replan": lambda: tuner.replan("other data"),
                 "anneal": lambda: tuner.anneal(60)}[what]()  # fmt: skip
                seconds = time.monotonic() - started
        replans = tuner.schedule.replans
        outcome = training.outcome(dataclasses.replace(tuner.schedule, job_id=""), tuner.job_id)
        return outcome, [each.kind.value for each in replans], tuner.total_steps or 0, seconds


def close_alone(server: str, who: int) -> str:
    """A rank alone closes its tuner in mid-run, and both go on training; what the other one is told."""
    training, told = Training("ddp"), ""
    batches = endless(training)
    with (
        training.tuner(server=server, total_steps=160, validate=None) as tuner,
        mock.patch.object(directive_runner, "CLOSING_PATIENCE_S", 0.3),
    ):
        for n_steps in range(1, 61):
            loss = training.update(next(batches))
            try:
                tuner.step(loss)
            except RuntimeError as error:
                told = told or str(error)
                tuner.close()
            if who == dist.get_rank() and n_steps == 25:
                tuner.close()
    return told


def train_uneven(server: str) -> str:
    """What is said to a loop that would end at different steps, each rank with its own data."""
    training = Training("ddp")
    own = itertools.islice(training.loader, 3 + dist.get_rank())
    with training.tuner(server=server) as tuner, training.model.join():  # type: ignore[operator]  # it is DDP
        try:
            for batch in own:
                tuner.step(training.update(batch))
        except ConfigError as error:
            return str(error)
    raise AssertionError("nothing was raised")


def train_on_loaders_of_other_lengths(server: str, by_epochs: bool) -> tuple[int, list[float]] | str:
    """Rank 1 has less data: the steps and LRs of the run, or what is said."""
    training = Training("ddp")
    samples = list(range(40 if dist.get_rank() else 72))
    loader = DataLoader(Subset(training.loader.dataset, samples), BATCH, shuffle=True)
    with training.tuner(server=server, validate=None) as tuner:
        try:
            for each in tuner.epochs(loader) if by_epochs else [tuner.batches(loader)]:
                for batch in each:
                    tuner.step(training.update(batch))
        except ConfigError as error:
            return str(error)
        return tuner.committed_step + tuner.search_steps, training.lrs


def tune_a_part(server: str) -> str:
    """What is said where DDP is over this rank alone, and the tuner would be over all."""
    groups = [dist.new_group([rank]) for rank in range(dist.get_world_size())]
    model = DistributedDataParallel(nn.Linear(8, 2), process_group=groups[dist.get_rank()])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    try:
        Tuner(model, optimizer, server=server, total_steps=TOTAL_STEPS)
    except ConfigError as error:
        told = str(error)
    with Tuner(
        model, optimizer, server=server, total_steps=TOTAL_STEPS, process_group=groups[dist.get_rank()]
    ) as tuner:
        assert tuner.rank == 0
    return told


def channel() -> Ranks:
    """A tuner's channel without a tuner."""
    ranks = Ranks.of(None, patience_s=10)
    assert ranks is not None
    return ranks


def maximum(values: list[list[float]]) -> list[float]:
    """What the ranks make of the values of each."""
    with contextlib.closing(channel()) as ranks:
        return ranks.maximum(values[dist.get_rank()])


def bring_together(n: int) -> tuple[list[float], list[float], list[list[float]], bytes]:
    """The mean, the maximum and all of so many values of each rank, which are its number times 0, 1, 2, ..."""
    with contextlib.closing(channel()) as ranks:
        own = [float(ranks.rank * i) for i in range(n)]
        told = ranks.broadcast(bytes(n) if ranks.rank == 0 else b"ignored")
        return ranks.mean(own), ranks.maximum(own), ranks.gather(own), told


def die_in_the_channel(victim: int, told: Path) -> None:
    """A rank dies while the others wait for it, and they write down what they are told."""
    with contextlib.closing(channel()) as ranks:
        ranks.mean([1.0])
        if ranks.rank == victim:
            os._exit(1)
        try:
            ranks.mean([1.0])
        except RuntimeError as error:
            (told / str(ranks.rank)).write_text(str(error))


def look_together(n_values: list[int]) -> list[list[float]]:
    """The means of first values, of which rank 0 has each number and rank 1 ten; then that all are still in step."""
    with contextlib.closing(channel()) as ranks:
        own = [float(i + ranks.rank) for i in range(100)]
        found = [ranks.mean_of_first(own[: n if ranks.rank == 0 else 10]) for n in n_values]
        return [*found, ranks.mean(own[:2])]


def come_for_different_things() -> list[str]:
    """What is raised where rank 1 comes for something else than the others, whatever it is; and what a mean is then."""
    told = []
    for others, own in itertools.permutations((_mean_of_one, _mean_of_many, _mean_of_first, _largest, _hear, _part), 2):
        with contextlib.closing(channel()) as ranks:
            try:
                (own if ranks.rank == 1 else others)(ranks)
            except RuntimeError as error:
                told.append(str(error))
            assert ranks.parted
            assert not ranks.lost
            assert ranks.mean([float(ranks.rank)]) == [float(ranks.rank)]
    return told


def _mean_of_one(ranks: Ranks) -> object:
    return ranks.mean([1.0])


def _mean_of_many(ranks: Ranks) -> object:
    return ranks.mean([1.0] * 500)


def _mean_of_first(ranks: Ranks) -> object:
    return ranks.mean_of_first([1.0])


def _largest(ranks: Ranks) -> object:
    return ranks.maximum([1.0])


def _hear(ranks: Ranks) -> object:
    return ranks.broadcast(b"a" * 500)


def _part(ranks: Ranks) -> object:
    ranks.part()
    raise RuntimeError("it has parted")
