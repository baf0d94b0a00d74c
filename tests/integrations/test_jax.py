"""The tuner in a functional training loop: JAX and Optax."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import lrpilot
import numpy as np
import optax
import pytest
from lrpilot.errors import RefusedError
from lrpilot.integrations.jax import ReplaySchedule, Tuner
from lrpilot.transport.scripted import ScriptedTransport
from lrpilot.v1 import tuner_pb2 as pb

from benchmarks.quality.local import LocalTransport
from tests.support.repository import example_programs
from tests.support.servers.server_process import ServerProcess
from tests.support.training.scripted_directives import directive, probe, training

ROOT = Path(__file__).parents[2]
N_BATCHES, BATCH = 6, 16
OPTIONS = {"tau": 20, "tau_prime": 6, "candidates": 3, "forecaster": "last_value"}

# Compiling takes half the time. It is the same for a run and for the one that it is compared with.
jax.config.update("jax_disable_most_optimizations", True)

optimizer = optax.inject_hyperparams(optax.adamw)(learning_rate=0.01)


class Blobs:
    """Two blobs, shuffled and augmented from NumPy's global random state."""

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        fixed = np.random.default_rng(7)
        targets = np.arange(N_BATCHES * BATCH) % 2
        inputs = fixed.normal(size=(N_BATCHES * BATCH, 8)) + targets[:, None]
        for rows in np.random.permutation(len(targets)).reshape(-1, BATCH):
            noise = 0.1 * np.random.normal(size=(BATCH, 8))
            yield np.float32(inputs[rows] + noise), np.float32(targets[rows])


def initial(transformation: Any = optimizer) -> dict[str, Any]:
    """Parameters, optimizer state, a typed key, and a running mean in half precision."""
    key, init = jax.random.split(jax.random.key(0))
    params = {"w": 0.1 * jax.random.normal(init, (8,)), "b": jnp.zeros(())}
    return {"params": params, "opt": transformation.init(params), "key": key, "mean": jnp.zeros(8, jnp.bfloat16)}


