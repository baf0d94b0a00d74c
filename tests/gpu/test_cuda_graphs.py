"""A whole training step in a CUDA graph: addresses survive rollbacks, and the graph reads each LR that is set."""

from __future__ import annotations

from typing import Any

import lrpilot
import pytest
import torch
from lrpilot.transport.scripted import ScriptedTransport
from torch.nn import functional

from tests.support.training.device_training import LR, DeviceRun, Numbers, assert_no_trace, script, tuned
from tests.support.training.scripted_directives import training


class GraphedRun(DeviceRun):
    """A run whose update is recorded once, by a capturable optimizer with its LR in a tensor."""

    def __init__(self, device: torch.device, *, dropout: float) -> None:
        super().__init__(device, "images", "adamw, capturable, tensor lr", dropout=dropout)
        self.x, self.y = (tensor.clone() for tensor in self.pool[0])
        self._graph: Any = None
        self._record()

    def gradients(self) -> list[int]:
        """Where the gradients are, which the graph writes to."""
        return [0 if p.grad is None else p.grad.data_ptr() for p in self.model.parameters()]

    def _update(self) -> torch.Tensor:
        self.optimizers[0].zero_grad()
        loss = functional.cross_entropy(self.model(self.x), self.y)
        torch.autograd.backward(loss)
        self.optimizers[0].step()
        return loss

    def _record(self) -> None:
        side: Any = torch.Stream(device=self.device)
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self._update()
        torch.cuda.current_stream().wait_stream(side)
        self.optimizers[0].zero_grad()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self.loss = self._update()

    def step(self, number: int) -> torch.Tensor:
        for own, given in zip((self.x, self.y), self.pool[number % len(self.pool)], strict=True):
            own.copy_(given)
        self._graph.replay()
        return self.loss


needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="graphs are CUDA's")


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("place", ["device", "host"])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_a_graph_leaves_no_trace_and_its_tensors_stay(dropout: float, place: str) -> None:
    device = torch.device("cuda")
    torch.cuda.manual_seed(0)
    first = GraphedRun(device, dropout=dropout)
    addresses, gradients = first.addresses(), first.gradients()
    log = tuned(first, script(wild=30), snapshot=place)
    assert (first.addresses(), first.gradients()) == (addresses, gradients)
    assert [loss.item() for loss in log.losses] == log.reported  # each as the graph had left it
    assert_no_trace(lambda: GraphedRun(device, dropout=dropout), script(wild=30), snapshot=place)


@pytest.mark.gpu
@needs_cuda
def test_a_graph_reads_the_lr_that_is_set() -> None:
    run = GraphedRun(torch.device("cuda"), dropout=0.0)
    directives = [training(LR, 3), training(0.0, 3), training(LR, 3)]
    moved = []
    with lrpilot.Tuner(run.model, run.optimizers, transport=ScriptedTransport(directives), total_steps=9) as tuner:
        for number in tuner.batches(Numbers()):
            before = [p.detach().clone() for p in run.model.parameters()]
            tuner.step(run.step(number))
            moved.append(not all(map(torch.equal, before, run.model.parameters())))
    assert moved == [True] * 3 + [False] * 3 + [True] * 3
