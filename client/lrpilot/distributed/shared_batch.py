"""A batch that one rank draws and all ranks train on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from lrpilot.distributed.packing import packed, unpacked
from lrpilot.distributed.together import together
from lrpilot.errors import ConfigError
from lrpilot.rng import RandomState

if TYPE_CHECKING:
    from lrpilot.distributed.ranks import Ranks

Batch = TypeVar("Batch")


@dataclasses.dataclass(frozen=True, slots=True)
class DrawnBatch(Generic[Batch]):
    """A batch, and what its draw did to the random state."""

    batch: Batch
    states: Mapping[str, Any]

    @classmethod
    def of(cls, draw: Callable[[], Batch]) -> DrawnBatch[Batch]:
        """What `draw` gives. Raises: Exception: what it raises."""
        before = RandomState.capture()
        batch = draw()
        return cls(batch, _told(RandomState.capture().changed_since(before)))


def shared_batch(ranks: Ranks, drawn: DrawnBatch[Batch] | None) -> Batch:
    """The batch of rank 0 on every rank, with the random state as its draw has left it; collective.

    Args:
        ranks: all that train on it.
        drawn: what rank 0 has drawn; None on the others.

    Raises:
        ConfigError: the batch can't be sent, or not be read on a rank; it is raised on all.
        RuntimeError: a rank has parted, or has gone.
    """
    if drawn is None:
        received: list[Batch] = []

        def read(message: bytes) -> None:
            batch, states = unpacked(message)
            received.append(batch)
            _take(states)

        _hear(ranks, b"", read)
        return received[0]
    try:
        message = packed((drawn.batch, drawn.states))
    except Exception as error:
        ranks.broadcast()
        raise ConfigError(f"population: a batch can't be sent to the other ranks: {error}") from error
    _hear(ranks, message, lambda _: None)
    return drawn.batch


def share_random_state(ranks: Ranks) -> None:
    """Sets the random state of rank 0 on every rank; collective. Raises: as `shared_batch`."""
    own = packed(_told(RandomState.capture()))
    _hear(ranks, own, lambda message: None if message == own else _take(unpacked(message)))


def _hear(ranks: Ranks, message: bytes, act: Callable[[bytes], object]) -> None:
    """Does something on every rank with what rank 0 says. Raises: as `shared_batch`."""
    heard = ranks.broadcast(message)
    if not heard:
        raise ConfigError("population: a batch can't be sent to the other ranks: rank 0 says why")
    try:
        together(ranks, lambda: act(heard))
    except Exception as error:
        if ranks.parted or ranks.lost:
            raise
        raise ConfigError(f"population: a batch can't be read on a rank: {error}") from error


def _told(state: RandomState | None) -> dict[str, Any]:
    """A random state for other ranks: of its devices, that of this rank alone."""
    states = {} if state is None else dict(state.states)
    if "cuda" in states:
        import torch  # Only ranks of PyTorch have such a state.

        states["cuda"] = states["cuda"][torch.cuda.current_device()]
    return states


def _take(states: Mapping[str, Any]) -> None:
    own = dict(states)
    if "cuda" in own:
        import torch

        own["cuda"] = torch.cuda.get_rng_state_all()
        own["cuda"][torch.cuda.current_device()] = states["cuda"].cpu()
    RandomState(own).restore()
