"""A random small training: its network, optimizer, batches and length are drawn from a number."""

from __future__ import annotations

import dataclasses
import functools
import random
from collections.abc import Callable, Iterator

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, Adagrad, Adam, AdamW, NAdam, Optimizer, RMSprop

GUESS = 1e-3
"""The LR that every optimizer is made with, as who has no idea would do."""
N_TRAINED = 1_300
"""So many of the 1,797 digits are trained on; the others are what a run is judged by."""
WRONG_LABELS = 0.3
"""The part of the training labels that is drawn at random, where the task has noisy labels."""

_OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "SGD": SGD,
    "SGD, momentum 0.9": functools.partial(SGD, momentum=0.9),
    "SGD, momentum 0.95": functools.partial(SGD, momentum=0.95),
    "SGD, Nesterov 0.9": functools.partial(SGD, momentum=0.9, nesterov=True),
    "Adam": Adam,
    "Adam, betas 0.9 and 0.99": functools.partial(Adam, betas=(0.9, 0.99)),
    "AdamW": functools.partial(AdamW, weight_decay=0.05),
    "NAdam": NAdam,
    "RMSprop": RMSprop,
    "Adagrad": Adagrad,
}
_ACTIVATIONS = {"ReLU": nn.ReLU, "GELU": nn.GELU, "tanh": nn.Tanh}
_OUTPUTS = {"classes": 10, "noisy labels": 10, "regression": 1, "autoencoder": 64}


@dataclasses.dataclass(frozen=True)
class Drawn:
    """What a training is like."""

    number: int
    network: str
    """"perceptron" or "convolutions"."""
    width: int
    depth: int
    normalised: bool
    activation: str
    dropout: float
    optimizer: str
    batch_size: int
    n_steps: int
    task: str
    max_norm: float | None
    """The norm that gradients are clipped to; None: they are not clipped."""
    validates: bool
    """Whether the tuner may validate."""


def draw(number: int) -> Drawn:
    """The training of a number; the same on any machine."""
    choose = random.Random(number)
    network = choose.choice(("perceptron", "perceptron", "convolutions"))
    longest = 1_000 if network == "convolutions" else 2_000
    return Drawn(
        number=number,
        network=network,
        width=32 if network == "convolutions" else choose.choice((32, 64, 128)),
        depth=choose.choice((1, 2, 3, 5)),
        normalised=choose.random() < 0.4,
        activation=choose.choice(tuple(_ACTIVATIONS)),
        dropout=choose.choice((0.0, 0.0, 0.2)),
        optimizer=choose.choice(tuple(_OPTIMIZERS)),
        batch_size=choose.choice((4, 8, 16, 32, 64)),
        n_steps=min(choose.choice((500, 700, 1_000, 1_500, 2_000)), longest),
        task=choose.choice(tuple(_OUTPUTS)),
        max_norm=choose.choice((None, None, 1.0)),
        validates=choose.random() < 0.7,
    )


class Training:
    """One run of a drawn training, from its beginning."""

    def __init__(self, drawn: Drawn, lr: float = GUESS) -> None:
        """Makes all of it anew; the same whatever the LR."""
        torch.manual_seed(drawn.number)
        self.drawn = drawn
        self.model = _network(drawn)
        self.optimizer = _OPTIMIZERS[drawn.optimizer](self.model.parameters(), lr=lr)
        inputs, self._targets = _digits()
        order = torch.randperm(len(inputs))
        self._inputs, self._targets = inputs[order], self._targets[order]
        self._taught = self._targets.clone()
        if drawn.task == "noisy labels":
            wrong = torch.rand(N_TRAINED) < WRONG_LABELS
            self._taught[:N_TRAINED][wrong] = torch.randint(0, 10, (int(wrong.sum()),))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of an epoch."""
        n, order = self.drawn.batch_size, torch.randperm(N_TRAINED)
        for i in range(0, N_TRAINED - n + 1, n):
            yield self._inputs[order[i : i + n]], self._taught[order[i : i + n]]

    def update(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Makes a step; its loss."""
        loss = self._loss(*batch)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        if self.drawn.max_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.drawn.max_norm)
        self.optimizer.step()
        return loss.detach()

    def judge(self) -> float:
        """Gives the loss on what is not trained on."""
        self.model.eval()
        with torch.no_grad():
            loss = self._loss(self._inputs[N_TRAINED:], self._targets[N_TRAINED:]).item()
        self.model.train()
        return loss

    def _loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        outputs = self.model(inputs)
        if self.drawn.task == "regression":
            return functional.mse_loss(outputs[:, 0], (targets.float() - 4.5) / 2.9)
        if self.drawn.task == "autoencoder":
            return 10.0 * functional.mse_loss(outputs, inputs)
        return functional.cross_entropy(outputs, targets)


@functools.cache
def _digits() -> tuple[Tensor, Tensor]:
    digits = load_digits()
    return torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)


def _network(drawn: Drawn) -> nn.Sequential:
    activation, n_outputs = _ACTIVATIONS[drawn.activation], _OUTPUTS[drawn.task]
    layers: list[nn.Module] = []
    if drawn.network == "convolutions":
        n_channels, layers = 1, [nn.Unflatten(1, (1, 8, 8))]
        for _ in range(drawn.depth):
            layers += [nn.Conv2d(n_channels, drawn.width // 4, 3, padding=1)]
            layers += [nn.BatchNorm2d(drawn.width // 4)] if drawn.normalised else []
            layers.append(activation())
            n_channels = drawn.width // 4
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * n_channels, n_outputs))
    n_inputs = 64
    for _ in range(drawn.depth):
        layers.append(nn.Linear(n_inputs, drawn.width))
        layers += [nn.LayerNorm(drawn.width)] if drawn.normalised else []
        layers.append(activation())
        layers += [nn.Dropout(drawn.dropout)] if drawn.dropout else []
        n_inputs = drawn.width
    return nn.Sequential(*layers, nn.Linear(n_inputs, n_outputs))
