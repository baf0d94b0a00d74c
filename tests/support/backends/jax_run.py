"""A small run in JAX and Optax."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from lrpilot.backends.jax_backend import JaxBackend

from tests.support.backends.small_run import N_FEATURES, WIDTH, SmallRun, Validate

_optimizer = optax.partition(
    {
        name: optax.inject_hyperparams(optax.sgd)(learning_rate=lr, momentum=0.9)
        for name, lr in (("first", 0.02), ("last", 0.06))
    },
    {"first": "first", "last": "last"},
)


class JaxRun(SmallRun):
    """A compiled step that donates its state: dropout, SGD with momentum over two partitions."""

    base_lrs = (0.02, 0.06)

    def __init__(self, validate: Validate | None = None, width: int = WIDTH) -> None:
        key, *keys = jax.random.split(jax.random.key(0), 3)
        params = {
            "first": 0.5 * jax.random.normal(keys[0], (N_FEATURES, width)),
            "last": 0.5 * jax.random.normal(keys[1], (width,)),
        }
        state = {"params": params, "optimizer": _optimizer.init(params), "key": key}
        self._jax: JaxBackend[Any] | None = None
        self._state = state
        self._jax = self.backend = JaxBackend(state, None if validate is None else lambda _: validate(self), True)

    @property
    def state(self) -> Any:
        """The training state, which the backend holds from its beginning to its end."""
        return self._state if self._jax is None else self._jax.state

    def update(self, batch: np.ndarray[Any, Any]) -> Any:
        assert self._jax is not None
        self._jax.state, loss = _step(self._jax.state, batch)
        return loss

    def bits(self) -> list[bytes]:
        leaves = jax.tree.leaves({**self.state, "key": jax.random.key_data(self.state["key"])})
        return [np.asarray(leaf).tobytes() for leaf in leaves]

    def evaluate(self) -> float:
        return float(_loss(self.state["params"], np.ones((3, N_FEATURES), np.float32) * np.random.rand()))

    def scalar(self, value: float) -> Any:
        return jnp.asarray(value)

    def array(self, n: int) -> Any:
        return jnp.zeros(n)

    def save(self) -> Any:
        return jax.tree.map(lambda leaf: leaf.copy(), self.state)

    def load(self, saved: Any) -> None:
        assert self._jax is not None
        self._jax.state = jax.tree.map(lambda leaf: leaf.copy(), saved)


def _loss(params: Any, batch: Any, keep: Any = 1.0) -> Any:
    hidden = jnp.tanh(batch @ params["first"]) * keep
    return jnp.mean(jnp.square(hidden @ params["last"] - batch.sum(1)))


@functools.partial(jax.jit, donate_argnums=0)
def _step(state: Any, batch: Any) -> Any:
    key, dropout = jax.random.split(state["key"])
    keep = jax.random.bernoulli(dropout, 0.8, (len(batch), WIDTH)) / 0.8
    loss, gradients = jax.value_and_grad(_loss)(state["params"], batch, keep)
    updates, optimizer = _optimizer.update(gradients, state["optimizer"], state["params"])
    return {"params": optax.apply_updates(state["params"], updates), "optimizer": optimizer, "key": key}, loss
