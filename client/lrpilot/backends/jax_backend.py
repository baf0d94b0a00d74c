"""JAX: a training state as a pytree, with Optax's learning rates injected into it."""

from __future__ import annotations

import collections
import logging
import math
from collections.abc import Callable, Sequence
from typing import Any, Generic, SupportsFloat, TypeVar

import jax
import numpy as np
from optax import InjectHyperparamsState, InjectStatefulHyperparamsState

from lrpilot.backends.host_backend import HostBackend
from lrpilot.backends.validator import Validator
from lrpilot.errors import ConfigError
from lrpilot.rng import RandomState

State = TypeVar("State")

INJECTED = (InjectHyperparamsState, InjectStatefulHyperparamsState)
LEARNING_RATE = "learning_rate"
"""The hyperparameter's name in every optimizer of Optax."""

_LEFT: collections.deque[tuple[list[float], list[float]]] = collections.deque(maxlen=64)
"""What earlier runs in this process left: the LRs in their state, and those that they began with."""

log = logging.getLogger("lrpilot")


class JaxBackend(HostBackend, Generic[State]):
    """A training state: parameters, optimizer state, random keys, batch statistics, whatever the step takes and gives.

    LRs are leaves of that state. Their number, shape and type stay as they are, so a compiled step is not compiled
    again.
    """

    def __init__(self, state: State, validate: Callable[[State], SupportsFloat] | None, donates: bool) -> None:
        """Raises: ConfigError: there is no LR to tune, or `validate` does not work."""
        self.state = state
        self._donates = donates
        self._places = _lr_places(state)
        self._base_lrs = _base_of(self.lrs())
        first = self._base_lrs[0]
        if not (math.isfinite(first) and first > 0):
            raise ConfigError(f"state: the first injected learning rate must be positive, not {first}")
        self._taken: tuple[State, RandomState] | None = None
        super().__init__(Validator(lambda: validate(self.state)) if validate is not None else None)

    @property
    def base_lrs(self) -> list[float]:
        """The LRs of all injected optimizers, in the order of the state's leaves."""
        return self._base_lrs

    def lrs(self) -> list[float]:
        """The LRs of all injected optimizers. Waits for the device."""
        leaves = jax.tree.leaves(self.state)
        return [float(leaves[place]) for place in self._places]

    def set_lr(self, lr: float) -> None:
        """Puts new leaves into the state."""
        leaves, structure = jax.tree.flatten(self.state)
        for place, base in zip(self._places, self._base_lrs, strict=True):
            leaves[place] = _like(leaves[place], lr * (base / self._base_lrs[0]))
        self.state = jax.tree.unflatten(structure, leaves)

    def take(self, data: Sequence[object] = ()) -> None:
        """Keeps the state: arrays don't change. Copied, if the step donates them."""
        self._taken = self._own(self.state), RandomState.capture()

    def restore(self, *, committed: bool = False) -> None:
        """Gives the kept state out again."""
        if self._taken is None:
            raise RuntimeError("snapshot: restore() before take()")
        state, random_state = self._taken
        self.state = self._own(state)
        random_state.restore()

    def state_dict(self) -> dict[str, Any] | None:
        """The kept state's leaves as NumPy arrays, those of keys as their data."""
        if self._taken is None:
            return None
        state, random_state = self._taken
        return {
            "leaves": [_to_host(leaf) for leaf in jax.tree.leaves(state)],
            "random_state": random_state.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Keeps what another one kept, in the present state's structure and on its devices.

        Raises:
            ConfigError: it is of another structure, or its arrays are of other shapes.
        """
        present, structure = jax.tree.flatten(self.state)
        if len(present) != len(state["leaves"]):
            raise ConfigError(f"state: {len(present)} leaves, and {len(state['leaves'])} in the checkpoint")
        if [*map(_shape, present)] != [*map(np.shape, state["leaves"])]:
            raise ConfigError("state: its arrays have other shapes than those in the checkpoint")
        leaves = [_like(leaf, saved) for leaf, saved in zip(present, state["leaves"], strict=True)]
        self._taken = jax.tree.unflatten(structure, leaves), RandomState.from_state_dict(state["random_state"])

    def finish(self) -> None:
        """Remembers which LRs are left in the state: a run that begins with it looks for its base."""
        if (left := self.lrs()) != self._base_lrs:
            _LEFT.append((left, self._base_lrs))

    def close(self) -> None:
        """Lets go of the kept state."""
        self._taken = None

    def _own(self, state: State) -> State:
        """A state that lives on whatever becomes of the other one's buffers."""
        copied: State = jax.tree.map(_copied, state) if self._donates else state
        return copied


def _base_of(lrs: list[float]) -> list[float]:
    """The LRs that the user set. A state has no name to be known by, so that one is known by the LRs left in it."""
    for left, base in reversed(_LEFT):
        if lrs == left:
            log.info("lrpilot: the LR of %.3g is what the last run left; this one starts from %.3g", lrs[0], base[0])
            return base
    return lrs


def _copied(leaf: Any) -> Any:
    return leaf.copy() if isinstance(leaf, jax.Array | np.ndarray) else leaf


def _lr_places(state: Any) -> list[int]:
    """The leaves of a state that are injected learning rates.

    Raises:
        ConfigError: there is none, or a schedule would overwrite it at every step.
    """
    mark = object()
    leaves = jax.tree.leaves(_marked(state, mark))
    places = [place for place, leaf in enumerate(leaves) if leaf is mark]
    if not places:
        raise ConfigError(
            "state: no learning rate in it; make the optimizer with "
            "optax.inject_hyperparams(optax.adamw)(learning_rate=0.001), and pass its state too"
        )
    return places


def _marked(tree: Any, mark: object) -> Any:
    """The tree with `mark` for every injected learning rate, at any depth."""

    def replaced(node: Any) -> Any:
        if not isinstance(node, INJECTED):
            return node
        if LEARNING_RATE in getattr(node, "hyperparams_states", {}):
            raise ConfigError("state: the learning rate is a schedule; inject a number, which is the base LR")
        hyperparams = dict(node.hyperparams)
        if LEARNING_RATE in hyperparams:
            hyperparams[LEARNING_RATE] = mark
        return node._replace(hyperparams=hyperparams, inner_state=_marked(node.inner_state, mark))

    return jax.tree.map(replaced, tree, is_leaf=lambda node: isinstance(node, INJECTED))


def _to_host(leaf: Any) -> Any:
    if not isinstance(leaf, jax.Array):
        return leaf
    return np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)


def _shape(leaf: Any) -> tuple[int, ...]:
    """The shape of a leaf as `_to_host` gives it; copies nothing."""
    return np.shape(jax.random.key_data(leaf) if isinstance(leaf, jax.Array) and _is_key(leaf) else leaf)


def _like(leaf: Any, value: Any) -> Any:
    """The value as an array of the leaf's kind, where the leaf is."""
    if not isinstance(leaf, jax.Array):
        return value
    place = leaf.sharding if leaf.committed else None
    if _is_key(leaf):
        return jax.device_put(jax.random.wrap_key_data(value, impl=jax.random.key_impl(leaf)), place)
    return jax.device_put(np.asarray(value, leaf.dtype), place)


def _is_key(leaf: jax.Array) -> bool:
    return bool(jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key))
