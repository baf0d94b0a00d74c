"""A batch that one rank draws and all ranks train on."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from lrpilot.distributed.together import together
from lrpilot.errors import LRPilotError
from lrpilot.rng import RandomState

if TYPE_CHECKING:
    from lrpilot.distributed.ranks import Ranks

Batch = TypeVar("Batch")


def shared_batch(ranks: Ranks, draw: Callable[[], Batch]) -> Batch:
    """What rank 0 draws, with the random state as its draw leaves it; collective, and the others draw nothing.

    Raises:
        Exception: rank 0 can't draw; it is raised there.
        LRPilotError: rank 0 can't draw or send its batch, or it can't be read on a rank.
        RuntimeError: a rank has parted.
    """
    if ranks.rank > 0:
        received: Batch = _received(ranks)
        return received
    before = RandomState.capture()
    try:
        batch = draw()
        message = _packed((batch, _told(RandomState.capture().changed_since(before))))
    except Exception:
        ranks.broadcast()
        raise
    ranks.broadcast(message)
    together(ranks, lambda: None)
    return batch


def share_random_state(ranks: Ranks) -> None:
    """Sets the random state of rank 0 on every rank; collective. Raises: RuntimeError: a rank has parted."""
    message = ranks.broadcast(_packed(_told(RandomState.capture())) if ranks.rank == 0 else b"")
    if ranks.rank > 0:
        _take(_unpacked(message))


def _received(ranks: Ranks) -> Any:
    message = ranks.broadcast()
    if not message:
        raise LRPilotError("population: rank 0 could not draw a batch, or not send it; its own error says why")
    drawn: list[Any] = []
    together(ranks, lambda: drawn.extend(_unpacked(message)))
    batch, states = drawn
    _take(states)
    return batch


def _packed(content: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


def _unpacked(message: bytes) -> Any:
    """What a rank of the same run has packed, on devices of this one."""
    return torch.load(io.BytesIO(message), map_location=_own_device, weights_only=False)


def _own_device(storage: Any, location: str) -> Any:
    return storage.cuda() if location.startswith("cuda") else storage


def _told(state: RandomState | None) -> dict[str, Any]:
    """A random state for other ranks: of its devices, that of this rank alone."""
    states = {} if state is None else dict(state.states)
    if "cuda" in states:
        states["cuda"] = states["cuda"][torch.cuda.current_device()]
    return states


def _take(states: Mapping[str, Any]) -> None:
    own = dict(states)
    if "cuda" in own:
        own["cuda"] = torch.cuda.get_rng_state_all()
        own["cuda"][torch.cuda.current_device()] = states["cuda"].cpu()
    RandomState(own).restore()
