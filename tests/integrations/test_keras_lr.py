"""The LR of Keras' `fit`: where a run begins, where it ends, and who else sets it. Small models of one backend."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras  # the backend is chosen once, before the import
import lrpilot
from lrpilot.backends.keras_backend import to_numpy
from lrpilot.integrations.keras import TunerCallback

from benchmarks.quality.local import LocalTransport
from tests.support.jobs.kept_jobs import KeptJobs

# Keras' variables implement NumPy's protocol of old.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

BASE, BATCH, N_BATCHES = 0.03, 4, 6
INPUTS = np.random.default_rng(0).normal(size=(BATCH * N_BATCHES, 3)).astype(np.float32)
TARGETS = INPUTS.sum(axis=1, keepdims=True)
MEDDLED = "something else sets it too; take out the scheduler, callback or assignment"


def compiled(optimizer: Any = None) -> Any:
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(BASE) if optimizer is None else optimizer, "mse")
    return model


def tuned(**options: Any) -> TunerCallback:
    return TunerCallback((INPUTS, TARGETS), batch_size=BATCH, **{"transport": LocalTransport(), **options})


def fit(model: Any, *callbacks: Any, epochs: int = 5, **arguments: Any) -> None:
    arguments = {"x": INPUTS, "y": TARGETS, "batch_size": BATCH, **arguments}
    model.fit(**arguments, epochs=epochs, callbacks=list(callbacks), verbose=0)


def lrs(callback: TunerCallback) -> list[float]:
    return callback.schedule.lrs()


def assert_whole_decay(callback: TunerCallback, n_steps: int, base: float = BASE) -> None:
    """The LR came from the base, and to its end: it fell by as much as it does in every of its last steps."""
    used = lrs(callback)
    assert len(used) == n_steps
    assert max(used) == pytest.approx(base)
    assert used[-1] == pytest.approx(used[-2] - used[-1], rel=0.2)


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Warnings, without that of a short run."""
    texts = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    return [text for text in texts if "too few for" not in text]


@pytest.mark.parametrize("reused", [True, False], ids=["the same callback", "another callback"])
def test_every_fit_begins_at_the_lr_that_was_set(reused: bool, caplog: pytest.LogCaptureFixture) -> None:
    model, callback = compiled(), tuned()
    for _ in range(3):
        callback = callback if reused else tuned()
        if reused:
            callback._job["transport"] = LocalTransport()
        fit(model, callback)
        assert_whole_decay(callback, 30)
    assert said(caplog) == []

    model.optimizer.learning_rate = 0.007
    callback = tuned()
    fit(model, callback)
    assert_whole_decay(callback, 30, base=0.007)

    model.compile(keras.optimizers.Adam(0.01), "mse")
    callback = tuned()
    fit(model, callback)
    assert_whole_decay(callback, 30, base=0.01)
    assert said(caplog) == []


def test_an_optimizer_with_loss_scaling_has_the_lr_of_the_one_inside() -> None:
    model = compiled(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(BASE)))
    for _ in range(2):
        callback = tuned()
        fit(model, callback)
        assert_whole_decay(callback, 30)


def test_a_model_from_a_file_has_the_lr_that_it_was_saved_with_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = compiled()
    fit(model, tuned())
    left = float(to_numpy(model.optimizer.learning_rate))
    model.save(tmp_path / "model.keras")
    loaded, callback = keras.saving.load_model(tmp_path / "model.keras"), tuned()
    fit(loaded, callback)
    assert_whole_decay(callback, 30, base=left)
    assert len(said(caplog)) == 1
    assert "has made 30 steps before" in said(caplog)[0]
    assert "set model.optimizer.learning_rate before fit" in said(caplog)[0]


@pytest.mark.parametrize("initial_epoch", [0, 3, 7])
def test_the_budget_is_that_of_the_epochs_that_are_left(initial_epoch: int) -> None:
    callback = tuned()
    fit(compiled(), callback, epochs=8, initial_epoch=initial_epoch)
    assert_whole_decay(callback, (8 - initial_epoch) * N_BATCHES)


class Interruption(keras.callbacks.Callback):  # type: ignore[misc]  # Keras' types are not read
    """The process dies when an epoch begins."""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if epoch == 4:
            raise KeyboardInterrupt


