"""The loop that everybody has: epochs, with a validation and a checkpoint after each."""

from __future__ import annotations

import copy
from typing import Any

import lrpilot
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tests.support.servers.server_process import ServerProcess
from tests.support.training.quick_run import warned

N_EPOCHS, LENGTH = 8, 80
SEARCH = {"probe_steps": 10, "refinements": 2, "max_candidates": 6}


class Training:
    """Least squares on shuffled batches."""

    def __init__(self, server: str) -> None:
        torch.manual_seed(0)
        inputs = torch.randn(LENGTH * 8, 4)
        targets = inputs @ torch.tensor([1.0, -2.0, 3.0, 0.5]).unsqueeze(1)
        self.loader = DataLoader(TensorDataset(inputs, targets), batch_size=8, shuffle=True)
        self.model = nn.Linear(4, 1)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.tuner = lrpilot.Tuner(
            self.model,
            self.optimizer,
            server=server,
            epochs=N_EPOCHS,
            steps_per_epoch=LENGTH,
            lr_bounds=(1e-3, 1.0),
            policy="budget",
            policy_options=SEARCH,
        )
        self.seen: list[torch.Tensor] = []
        """What committed steps were made of."""

    def step(self, batch: Any) -> None:
        inputs, targets = batch
        if not self.tuner.searching:
            self.seen.append(inputs.clone())
        loss = ((self.model(inputs) - targets) ** 2).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.tuner.step(loss)


def test_epochs_end_where_the_data_do(shared_server: ServerProcess, caplog: pytest.LogCaptureFixture) -> None:
    run = Training(shared_server.target)
    ended_at: list[int] = []
    for epoch in run.tuner.epochs(run.loader, N_EPOCHS):
        assert epoch.number == len(ended_at)
        for batch in epoch:
            run.step(batch)
        assert not run.tuner.searching
        ended_at.append(run.tuner.committed_step)

    assert run.tuner.finished
    assert run.tuner.search_steps > 0
    assert warned(caplog) == []
    assert ended_at == [*range(LENGTH, run.tuner.committed_step, LENGTH), run.tuner.committed_step]
    # The committed steps of an epoch are one pass over the data.
    rows = torch.cat(run.seen[:LENGTH])
    assert len(torch.unique(rows, dim=0)) == LENGTH * 8


def test_a_run_resumes_in_its_epoch(shared_server: ServerProcess) -> None:
    first = Training(shared_server.target)
    states: dict[str, Any] = {}
    for epoch in first.tuner.epochs(first.loader):
        for batch in epoch:
            first.step(batch)
        if epoch.number == 2:
            states = copy.deepcopy(
                {
                    "model": first.model.state_dict(),
                    "optimizer": first.optimizer.state_dict(),
                    "tuner": first.tuner.state_dict(),
                }
            )
            break
    first.tuner.close()

    second = Training(shared_server.target)
    second.model.load_state_dict(states["model"])
    second.optimizer.load_state_dict(states["optimizer"])
    second.tuner.load_state_dict(states["tuner"])
    numbers: list[int] = []
    for epoch in second.tuner.epochs(second.loader):
        numbers.append(epoch.number)
        assert len(epoch) == LENGTH
        for batch in epoch:
            second.step(batch)
    assert numbers == list(range(3, N_EPOCHS))


def test_an_epoch_that_is_left_goes_on_and_says_so(
    shared_server: ServerProcess, caplog: pytest.LogCaptureFixture
) -> None:
    run = Training(shared_server.target)
    epochs = run.tuner.epochs(run.loader)
    epoch = next(epochs)
    while run.tuner.searching or run.tuner.committed_step < 5:
        run.step(next(epoch))
    again = next(epochs)
    assert (again.number, len(again)) == (0, LENGTH - 5)
    assert next(epochs).number == 0
    (warning,) = warned(caplog)
    assert f"epoch 0 was left with {LENGTH - 5} batches to come" in warning
    run.tuner.close()


def test_the_batches_tell_how_many_are_left(shared_server: ServerProcess) -> None:
    run = Training(shared_server.target)
    batches = run.tuner.batches(run.loader)
    assert len(batches) == N_EPOCHS * LENGTH
    run.step(next(batches))
    assert len(batches) == N_EPOCHS * LENGTH - 1
    run.tuner.close()


def test_a_loader_without_a_length_has_no_epochs(shared_server: ServerProcess) -> None:
    run = Training(shared_server.target)
    with pytest.raises(ValueError, match=r"has no length.*tuner\.batches"):
        next(run.tuner.epochs(batch for batch in run.loader))
    run.tuner.close()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"epochs": 3}, "steps_per_epoch: None"),
        ({"steps_per_epoch": 3}, "epochs: None"),
        ({"epochs": 2, "steps_per_epoch": 10, "total_steps": 20}, "total_steps is 20: give one"),
        ({"epochs": 2.5, "steps_per_epoch": 10}, "epochs: 2.5"),
        ({"epochs": 0, "steps_per_epoch": 10}, "epochs: 0"),
    ],
)
def test_an_end_in_epochs_has_two_numbers(arguments: dict[str, Any], words: str) -> None:
    model = nn.Linear(2, 1)
    with pytest.raises(lrpilot.ConfigError, match=words):
        lrpilot.Tuner(model, torch.optim.SGD(model.parameters(), lr=0.1), server="127.0.0.1:1", **arguments)
