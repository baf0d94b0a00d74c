"""Federated averaging with FedHyper: three clients in three processes, each with digits of its own.

    python examples/fedhyper.py

Each client is a job of its own on one server. The average travels by `torch.distributed`; any other transport does as
well. Plain averaging is the same with a factor that stays 1.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from typing import Any

import torch
import torch.distributed as dist
from lrpilot.federated import Client
from lrpilot.transport.embedded_server import EmbeddedServer
from sklearn.datasets import load_digits
from torch import nn
from torch.multiprocessing.spawn import spawn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

N_CLIENTS, LOCAL_STEPS, ROUNDS = 3, 10, 25
RUNS: dict[str, dict[str, Any]] = {
    "plain averaging": {"variant": "g", "lowest": 1.0, "highest": 1.0},
    "FedHyper-GM": {"variant": "gm"},
    "FedHyper-SL": {"variant": "sl"},
}


def load(rank: int) -> tuple[TensorDataset, torch.Tensor, torch.Tensor]:
    """The digits of a client, nine in ten of which are of three or four kinds, and those that all are tested on."""
    digits = load_digits()
    inputs, targets = torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)
    generator = torch.Generator().manual_seed(0)
    strays = torch.rand(len(targets), generator=generator) < 0.1
    owner = torch.where(strays, torch.randint(N_CLIENTS, targets.shape, generator=generator), targets % N_CLIENTS)
    own = owner[:1400] == rank
    return TensorDataset(inputs[:1400][own], targets[:1400][own]), inputs[1400:], targets[1400:]


def mean_over_clients(updates: list[torch.Tensor]) -> list[torch.Tensor]:
    """What the clients agree on: this is all that leaves a client."""
    for update in updates:
        dist.all_reduce(update)
        update /= N_CLIENTS
    return updates


def train(rank: int, name: str, options: dict[str, Any], server: str) -> None:
    """One client's whole run."""
    train_set, inputs, targets = load(rank)
    torch.manual_seed(0)  # all clients begin with the same weights ...
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.03)
    torch.manual_seed(rank)  # ... and draw other batches
    loader = DataLoader(train_set, batch_size=32, shuffle=True, drop_last=True)
    with Client(
        model,
        optimizer,
        average=mean_over_clients,
        local_steps=LOCAL_STEPS,
        rounds=ROUNDS,
        policy_options=options,
        server=server,
        name=f"digits, {name}, client {rank}",
        family="digits, federated",
    ) as client:
        told = 0
        for x, y in client.batches(loader):
            loss = functional.cross_entropy(model(x), y)
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
            optimizer.step()
            optimizer.zero_grad()
            client.step(loss)
            if rank == 0 and client.round > told:  # the model has what the clients have agreed on
                told = client.round
                accuracy = float((model(inputs).argmax(1) == targets).float().mean())
                print(f"{name:15} round {told:2}: LR {client.lr:.3f}, factor {client.factor:.2f}, {accuracy:.1%} right")


def run(rank: int, port: int, server: str) -> None:
    """A client's process."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    dist.init_process_group("gloo", rank=rank, world_size=N_CLIENTS)
    for name, options in RUNS.items():
        train(rank, name, options, server)
    dist.destroy_process_group()


if __name__ == "__main__":
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as listener:
        free_port = listener.getsockname()[1]
    with contextlib.closing(EmbeddedServer()) as shared:
        spawn(run, (free_port, shared.target), N_CLIENTS)  # type: ignore[no-untyped-call]  # torch leaves it unannotated
