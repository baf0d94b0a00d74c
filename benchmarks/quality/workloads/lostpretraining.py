"""Fine-tuning on 200 examples: a language model of Python source learns prose, AdamW.

A high LR loses what was pretrained, and 200 passages don't teach it again. The pretrained weights and the passages are
the same for all seeds, as a published checkpoint and a data set would be; the seed draws the batches. The network is
the neural probabilistic language model of Bengio et al. 2003.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.quality.datasets import text
from benchmarks.quality.workloads.base import Batch, Workload, fixed_draws, half_decades

VERSION = 1
_BATCH_SIZE = 4
_EXAMPLES = 200
_LENGTH = 64
_CONTEXT = 8
_EMBEDDING = 16
_WIDTH = 96

_PRETRAINING_STEPS = 3000
_PRETRAINING_LR = 3e-3


class _LanguageModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(text.VOCABULARY_SIZE, _EMBEDDING)
        self.network = nn.Sequential(
            nn.Linear(_CONTEXT * _EMBEDDING, _WIDTH),
            nn.ReLU(),
            nn.Linear(_WIDTH, text.VOCABULARY_SIZE),
        )

    def forward(self, characters: Tensor) -> Tensor:
        """Logits (b, t - context + 1, vocabulary) for what follows each full context in `characters` (b, t)."""
        contexts = self.embedding(characters).unfold(1, _CONTEXT, 1).flatten(2)
        logits: Tensor = self.network(contexts)
        return logits


@cache
def _pretrained() -> dict[str, Tensor]:
    """Weights that were trained on Python source under a linear decay."""
    source, _ = text.code()
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = _LanguageModel()
    optimizer = torch.optim.AdamW(model.parameters(), lr=_PRETRAINING_LR, fused=True)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, _PRETRAINING_STEPS)
    for _ in range(_PRETRAINING_STEPS):
        loss = _loss(model, source.draw(_BATCH_SIZE, _LENGTH, generator))
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        optimizer.step()
        optimizer.zero_grad()
        decay.step()
    return model.state_dict()


def _model() -> nn.Module:
    model = _LanguageModel()
    model.load_state_dict(_pretrained())
    return model


def _optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01, fused=True)


@cache
def _few() -> Batch:
    """The passages (n, t) and what follows each character (n, t)."""
    train, _ = text.prose()
    return train.draw(_EXAMPLES, _LENGTH, torch.Generator().manual_seed(0))


def _sample(generator: torch.Generator) -> Batch:
    passages, following = _few()
    index = torch.randint(_EXAMPLES, (_BATCH_SIZE,), generator=generator)
    return passages[index], following[index]


def _validation() -> list[Batch]:
    _, held_out = text.prose()
    return fixed_draws(lambda generator: held_out.draw(100, _LENGTH, generator), 1)


def _loss(model: nn.Module, batch: Batch) -> Tensor:
    characters, following = batch
    return functional.cross_entropy(model(characters).flatten(0, 1), following[:, _CONTEXT - 1 :].flatten())


WORKLOAD = Workload(
    name="lostpretraining",
    version=VERSION,
    description="language model pretrained on Python source, fine-tuned to 200 passages of prose, AdamW",
    lr_range=(1e-5, 1e-2),
    lr_grid=half_decades(1e-5, 7),
    model=_model,
    optimizer=_optimizer,
    sample=_sample,
    loss_function=_loss,
    validation=_validation,
)
