"""What happens to a run in its middle: other data, a larger batch, thawed layers.

A change is made to a session where it stands: weights and optimizer state stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from benchmarks.quality.datasets import text
from benchmarks.quality.workloads import Batch, Session
from benchmarks.quality.workloads.base import Sampler, fixed_draws

BATCH_FACTOR = 8
"""How many times larger a batch becomes."""
NEW_STREAM = 500
"""The distance of the batches' seed after a change from that before it, less than that between two runs' seeds."""
_CLASSES = 10
_SIDE = 14
"""Side of the images that are inpainted."""
_OTHER_TEXT = {"chartransformer": text.prose, "gru": text.code}

Turn = Callable[[Batch], Batch]


def with_other_inputs(workload: str, session: Session) -> Session:
    """A task on other inputs: images turned by a right angle, or the other one of the two texts."""
    if workload not in _OTHER_TEXT:
        turn = _pair_turned if workload == "inpainting" else _image_turned
        return _turned(session, turn)
    train, held_out = _OTHER_TEXT[workload]()
    (shown, _), *_ = session.validation
    n, length = shown.shape
    batch_size = len(session.sample(torch.Generator().manual_seed(0))[0])
    validation = fixed_draws(lambda generator: held_out.draw(n, length, generator), 1)
    return replace(session, sample=lambda generator: train.draw(batch_size, length, generator), validation=validation)


def with_other_targets(workload: str, session: Session) -> Session:
    """A task's inputs with other meanings: classes or characters renumbered, images to be filled in in negative."""
    if workload in _OTHER_TEXT:
        return _turned(session, _renumbered)
    return _turned(session, _negative if workload == "inpainting" else _relabelled)


def with_larger_batch(session: Session) -> Session:
    """Batches of `BATCH_FACTOR` times as many samples."""
    sample = session.sample

    def larger(generator: torch.Generator) -> Batch:
        parts = zip(*(sample(generator) for _ in range(BATCH_FACTOR)), strict=True)
        return tuple(torch.cat(part) for part in parts)

    return replace(session, sample=larger)


def with_new_batches(session: Session) -> Session:
    """Batches that the run has not seen, so that all trials from a state see the same new ones."""
    return replace(session, data_seed=session.data_seed + NEW_STREAM)


def freeze(session: Session) -> None:
    """Holds all but the last layer still."""
    *body, _ = session.model.children()
    for layer in body:
        layer.requires_grad_(False)


def thaw(session: Session) -> None:
    """Trains all layers."""
    session.model.requires_grad_(True)


def _turned(session: Session, turn: Turn) -> Session:
    sample: Sampler = session.sample
    validation: Sequence[Batch] = [turn(batch) for batch in session.validation]
    return replace(session, sample=lambda generator: turn(sample(generator)), validation=validation)


def _image_turned(batch: Batch) -> Batch:
    images, labels = batch
    return torch.rot90(images, 1, (2, 3)).contiguous(), labels


def _pair_turned(batch: Batch) -> Batch:
    return tuple(torch.rot90(flat.view(-1, _SIDE, _SIDE), 1, (1, 2)).reshape(len(flat), -1) for flat in batch)


def _relabelled(batch: Batch) -> Batch:
    images, labels = batch
    return images, (labels + 1) % _CLASSES


def _negative(batch: Batch) -> Batch:
    visible, clean = batch  # the visible part is centred, the clean image is in [0, 1]
    return -visible, 1.0 - clean


def _renumbered(batch: Batch) -> Batch:
    order = torch.randperm(text.VOCABULARY_SIZE, generator=torch.Generator().manual_seed(0))
    characters, following = batch
    return order[characters], order[following]