class Step:
    """A compiled step with dropout, which donates its state, and how often it was compiled."""

    def __init__(self, transformation: Any = optimizer) -> None:
        self.n_traces = 0
        self.lrs: list[Any] = []
        self._compiled = jax.jit(functools.partial(self._update, transformation), donate_argnums=0)

    def __call__(self, state: Any, batch: Any) -> Any:
        if "opt" in state and hasattr(state["opt"], "hyperparams"):
            self.lrs.append(float(state["opt"].hyperparams["learning_rate"]))
        return self._compiled(state, batch)

    def _update(self, transformation: Any, state: Any, batch: Any) -> Any:
        self.n_traces += 1
        key, dropout = jax.random.split(state["key"])
        x, y = batch

        def mean_loss(params: Any) -> Any:
            kept = x * jax.random.bernoulli(dropout, 0.8, x.shape)
            return optax.sigmoid_binary_cross_entropy(kept @ params["w"] + params["b"], y).mean()

        loss, gradients = jax.value_and_grad(mean_loss)(state["params"])
        updates, opt = transformation.update(gradients, state["opt"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        mean = 0.9 * state["mean"] + 0.1 * x.mean(0).astype(jnp.bfloat16)
        return {"params": params, "opt": opt, "key": key, "mean": mean}, loss


def train(tuner: Tuner[Any], step: Any, until: int | None = None) -> None:
    for n, batch in enumerate(tuner.batches(Blobs()), start=1):
        tuner.state, loss = step(tuner.state, batch)
        tuner.step(loss)
        if n == until:
            break


def everything(state: Any) -> list[bytes]:
    """Bit for bit, with the random state."""
    leaves = [jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x for x in _leaves(state)]
    return [np.asarray(leaf).tobytes() for leaf in leaves] + [
        np.random.get_state(legacy=False)["state"]["key"].tobytes()
    ]


def _leaves(state: Any) -> list[Any]:
    leaves: list[Any] = jax.tree.leaves(state)
    return leaves


PROBED = [
    directive(pb.PHASE_TRAIN, 0.02, 5),
    directive(pb.PHASE_PROBE, 10.0, 9),
    directive(pb.PHASE_PROBE, 0.5, 14, restore=True),
    directive(pb.PHASE_TRAIN, 0.03, 10, restore=True),
]


def scripted(directives: list[pb.Directive], **arguments: Any) -> Tuner[Any]:
    np.random.seed(0)
    total = sum(each.n_steps for each in directives)
    state = arguments.pop("state", None) or initial()
    return Tuner(state, transport=ScriptedTransport(directives), total_steps=total, **arguments)


def test_probes_leave_no_trace_and_compile_nothing() -> None:
    """Invariant 3: the bare loop knows neither tuner nor probes. Optax's own count is in the state."""
    np.random.seed(0)
    state, bare, batches = initial(), Step(), iter(_endless())
    for lr in [0.02] * 5 + [0.03] * 10:
        state["opt"].hyperparams["learning_rate"] = jnp.asarray(lr, jnp.float32)
        state, _ = bare(state, next(batches))

    step = Step()
    tuner = scripted(PROBED, validate=lambda state: state["params"]["w"].sum() + np.random.normal())
    train(tuner, step)
    assert everything(tuner.state) == everything(state)
    assert int(tuner.state["opt"].count) == 15
    assert step.n_traces == 1
    # Invariant 4: every probe starts at its own LR.
    assert step.lrs == pytest.approx([0.02] * 5 + [10.0] * 9 + [0.5] * 14 + [0.03] * 10)


def test_a_metric_is_minimised_as_minus_it_and_shown_as_it_is() -> None:
    script = [probe(0.5, 4, first=True, validate_at=[4]), training(0.03, 6, restore=True, validate_at=[2, 6])]
    tuner = scripted(script, validate=lambda state: state["params"]["w"].sum(), mode="max")
    train(tuner, Step())
    lower = scripted(script, validate=lambda state: -state["params"]["w"].sum())
    train(lower, Step())
    schedule = tuner.schedule
    shown = [each.loss for probe in schedule.probes for each in probe.validations]
    assert len(shown) == 1
    assert [each.loss for each in schedule.validations] == [-each.loss for each in lower.schedule.validations]
    assert shown == [-each.loss for probe in lower.schedule.probes for each in probe.validations]
    assert (schedule.mode, schedule.losses) == ("max", lower.schedule.losses)


def _endless() -> Iterator[Any]:
    while True:
        yield from Blobs()


def test_a_step_that_donates_nothing_needs_no_copies() -> None:
    class Plain(Step):
        def __init__(self) -> None:
            super().__init__()
            self._compiled = jax.jit(functools.partial(self._update, optimizer))

    finals = []
    for step, donates in ((Step(), True), (Plain(), False)):
        tuner = scripted(PROBED, donates=donates)
        train(tuner, step)
        finals.append(everything(tuner.state))
    assert finals[0] == finals[1]


def test_several_injected_optimizers_keep_their_ratios() -> None:
    """Invariant 5, at any depth: inside a chain, a partition, and another injection."""
    several = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.partition(
            {
                "w": optax.inject_hyperparams(optax.sgd)(learning_rate=0.1),
                "b": optax.inject_hyperparams(optax.masked, static_args=("inner", "mask"))(
                    inner=optax.inject_hyperparams(optax.adam)(learning_rate=0.01), mask=True
                ),
            },
            {"w": "w", "b": "b"},
        ),
    )
    tuner = scripted(PROBED, state=initial(several))
    step = Step(several)
    assert sorted(tuner.get_last_lr()) == pytest.approx([0.02, 0.2])
    train(tuner, step)
    assert sorted(tuner.get_last_lr()) == pytest.approx([0.03, 0.3])
    assert step.n_traces == 1


@pytest.mark.parametrize(
    ("transformation", "message"),
    [
        (optax.adamw(0.01), "no learning rate in it"),
        (optax.inject_hyperparams(optax.sgd)(learning_rate=optax.constant_schedule(0.1)), "is a schedule"),
        (optax.inject_hyperparams(optax.sgd)(learning_rate=0.0), "must be positive"),
    ],
)
def test_a_state_without_a_rate_to_tune_is_refused(transformation: Any, message: str) -> None:
    with pytest.raises(lrpilot.ConfigError, match=message):
        scripted(PROBED, state=initial(transformation))


def test_a_probe_that_diverges_ends_early() -> None:
    """Invariant 8."""
    tuner = scripted([directive(pb.PHASE_PROBE, 1.0, 40), directive(pb.PHASE_TRAIN, 0.03, 10, restore=True)])

    def exploding(state: Any, batch: Any) -> Any:
        return state, jnp.asarray(jnp.nan if tuner.searching else 1.0)

    train(tuner, exploding)
    assert tuner.schedule.probes[0].diverged
    assert tuner.schedule.probes[0].n_steps < 40


def losses_at(tuner: Tuner[Any], step: Step) -> None:
    for batch in tuner.batches(Blobs()):
        tuner.state, loss = step(tuner.state, batch)
        tuner.step(loss)


def test_every_run_begins_at_the_lr_that_was_set() -> None:
    """The state of the last run, whose LR has decayed; then one with another LR in it; then a fresh one."""
    step, state = Step(), initial()
    for _ in range(3):
        with Tuner(state, transport=LocalTransport(), total_steps=20) as tuner:
            losses_at(tuner, step)
        state = tuner.state
        assert float(state["opt"].hyperparams["learning_rate"]) < 0.001
        assert max(tuner.schedule.lrs()) == pytest.approx(0.01)
    state["opt"].hyperparams["learning_rate"] = jnp.float32(0.007)
    for expected in (0.007, 0.01):
        with Tuner(state, transport=LocalTransport(), total_steps=20) as tuner:
            losses_at(tuner, step)
        assert max(tuner.schedule.lrs()) == pytest.approx(expected)
        state = initial()


def test_a_loop_that_sets_the_lr_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    step = Step()
    script = [directive(pb.PHASE_TRAIN, 0.01, 4), directive(pb.PHASE_TRAIN, 0.02, 4)]
    with Tuner(initial(), transport=ScriptedTransport(script), total_steps=8) as tuner:
        for batch in tuner.batches(Blobs()):
            tuner.state["opt"].hyperparams["learning_rate"] = jnp.float32(0.5)
            tuner.state, loss = step(tuner.state, batch)
            tuner.step(loss)
    assert caplog.text.count("something else sets it too; take out the scheduler, callback or assignment") == 1


def test_a_saved_schedule_drives_a_new_run_without_a_server(tmp_path: Path) -> None:
    """Bit for bit, inside `jit`, with the LRs of a whole job: warm-up, stages, decay."""
    np.random.seed(0)
    tuner = Tuner(
        initial(), transport=LocalTransport(), total_steps=90, lr_bounds=(1e-4, 0.3), policy="autolrs",
        policy_options={**OPTIONS, "warmup_steps": 5},
    )  # fmt: skip
    train(tuner, Step())
    tuner.schedule.save(tmp_path / "schedule.json")
    assert tuner.search_steps > 0

    schedule = lrpilot.Schedule.load(tmp_path / "schedule.json")
    replayed = optax.inject_hyperparams(optax.adamw)(learning_rate=ReplaySchedule(schedule))
    np.random.seed(0)
    state, step, batches = initial(replayed), Step(replayed), iter(_endless())
    for _ in range(schedule.n_steps):
        state, _ = step(state, next(batches))
    assert everything(state["params"]) == everything(tuner.state["params"])
    assert step.n_traces == 1
    lr = ReplaySchedule(schedule)
    assert lr(10**6) == np.float32(schedule.lr(10**6))


def test_an_empty_schedule_is_not_replayed() -> None:
    with pytest.raises(lrpilot.ScheduleError, match="no steps"):
        ReplaySchedule(lrpilot.Schedule("", "", "", (0.1,), None, ()))


@pytest.fixture(scope="module")
def compiled() -> Step:
    """One step for many runs."""
    return Step()


@pytest.mark.parametrize("interrupted_after", [3, 9, 47])
def test_a_checkpoint_goes_on_as_if_nothing_had_happened(
    shared_server: ServerProcess, compiled: Step, interrupted_after: int
) -> None:
    """In a probe, in a later probe, and in committed steps; the state is the user's to save."""

    def tuned(state: Any) -> Tuner[Any]:
        np.random.seed(0)
        return Tuner(
            state, server=shared_server.target, total_steps=80, lr_bounds=(1e-4, 0.3), policy="autolrs",
            policy_options=OPTIONS, seed=3,
        )  # fmt: skip

    whole = tuned(initial())
    train(whole, compiled)

    first = tuned(initial())
    train(first, compiled, until=interrupted_after)
    leaves, structure = jax.tree.flatten(first.state)
    saved = jax.tree.unflatten(structure, [leaf.copy() for leaf in leaves]), first.state_dict()
    train(first, compiled, until=5)  # Lost.

    second = tuned(saved[0])
    second.load_state_dict(saved[1])
    train(second, compiled)
    assert everything(second.state) == everything(whole.state)
    assert second.schedule.segments == whole.schedule.segments
    assert second.schedule.losses == whole.schedule.losses


def test_a_checkpoint_of_another_structure_is_refused() -> None:
    saved = scripted(PROBED).state_dict()
    other = scripted(PROBED, state={**initial(), "more": jnp.zeros(3)})
    with pytest.raises(lrpilot.ConfigError, match="leaves"):
        other._jax.load_state_dict(saved["snapshot"])


def test_pytorch_is_not_imported() -> None:
    code = "import sys, lrpilot.integrations.jax; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
def test_the_example_runs(shared_server: ServerProcess, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed = example_programs.run("jax_digits", shared_server.target, tmp_path, capsys)
    assert "search steps" in printed
    assert "replayed: validation loss" in printed


def test_what_jax_can_not_measure_is_not_recorded(shared_server: ServerProcess) -> None:
    with pytest.raises(RefusedError, match=r"recorded.*can't measure gradient_norm; leave it out"):
        Tuner(initial(), server=shared_server.target, total_steps=100, record=("gradient_norm",))
