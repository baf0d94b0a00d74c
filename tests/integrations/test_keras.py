"""The tuner in Keras' `fit`. This process has one backend, a second process runs the same tests on the other."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras  # the backend is chosen once, before the import
import lrpilot
from lrpilot.backends.keras_backend import to_numpy
from lrpilot.integrations.keras import ReplaySchedule, TunerCallback
from lrpilot.run.driver import Driver
from lrpilot.transport.scripted import ScriptedTransport
from lrpilot.v1 import tuner_pb2 as pb

from benchmarks.quality.local import LocalTransport
from tests.support.jobs.kept_jobs import KeptJobs
from tests.support.repository import example_programs
from tests.support.servers.server_process import ServerProcess
from tests.support.training.scripted_directives import directive

# Keras' variables implement NumPy's protocol of old.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

ROOT = Path(__file__).parents[2]
N_BATCHES, BATCH = 6, 16
OPTIONS = {"tau": 16, "tau_prime": 5, "candidates": 3, "forecaster": "last_value"}

_fixed = np.random.default_rng(7)
TARGETS = (np.arange(N_BATCHES * BATCH) % 2).astype(np.float32)[:, None]
INPUTS = _fixed.normal(size=(N_BATCHES * BATCH, 8)).astype(np.float32) + TARGETS


def compiled(learning_rate: Any = 0.03, **arguments: Any) -> Any:
    """Batch norm, dropout, a metric, and an optimizer that counts."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [keras.Input((8,)), layers.Dense(6), layers.BatchNormalization(), layers.Dropout(0.3), layers.Dense(1)]
    )
    optimizer = keras.optimizers.Adam(learning_rate)
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["mae"], **arguments)
    return model


def fit(model: Any, *callbacks: Any, epochs: int = 3, **arguments: Any) -> Any:
    keras.utils.set_random_seed(1)
    arguments = {"validation_data": (INPUTS[:32], TARGETS[:32]), "verbose": 0, **arguments}
    return model.fit(INPUTS, TARGETS, batch_size=BATCH, epochs=epochs, callbacks=list(callbacks), **arguments)


def everything(model: Any) -> list[Any]:
    """Weights, statistics, seeds, the optimizer's variables, and the global random states. Bit for bit."""
    values = [to_numpy(v).tobytes() for v in [*model.variables, *model.optimizer.variables]]
    return [*values, np.random.get_state(legacy=False)]


def assert_same(a: list[Any], b: list[Any]) -> None:
    np.testing.assert_equal(a, b)


SEARCH_AT_THE_START = [
    directive(pb.PHASE_PROBE, 10.0, 9),
    directive(pb.PHASE_PROBE, 0.5, 8, restore=True),
    directive(pb.PHASE_TRAIN, 0.03, 18, restore=True, validate_at=[4]),
]
SEARCH_WITHIN_AN_EPOCH = [
    directive(pb.PHASE_TRAIN, 0.03, 8),
    directive(pb.PHASE_PROBE, 0.5, 8, validate_at=[8]),
    directive(pb.PHASE_PROBE, 10.0, 9, restore=True),
    directive(pb.PHASE_TRAIN, 0.03, 10, restore=True),
]