@pytest.mark.parametrize("epochs", [9, 6], ids=["more", "fewer"])
def test_a_backup_goes_on_to_another_number_of_epochs(tmp_path: Path, epochs: int) -> None:
    """The LR goes on from where it was, and comes to its end at the new last step."""

    def backup() -> Any:
        return keras.callbacks.BackupAndRestore(str(tmp_path / "backup"))

    jobs = KeptJobs()
    with pytest.raises(KeyboardInterrupt):
        fit(compiled(), tuned(transport=jobs), backup(), Interruption(), epochs=7)
    model, callback = compiled(), tuned(transport=jobs)
    fit(model, callback, backup(), epochs=epochs)
    assert_whole_decay(callback, epochs * N_BATCHES)
    assert int(model.optimizer.iterations) == epochs * N_BATCHES
    before, after = lrs(callback)[4 * N_BATCHES - 1 : 4 * N_BATCHES + 1]
    assert after == pytest.approx(before, rel=0.2)


def test_a_backup_without_a_tuner_leaves_the_epochs_that_it_has_not_made(tmp_path: Path) -> None:
    def backup() -> Any:
        return keras.callbacks.BackupAndRestore(str(tmp_path / "backup"))

    with pytest.raises(KeyboardInterrupt):
        fit(compiled(), backup(), Interruption(), epochs=7)
    callback = tuned()
    fit(compiled(), callback, backup(), epochs=9)
    assert_whole_decay(callback, 5 * N_BATCHES)


class Assigns(keras.callbacks.Callback):  # type: ignore[misc]  # Keras' types are not read
    """A user's own."""

    def __init__(self, hook: str) -> None:
        super().__init__()
        setattr(self, hook, self._assign)

    def _assign(self, number: int, logs: Any = None) -> None:
        self.model.optimizer.learning_rate = 0.007


@pytest.mark.parametrize("first", [True, False], ids=["before the tuner", "after the tuner"])
@pytest.mark.parametrize(
    "other",
    [
        lambda: keras.callbacks.LearningRateScheduler(lambda epoch, lr: BASE * 0.5**epoch),
        lambda: keras.callbacks.ReduceLROnPlateau(monitor="loss", patience=0, min_delta=100),
        lambda: Assigns("on_epoch_begin"),
        lambda: Assigns("on_epoch_end"),
        lambda: Assigns("on_train_batch_begin"),
        lambda: Assigns("on_train_batch_end"),
    ],
    ids=["LearningRateScheduler", "ReduceLROnPlateau", "begin", "end", "batch begin", "batch end"],
)
def test_another_callback_that_sets_the_lr_is_named_once(
    other: Any, first: bool, caplog: pytest.LogCaptureFixture
) -> None:
    others, callback = [other()], tuned()
    with caplog.at_level(logging.WARNING, "lrpilot"):
        fit(compiled(), *(others if first else []), callback, *([] if first else others))
    assert len(said(caplog)) == 1
    assert MEDDLED in said(caplog)[0]


def test_an_lr_that_is_set_as_an_epoch_begins_is_not_used() -> None:
    used: list[float] = []

    class Reads(keras.callbacks.Callback):  # type: ignore[misc]  # Keras' types are not read
        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            [lr] = callback._keras.lrs() if callback._keras else []
            used.append(lr)

    callback = tuned()
    fit(compiled(), callback, Assigns("on_epoch_begin"), Assigns("on_epoch_end"), Reads())
    assert used == pytest.approx(lrs(callback), rel=1e-5)


def test_a_schedule_in_mid_run_is_noticed_and_does_not_end_the_training(caplog: pytest.LogCaptureFixture) -> None:
    class Schedules(keras.callbacks.Callback):  # type: ignore[misc]  # Keras' types are not read
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            if epoch == 2:
                optimizer.learning_rate = keras.optimizers.schedules.ExponentialDecay(0.2, 10, 0.9)

    optimizer = keras.optimizers.SGD(BASE)
    with caplog.at_level(logging.WARNING, "lrpilot"):
        fit(compiled(optimizer), tuned(), Schedules())
    assert len(said(caplog)) == 1
    assert MEDDLED in said(caplog)[0]
    with pytest.raises(lrpilot.ConfigError, match="is a schedule"):
        fit(compiled(optimizer), tuned())


def test_a_budget_that_fit_cuts_off_is_said(caplog: pytest.LogCaptureFixture) -> None:
    fit(compiled(), tuned(total_steps=500))
    [text] = said(caplog)
    assert "total_steps is 500, and fit makes 30" in text
    assert "leave total_steps out" in text


@pytest.mark.filterwarnings("ignore:Your input ran out of data:UserWarning")
def test_data_without_a_length_are_said(caplog: pytest.LogCaptureFixture) -> None:
    batches = ((INPUTS[i : i + BATCH], TARGETS[i : i + BATCH]) for i in range(0, len(INPUTS), BATCH))
    fit(compiled(), tuned(), epochs=1, x=batches, y=None, batch_size=None, shuffle=False)
    [text] = said(caplog)
    assert "give fit steps_per_epoch, or TunerCallback total_steps" in text
