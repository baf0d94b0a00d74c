"""What can happen to a session in its middle."""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks.quality.datasets import text
from benchmarks.quality.workloads import Batch, Session

BATCH_FACTOR = 8

_ALPHABET_SEED = 20_260_101


def rotate(session: Session) -> None:
    """Turns all images by 90 degrees."""
    _map(session, rotated)


def permute(session: Session) -> None:
    """Replaces every character by another one, as in a cipher."""
    _map(session, _permuted)


def enlarge_batches(session: Session) -> None:
    """Makes batches `BATCH_FACTOR` times as large."""
    sample = session.sample

    def larger(generator: torch.Generator) -> Batch:
        draws = [sample(generator) for _ in range(BATCH_FACTOR)]
        return tuple(torch.cat(columns) for columns in zip(*draws, strict=True))

    session.sample = larger


def unfreeze(session: Session) -> None:
    """Lets all parameters be trained; those that were frozen have the LR of the others, in a group of their own."""
    group = {
        "params": [parameter for parameter in session.model.parameters() if not parameter.requires_grad],
        "lr": session.optimizer.param_groups[0]["lr"],
    }
    session.model.requires_grad_(True)
    session.optimizer.add_param_group(group)


def rotated(batch: Batch) -> Batch:
    """A batch of images and labels with its images turned by 90 degrees."""
    images, labels = batch
    return torch.rot90(images, 1, (-2, -1)).contiguous(), labels


def _permuted(batch: Batch) -> Batch:
    contexts, following = batch
    alphabet = torch.randperm(text.VOCABULARY_SIZE, generator=torch.Generator().manual_seed(_ALPHABET_SEED))
    return alphabet[contexts], alphabet[following]


def _map(session: Session, function: Callable[[Batch], Batch]) -> None:
    """Applies `function` to all batches, those for validation too."""
    sample = session.sample
    session.sample = lambda generator: function(sample(generator))
    session.validation = [function(batch) for batch in session.validation]