class Seen(keras.callbacks.Callback):  # type: ignore[misc]  # Keras' types are not read
    """What other callbacks see."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[tuple[int, dict[str, float]]] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.batches.append((batch, {key: float(value) for key, value in logs.items()}))


def scripted(directives: list[pb.Directive], **arguments: Any) -> tuple[TunerCallback, ScriptedTransport]:
    transport = ScriptedTransport(directives)
    total = sum(each.n_steps for each in directives)
    data = arguments.pop("data", (INPUTS, TARGETS))
    batch_size = BATCH if isinstance(data, tuple) else None
    return TunerCallback(data, batch_size=batch_size, transport=transport, total_steps=total, **arguments), transport


@pytest.mark.parametrize("script", [SEARCH_AT_THE_START, SEARCH_WITHIN_AN_EPOCH], ids=["at the start", "within"])
def test_probes_leave_no_trace_in_model_optimizer_logs_and_history(script: list[pb.Directive]) -> None:
    """Invariant 3. Keras' own count of steps is one of the optimizer's variables; validation runs in between."""
    bare, seen_bare = compiled(), Seen()
    history = fit(bare, seen_bare)

    model, seen = compiled(), Seen()
    callback, transport = scripted(script, validate=lambda: model.evaluate(INPUTS, TARGETS, verbose=0)[0])
    tuned_history = fit(model, callback, seen)

    assert_same(everything(model), everything(bare))
    assert tuned_history.history == history.history
    assert seen.batches == seen_bare.batches
    assert int(model.optimizer.iterations) == 18
    assert sum(len(report.losses) for report in transport.reports) == sum(each.n_steps for each in script)
    assert sum(len(report.validations) for report in transport.reports) == 1


def test_a_metric_is_minimised_as_minus_it_and_shown_as_it_is() -> None:
    model, given = compiled(), list[float]()

    def metric() -> float:
        given.append(-float(model.evaluate(INPUTS, TARGETS, verbose=0)[0]))
        return given[-1]

    callback, transport = scripted(SEARCH_AT_THE_START, validate=metric, mode="max")
    fit(model, callback)
    assert transport.config.maximises
    (reported,) = [each.loss for report in transport.reports for each in report.validations]
    assert reported == pytest.approx(-given[-1])
    assert [each.loss for each in callback.schedule.validations] == [pytest.approx(given[-1])]
    assert (callback.schedule.mode, repr(callback.tuner)[:7]) == ("max", "<Tuner ")


def test_losses_are_those_of_the_batches() -> None:
    model = compiled()
    callback, _ = scripted([directive(pb.PHASE_TRAIN, 0.03, 18)])
    history = fit(model, callback)
    losses = np.reshape(callback.schedule.losses, (3, N_BATCHES))
    assert losses.mean(axis=1) == pytest.approx(history.history["loss"], rel=1e-5)
    assert np.unique(losses).size == losses.size


def test_the_lr_follows_a_profile_and_every_probe_starts_at_its_own() -> None:
    """Invariant 4, read off where the weights went: plain SGD moves them by LR times gradient."""
    used: list[float] = []

    class Recording(keras.optimizers.SGD):  # type: ignore[misc]  # Keras' types are not read
        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            used_lr.assign(learning_rate)
            super().update_step(gradient, variable, learning_rate)

    model = compiled()
    decay = pb.Profile(shape="linear", start_lr=0.05, end_lr=0.0, length=10)
    script = [
        pb.Directive(phase=pb.PHASE_TRAIN, n_steps=6, profile=decay, snapshot=True),
        directive(pb.PHASE_PROBE, 0.02, 2),
        pb.Directive(phase=pb.PHASE_TRAIN, n_steps=4, profile=decay, restore=True),
    ]
    script[2].profile.offset = 6
    callback, _ = scripted(script)
    optimizer = Recording(0.1)
    used_lr = optimizer.add_variable((), name="used_lr")
    model.compile(optimizer, "mse")

    class Reading(keras.callbacks.Callback):  # type: ignore[misc]  # Keras' types are not read
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if keras.config.backend() == "jax":
                model.jax_state_sync()
            used.append(float(to_numpy(used_lr)))

    # Before the tuner, which sets the next LR.
    fit(model, Reading(), callback)
    assert used == pytest.approx([0.05 * (1 - step / 10) for step in range(10)])


def test_a_run_spends_its_budget_and_stops() -> None:
    """Invariant 7: what `fit` was asked for, search included."""
    model = compiled()
    callback = TunerCallback(
        (INPUTS, TARGETS), batch_size=BATCH, transport=LocalTransport(), lr_bounds=(1e-4, 0.3), policy="autolrs",
        policy_options={**OPTIONS, "warmup_steps": 0},
    )  # fmt: skip
    fit(model, callback, epochs=12)
    driver = callback.tuner
    assert driver is not None
    assert driver.finished
    assert driver.committed_step + driver.search_steps == 72
    assert driver.search_steps > 0
    assert int(model.optimizer.iterations) == driver.committed_step == callback.schedule.n_steps


class Batches(keras.utils.PyDataset):  # type: ignore[misc]  # Keras' types are not read
    """Two batches, by number."""

    def __init__(self) -> None:
        super().__init__()

    def __len__(self) -> int:
        return 2

    def __getitem__(self, place: int) -> Any:
        return INPUTS[:BATCH], TARGETS[:BATCH], np.ones(BATCH, np.float32)


def test_a_search_reads_a_dataset_or_batches() -> None:
    losses = []
    for data in (Batches(), [tuple(Batches()[place]) for place in range(2)]):
        model = compiled()
        callback, transport = scripted(SEARCH_AT_THE_START, data=data)
        fit(model, callback)
        losses.append([list(report.losses) for report in transport.reports])
    assert losses[0] == losses[1]


def test_a_probe_that_diverges_ends_early() -> None:
    """Invariant 8: the weights come back."""
    model = compiled()
    model.compile(keras.optimizers.SGD(0.01), "mse")
    callback, _ = scripted([directive(pb.PHASE_PROBE, 1e12, 40), directive(pb.PHASE_TRAIN, 0.01, 18, restore=True)])
    fit(model, callback)
    assert callback.schedule.probes[0].diverged
    assert callback.schedule.probes[0].n_steps < 40
    assert all(np.isfinite(to_numpy(weight)).all() for weight in model.weights)


class Silent(keras.Model):  # type: ignore[misc]  # Keras' types are not read
    """Has a training step that tells nobody its loss."""

    def train_step(self, *arguments: Any) -> Any:
        if keras.config.backend() == "jax":
            return {}, arguments[0]
        return {}


def test_what_can_not_be_tuned_is_refused() -> None:
    with pytest.raises(lrpilot.ConfigError, match="is a schedule"):
        fit(compiled(keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5)), scripted(SEARCH_AT_THE_START)[0])
    with pytest.raises(lrpilot.ConfigError, match="must be positive"):
        fit(compiled(0.0), scripted(SEARCH_AT_THE_START)[0])
    model = compiled()
    model.compile(keras.optimizers.SGD(0.1, gradient_accumulation_steps=2), "mse")
    with pytest.raises(lrpilot.ConfigError, match="gradient_accumulation_steps"):
        fit(model, scripted(SEARCH_AT_THE_START)[0])
    if keras.config.backend() == "jax":  # PyTorch's refuses it itself.
        with pytest.raises(lrpilot.ConfigError, match="steps_per_execution"):
            fit(compiled(steps_per_execution=2), scripted(SEARCH_AT_THE_START)[0])
    with pytest.raises(lrpilot.ConfigError, match="batch_size"):
        TunerCallback((INPUTS, TARGETS))
    with pytest.raises(lrpilot.ConfigError, match="no run yet"):
        _ = scripted(SEARCH_AT_THE_START)[0].schedule


def test_a_training_step_without_a_loss_is_refused() -> None:
    inputs = keras.Input((8,))
    model = Silent(inputs, keras.layers.Dense(1)(inputs))
    model.compile(keras.optimizers.SGD(0.1), "mse")
    with pytest.raises(lrpilot.ConfigError, match="loss tracker"):
        fit(model, scripted([directive(pb.PHASE_TRAIN, 0.03, 18)])[0])


def test_a_saved_schedule_drives_a_new_run_without_a_server(tmp_path: Path) -> None:
    model = compiled()
    decay = pb.Profile(shape="cosine", start_lr=0.1, end_lr=0.001, length=18, warmup=3)
    script = [*SEARCH_AT_THE_START[:2], pb.Directive(phase=pb.PHASE_TRAIN, n_steps=18, profile=decay, restore=True)]
    callback, _ = scripted(script)
    history = fit(model, callback)
    callback.schedule.save(tmp_path / "schedule.json")

    replayed = compiled(ReplaySchedule(lrpilot.Schedule.load(tmp_path / "schedule.json")))
    replayed_history = fit(replayed)
    weights = [to_numpy(weight) for weight in model.weights]
    np.testing.assert_equal([to_numpy(weight) for weight in replayed.weights], weights)
    assert replayed_history.history == history.history

    # The schedule is saved with the model.
    replayed.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert isinstance(loaded.optimizer._learning_rate, ReplaySchedule)
    assert float(loaded.optimizer.learning_rate) == np.float32(0.001) or int(loaded.optimizer.iterations) == 18
    with pytest.raises(lrpilot.ScheduleError, match="no steps"):
        ReplaySchedule(lrpilot.Schedule("", "", "", (0.1,), None, ()))


class Interruption(keras.callbacks.Callback):  # type: ignore[misc]  # Keras' types are not read
    """The process dies when an epoch begins."""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if epoch == 4:
            raise KeyboardInterrupt


def test_keras_checkpoints_carry_the_tuner(shared_server: ServerProcess, tmp_path: Path) -> None:
    """After the interruption the run comes out as if there had been none."""

    def tuned() -> TunerCallback:
        return TunerCallback(
            (INPUTS, TARGETS), batch_size=BATCH, server=shared_server.target, lr_bounds=(1e-4, 0.3), policy="autolrs",
            policy_options=OPTIONS, seed=3,
        )  # fmt: skip

    whole, whole_tuner = compiled(), tuned()
    fit(whole, whole_tuner, epochs=12)

    interrupted = compiled()
    saving = keras.callbacks.ModelCheckpoint(str(tmp_path / "{epoch}.keras"))
    backup = keras.callbacks.BackupAndRestore(str(tmp_path / "backup"))
    with pytest.raises(KeyboardInterrupt):
        fit(interrupted, tuned(), saving, backup, Interruption(), epochs=12)

    resumed, tuner = compiled(), tuned()
    backup = keras.callbacks.BackupAndRestore(str(tmp_path / "backup"))
    keras.utils.set_random_seed(99)
    resumed.fit(
        INPUTS, TARGETS, batch_size=BATCH, epochs=12, callbacks=[tuner, backup], verbose=0,
        validation_data=(INPUTS[:32], TARGETS[:32]),
    )  # fmt: skip
    assert tuner.schedule.segments == whole_tuner.schedule.segments
    assert tuner.schedule.losses == whole_tuner.schedule.losses
    assert_same(everything(resumed), everything(whole))

    # The same by hand, from a file of the whole model.
    loaded, tuner = keras.saving.load_model(tmp_path / "4.keras"), tuned()
    tuner.set_model(loaded)
    loaded.load_weights(tmp_path / "4.keras")
    loaded.fit(
        INPUTS, TARGETS, batch_size=BATCH, epochs=12, initial_epoch=4, callbacks=[tuner], verbose=0,
        validation_data=(INPUTS[:32], TARGETS[:32]),
    )  # fmt: skip
    assert tuner.schedule.losses == whole_tuner.schedule.losses
    assert_same(everything(loaded), everything(whole))
    # Files of a run that is over, or was never tuned, hold nothing of the tuner.
    assert not hasattr(loaded, "lrpilot")


@pytest.mark.slow
def test_the_example_runs(shared_server: ServerProcess, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed = example_programs.run("keras_digits", shared_server.target, tmp_path, capsys)
    assert "probes" in printed
    assert "replayed: validation loss" in printed


QUICK = "trace and within"
ON_JAX = """
import sys, keras
before = "torch" in sys.modules
import lrpilot.integrations.keras
assert before == ("torch" in sys.modules), "PyTorch is imported for JAX"
import pytest
sys.exit(pytest.main(sys.argv[1:]))
"""
"""One process for that and for the tests: each would import and compile for many seconds."""


@pytest.mark.timeout(600)  # Minutes of compiling, on a machine that is busy.
@pytest.mark.parametrize("which", [QUICK, pytest.param(f"not ({QUICK}) and not example", marks=pytest.mark.slow)])
def test_all_of_this_on_jax_without_an_import_of_pytorch(which: str) -> None:
    command = [
        sys.executable,
        "-c",
        ON_JAX,
        "-q",
        "-p",
        "no:cacheprovider",
        "-k",
        f"({which}) and not on_jax",
        __file__,
        str(Path(__file__).with_name("test_keras_lr.py")),
    ]
    # What is run is the same, and it is compiled in half the time.
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    run = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


class At(keras.callbacks.Callback):  # type: ignore[misc]  # its types are not read
    """Does something once, in a hook, at a step of `fit`."""

    def __init__(self, hook: str, step: int, act: Any) -> None:
        super().__init__()
        self._step, self._act, self._n = step, act, 0
        setattr(self, hook, self._maybe)

    def _maybe(self, batch: int, logs: Any = None) -> None:
        self._n += 1
        if self._n == self._step:
            self._act()


def running(pilot: TunerCallback) -> Driver:
    """The driver of the present `fit`."""
    assert pilot.tuner is not None
    return pilot.tuner


@pytest.mark.parametrize("hook", ["on_train_batch_begin", "on_train_batch_end"])
@pytest.mark.parametrize("first", [True, False], ids=["before the tuner", "after the tuner"])
def test_a_plan_that_changes_in_mid_fit_takes_effect_after_the_step(hook: str, first: bool) -> None:
    """A search in other data, and then an annealing, with which `fit` ends; its own count has no step of a search."""
    jobs = KeptJobs()
    pilot = TunerCallback(
        (INPUTS, TARGETS),
        batch_size=BATCH,
        transport=jobs,
        lr_bounds=(1e-3, 0.1),
        policy_options={"probe_steps": 5, "refinements": 0, "max_candidates": 4},
    )
    changes = [
        At(hook, 100, lambda: running(pilot).replan("other data")),
        At(hook, 300, lambda: running(pilot).anneal(10)),
    ]
    model = compiled()
    fit(model, *([*changes, pilot] if first else [pilot, *changes]), epochs=100)
    driver, state = running(pilot), jobs.state
    assert driver.finished
    assert (state.committed_steps, state.search_steps) == (driver.committed_step, driver.search_steps)
    kinds = [entry.directive.change.kind.value for entry in jobs.history if entry.directive.change]
    assert kinds == ["replan", "anneal"]
    assert 305 <= state.committed_steps + state.given_back_steps <= 315
