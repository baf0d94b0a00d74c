"""A Keras model, tuned while `fit` runs. `KERAS_BACKEND=torch python examples/keras_digits.py`."""

from __future__ import annotations

import logging
from typing import Any

import keras
import lrpilot
import numpy as np
from lrpilot.integrations.keras import ReplaySchedule, TunerCallback
from sklearn.datasets import load_digits

logging.basicConfig(level=logging.INFO, format="%(message)s")
keras.utils.set_random_seed(0)

digits = load_digits()
inputs, targets = (digits.data / 16).astype(np.float32), digits.target
train, held_out = (inputs[:1400], targets[:1400]), (inputs[1400:], targets[1400:])


def compiled(optimizer: keras.Optimizer) -> Any:
    model = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dropout(0.2),
            keras.layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"])
    return model


model = compiled(keras.optimizers.SGD(0.1, momentum=0.9))
callback = TunerCallback(
    train,
    batch_size=64,
    validate=lambda: model.evaluate(*held_out, batch_size=397, verbose=0)[0],
    lr_bounds=(1e-3, 1.0),
    name="keras-digits",
)
model.fit(*train, batch_size=64, epochs=40, callbacks=[callback], verbose=0)
loss, accuracy = model.evaluate(*held_out, verbose=0)
print(f"{callback.schedule.n_steps} committed steps and {len(callback.schedule.probes)} probes")
print(f"tuned: validation loss {loss:.4f}, accuracy {accuracy:.3f}")
callback.schedule.save("schedule.json")

# The schedule alone, in a run with no server and no search.
schedule = lrpilot.Schedule.load("schedule.json")
model = compiled(keras.optimizers.SGD(ReplaySchedule(schedule), momentum=0.9))
model.fit(*train, batch_size=64, epochs=schedule.n_steps // 22, verbose=0)
loss, accuracy = model.evaluate(*held_out, verbose=0)
print(f"replayed: validation loss {loss:.4f}, accuracy {accuracy:.3f}")
