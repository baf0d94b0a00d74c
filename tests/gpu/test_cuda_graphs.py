"""A whole training step in a CUDA graph: addresses survive rollbacks, and the graph reads each LR that is set."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional

from tests.support.training.device_training import DeviceRun, assert_no_trace, script, tuned


class GraphedRun(DeviceRun):
    """A run whose update is recorded once, by a capturable optimizer with its LR in a tensor."""

    def __init__(self, device: torch.device, *, dropout: float) -> None:
        super().__init__(device, "images", "adamw, capturable, tensor lr", dropout=dropout)
        self.x, self.y = (tensor.clone() for tensor in self.pool[0])
        self._graph: Any = None
        self._record()

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
    addresses = first.addresses()
    tuned(first, script(wild=30), snapshot=place)
    assert first.addresses() == addresses
    assert_no_trace(lambda: GraphedRun(device, dropout=dropout), script(wild=30), snapshot=place)
