"""What every workload offers: real training that is small, deterministic by seed and free of global state.

Notation: ``n`` samples in a data set, ``b`` samples in a minibatch. Batches are tuples of tensors whose
first dimension is ``b``; what comes after it is the workload's own business.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

Batch = tuple[Tensor, ...]
OptimizerFactory = Callable[[nn.Module], Optimizer]
LossFunction = Callable[[nn.Module, Batch], Tensor]
Sampler = Callable[[torch.Generator], Batch]

# The random streams of one seed: neighbouring seeds must not share a stream.
_STREAMS_PER_SEED = 1000


@dataclass
class Session:
    """One training run.

    Attributes:
        model: In training mode; `validate` puts it back there.
        optimizer: Carries a nominal LR; whoever trains sets its own.
        sample: Draws one augmented minibatch from a generator.
        loss_function: Mean loss of the model on a batch.
        validation: Fixed batches that contestants may look at, the same for all seeds and contestants.
        data_seed: Seeds the batches.
        judging: Fixed batches that the end of the run is judged by; None if that is `validation`.
        max_norm: What the norm of all gradients is clipped to before an update; None if it is not clipped.
        validation_s: Seconds that were spent on `validate` and `judge` so far.
    """

    model: nn.Module
    optimizer: Optimizer
    sample: Sampler
    loss_function: LossFunction
    validation: Sequence[Batch]
    data_seed: int
    judging: Sequence[Batch] | None = None
    max_norm: float | None = None
    validation_s: float = 0.0

    def batches(self) -> Iterator[Batch]:
        """Endless minibatches, the same sequence at every call, independent of the global random state."""
        generator = torch.Generator().manual_seed(self.data_seed)
        while True:
            yield self.sample(generator)

    def loss(self, batch: Batch) -> Tensor:
        """Mean loss on a batch, a scalar with gradients, in the model's current mode."""
        return self.loss_function(self.model, batch)

    def validate(self) -> float:
        """Mean loss over the fixed validation batches, in evaluation mode and without gradients."""
        return self._mean_loss(self.validation)

    def judge(self) -> float:
        """What the run is judged by: as `validate`, over the judging batches where the workload has some."""
        return self._mean_loss(self.validation if self.judging is None else self.judging)

    def _mean_loss(self, batches: Sequence[Batch]) -> float:
        if batches[0][0].is_cuda:
            torch.cuda.synchronize()  # what was queued before is no part of the time below
        started = time.perf_counter()
        was_training = self.model.training
        self.model.eval()
        try:
            with torch.no_grad():
                total = sum(float(self.loss(batch)) * len(batch[0]) for batch in batches)
        finally:
            self.model.train(was_training)
        self.validation_s += time.perf_counter() - started
        return total / sum(len(batch[0]) for batch in batches)


def _identity(loss: float) -> float:
    return loss


@dataclass(frozen=True)
class Workload:
    """A training task that contestants run.

    Attributes:
        name: Key in the registry.
        version: Raised when anything changes that changes a loss, so that stored results go stale.
        description: Model, data and optimizer in a line.
        lr_range: What a user who has not tuned would bound the LR by.
        lr_grid: Peak LRs for the tuned schedules, half a decade apart, the best of linear decay inside.
        model: Builds the model; called under the run's own seed.
        optimizer: The base optimizer with a nominal LR.
        sample: Draws one augmented training minibatch.
        loss_function: Mean loss of a model on a batch.
        validation: Makes the fixed validation batches, which contestants may look at.
        judging: Makes the fixed batches that the end of a run is judged by, where validation data are too few for it.
        score: A positive, increasing function of the loss. Results are compared by ratios of scores, since the
            ratio of two losses means nothing where a loss may be negative.
        max_norm: What the norm of all gradients is clipped to before an update; None if it is not clipped.
    """

    name: str
    version: int
    description: str
    lr_range: tuple[float, float]
    lr_grid: tuple[float, ...]
    model: Callable[[], nn.Module]
    optimizer: OptimizerFactory
    sample: Sampler
    loss_function: LossFunction
    validation: Callable[[], Sequence[Batch]]
    judging: Callable[[], Sequence[Batch]] | None = None
    score: Callable[[float], float] = _identity
    max_norm: float | None = None

    def build(self, seed: int, optimizer: OptimizerFactory | None = None) -> Session:
        """A fresh run. The global random state is as before when this returns.

        Args:
            seed: Fixes the initial weights and the batches.
            optimizer: Takes the place of the base optimizer.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed * _STREAMS_PER_SEED)
            model = self.model()
        return Session(
            model=model.train(),
            optimizer=(optimizer or self.optimizer)(model),
            sample=self.sample,
            loss_function=self.loss_function,
            validation=self.validation(),
            data_seed=seed * _STREAMS_PER_SEED + 1,
            judging=None if self.judging is None else self.judging(),
            max_norm=self.max_norm,
        )


def classification_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Mean cross-entropy of inputs (b, ...) and their classes (b,), to which the model gives logits (b, classes)."""
    inputs, labels = batch
    return functional.cross_entropy(model(inputs), labels)


def half_decades(lowest: float, n_values: int) -> tuple[float, ...]:
    """`n_values` LRs from `lowest` up, each sqrt(10) times the one before, at two significant digits."""
    return tuple(float(f"{lowest * 10 ** (i / 2):.2g}") for i in range(n_values))


def fixed_draws(sample: Sampler, n_batches: int) -> list[Batch]:
    """`n_batches` draws that never change: validation data gets its augmentation once."""
    generator = torch.Generator().manual_seed(20_210_503)
    return [sample(generator) for _ in range(n_batches)]
