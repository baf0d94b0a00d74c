"""A functional training loop with JAX and Optax. `python examples/jax_digits.py`."""

from __future__ import annotations

import functools
import logging
from typing import Any

import jax
import jax.numpy as jnp
import lrpilot
import numpy as np
import optax
from lrpilot.integrations.jax import ReplaySchedule, Tuner
from sklearn.datasets import load_digits

logging.basicConfig(level=logging.INFO, format="%(message)s")
logging.getLogger("jax").setLevel(logging.WARNING)

digits = load_digits()
inputs, targets = (digits.data / 16).astype(np.float32), digits.target.astype(np.int32)


class Shuffled:
    """Batches of the training images, in another order every epoch."""

    def __iter__(self) -> Any:
        for rows in np.random.permutation(1400)[:1344].reshape(-1, 64):
            yield inputs[rows], targets[rows]


def initial(optimizer: optax.GradientTransformation) -> Any:
    """All that a step changes: parameters, the optimizer's state, and the key of the dropout."""
    key, *keys = jax.random.split(jax.random.key(0), 3)
    params = {
        "w1": jax.random.normal(keys[0], (64, 64)) / 8,
        "b1": jnp.zeros(64),
        "w2": jax.random.normal(keys[1], (64, 10)) / 8,
        "b2": jnp.zeros(10),
    }
    return params, optimizer.init(params), key


def mean_loss(params: Any, x: Any, y: Any, key: Any = None) -> Any:
    hidden = jax.nn.relu(x @ params["w1"] + params["b1"])
    if key is not None:
        hidden = jnp.where(jax.random.bernoulli(key, 0.8, hidden.shape), hidden / 0.8, 0)
    logits = hidden @ params["w2"] + params["b2"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def train_step(optimizer: optax.GradientTransformation, state: Any, batch: Any) -> Any:
    params, opt_state, key = state
    key, dropout_key = jax.random.split(key)
    loss, gradients = jax.value_and_grad(mean_loss)(params, *batch, dropout_key)
    updates, opt_state = optimizer.update(gradients, opt_state, params)
    return (optax.apply_updates(params, updates), opt_state, key), loss


validate = jax.jit(lambda state: mean_loss(state[0], inputs[1400:], targets[1400:]))

np.random.seed(0)
optimizer = optax.inject_hyperparams(optax.adamw)(learning_rate=0.001)
with Tuner(initial(optimizer), total_steps=1000, lr_bounds=(1e-4, 0.1), validate=validate, name="jax-digits") as tuner:
    for batch in tuner.batches(Shuffled()):
        tuner.state, loss = train_step(optimizer, tuner.state, batch)
        tuner.step(loss)
    print(f"{tuner.committed_step} committed and {tuner.search_steps} search steps")
    print(f"tuned: validation loss {validate(tuner.state):.4f}")
    tuner.schedule.save("schedule.json")

# The schedule alone, in a run with no server and no search.
schedule = lrpilot.Schedule.load("schedule.json")
optimizer = optax.adamw(learning_rate=ReplaySchedule(schedule))
state = initial(optimizer)
np.random.seed(0)
for _ in range(schedule.n_steps // 21):
    for batch in Shuffled():
        state, loss = train_step(optimizer, state, batch)
print(f"replayed: validation loss {validate(state):.4f}")
