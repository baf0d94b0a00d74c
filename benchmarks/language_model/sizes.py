"""Sizes of the benchmark: the model, its batches, the length of a run, and what a step takes by arithmetic."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from benchmarks.language_model.network import N_BYTES, Gpt
from benchmarks.language_model.sources import Sources, standard_library
from benchmarks.quality.workloads import Batch, Workload
from benchmarks.quality.workloads.base import fixed_draws, half_decades
from benchmarks.quality.workloads.transformer_block import next_token_loss

VERSION = 1
"""Raised when anything changes that changes a loss."""
LR = 3e-4
"""What the optimizer carries, in every size: the number that people begin with who have no other."""
BETAS = (0.9, 0.95)
WEIGHT_DECAY = 0.1
MAX_NORM = 1.0
"""As Brown et al. 2020 (GPT-3), appendix B, have all three."""
N_GRID = 5
"""Linear decays, half a decade apart."""


@dataclass(frozen=True)
class Size:
    """A size of the benchmark.

    Attributes:
        name: Key of its runs.
        n_blocks: Transformer blocks.
        width: Features; the feed-forward layers have four times as many.
        heads: Of attention.
        context: Bytes of a sequence.
        batch_size: Sequences of a batch.
        dropout: Share of what is added to the residual stream.
        n_validation: Batches of a validation.
        n_steps: Steps of a run.
        n_seeds: Runs of every contestant.
        lowest_lr: Of the grid; smaller models want higher ones.
    """

    name: str
    n_blocks: int
    width: int
    heads: int
    context: int
    batch_size: int
    dropout: float
    n_validation: int
    n_steps: int
    n_seeds: int
    lowest_lr: float

    @property
    def n_weights(self) -> int:
        """Parameters of the model."""
        per_block = 12 * self.width**2 + 13 * self.width
        return self.n_blocks * per_block + (N_BYTES + self.context + 2) * self.width

    @property
    def tokens(self) -> int:
        """Bytes that a step trains on."""
        return self.batch_size * self.context

    @property
    def flops(self) -> int:
        """Floating-point operations of a step, forward and backward.

        Six for each weight and token, and attention: 12 times blocks, width and context for each token (Chowdhery et
        al. 2022, PaLM, appendix B). Positions are looked up and not multiplied.
        """
        multiplied = self.n_weights - self.context * self.width
        return self.tokens * (6 * multiplied + 12 * self.n_blocks * self.width * self.context)

    @property
    def lr_grid(self) -> tuple[float, ...]:
        """The LRs of the sweep."""
        return half_decades(self.lowest_lr, N_GRID)

    @property
    def lr_range(self) -> tuple[float, float]:
        """What bounds are given: the grid, and a decade more at its lower end."""
        return self.lr_grid[0] / 10, self.lr_grid[-1]

    def workload(self, device: torch.device) -> Workload:
        """The training task. On a CUDA device it is compiled, and in bfloat16 where autocast says so."""
        sources = standard_library()
        accelerated = device.type == "cuda"

        def model() -> nn.Module:
            made = Gpt(self.n_blocks, self.width, self.heads, self.context, self.dropout).to(device)
            if accelerated:
                made.compile()
            return made

        def sample(generator: torch.Generator) -> Batch:
            return _on(device, sources.train.draw(self.batch_size, self.context, generator))

        def validation() -> list[Batch]:
            draws = fixed_draws(
                lambda generator: sources.validation.draw(self.batch_size, self.context, generator), self.n_validation
            )
            return [_on(device, batch) for batch in draws]

        def loss(model: nn.Module, batch: Batch) -> Tensor:
            with torch.autocast(device.type, torch.bfloat16, enabled=accelerated):
                return next_token_loss(model, batch)

        return Workload(
            name=f"{self.name}, {device.type}",
            version=version(sources),
            description=f"GPT of {self.n_weights:,} weights on bytes of Python source, AdamW",
            lr_range=self.lr_range,
            lr_grid=self.lr_grid,
            model=model,
            optimizer=_optimizer,
            sample=sample,
            loss_function=loss,
            validation=validation,
            # Perplexities: logarithms of their ratios are differences of losses.
            score=math.exp,
            max_norm=MAX_NORM,
        )


def version(sources: Sources) -> int:
    """What runs are stored under: another one for other sources, so that no runs on different text are compared."""
    return int.from_bytes(hashlib.sha256(f"{VERSION} {sources.digest}".encode()).digest()[:4], "big")


def _optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=LR, betas=BETAS, weight_decay=WEIGHT_DECAY, fused=True)


def _on(device: torch.device, batch: Batch) -> Batch:
    return tuple(tensor.to(device, non_blocking=True) for tensor in batch)


FULL = Size(
    "gpt 10.8M",
    n_blocks=6,
    width=384,
    heads=6,
    context=256,
    batch_size=64,
    dropout=0.1,
    n_validation=8,
    n_steps=5000,
    n_seeds=3,
    lowest_lr=1e-4,
)
QUICK = replace(
    FULL,
    name="gpt 0.5M",
    n_blocks=4,
    width=96,
    heads=4,
    context=64,
    batch_size=4,
    dropout=0.0,
    n_validation=24,
    n_steps=1000,
    n_seeds=2,
    lowest_lr=3.2e-4,
)
TINY = replace(
    QUICK,
    name="gpt 50k",
    n_blocks=1,
    width=56,
    heads=2,
    context=32,
    n_validation=8,
    n_steps=500,
    n_seeds=1,
    lowest_lr=1e-3,
)
SIZES = {size.name: size for size in (FULL, QUICK, TINY)}
