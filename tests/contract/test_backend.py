"""What `lrpilot.backends.base` promises, in every framework."""

from __future__ import annotations

import itertools
import math
import os
import pkgutil
import random
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lrpilot.backends.weight_average import WeightAverage
from lrpilot.errors import ConfigError
from lrpilot.rng import RandomState
from lrpilot.wire.divergence import BAD_LOSSES

from tests.support.backends.distributed_run import DistributedRun, group_of_one
from tests.support.backends.jax_run import JaxRun
from tests.support.backends.keras_run import KerasRun
from tests.support.backends.numpy_run import NumpyRun
from tests.support.backends.small_run import WIDTH, SmallRun, Validate
from tests.support.backends.torch_run import TorchRun

# Keras' variables implement NumPy's protocol of old.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

ROOT = Path(__file__).parents[2]
KINDS: dict[str, Callable[..., SmallRun]] = {
    "torch": TorchRun,
    "distributed": DistributedRun,
    "jax": JaxRun,
    "keras": KerasRun,
    "numpy": NumpyRun,
}
"""To add a framework, write a small run in it, and name it here; one from elsewhere is given as `--backend`."""
WILD_LR = 3.0
LIMIT = 3.0

Make = Callable[..., SmallRun]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Runs every test on each of these frameworks, or on that of `--backend` alone."""
    if "make" in metafunc.fixturenames:
        given = metafunc.config.getoption("--backend", None)
        kinds = {given: pkgutil.resolve_name(given)} if given else KINDS
        metafunc.parametrize("make", kinds.values(), ids=kinds, indirect=True)


@pytest.fixture
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    """Makes runs of one kind, all of which begin alike."""
    kind: Callable[..., SmallRun] = request.param

    def made(validate: Validate | None = None, **shape: int) -> SmallRun:
        random.seed(0)
        np.random.seed(0)
        return kind(validate, **shape)

    if kind is not DistributedRun:
        yield made
        return
    with group_of_one(tmp_path / "meeting point"):
        yield made


def present(run: SmallRun) -> list[object]:
    """All that the run has left, with the random state."""
    states = RandomState.capture().state_dict()
    return [*run.bits(), {**states, "torch": states["torch"].numpy().tobytes()}]


def assert_same(found: Sequence[object], expected: Sequence[object]) -> None:
    np.testing.assert_equal(found, expected)


def steps(run: SmallRun, numbers: Sequence[int], lr: float | None = None) -> list[float]:
    """Makes steps on batches, at one LR, or at that which is set; their losses."""
    if lr is not None:
        run.backend.set_lr(lr)
    run.backend.begin(len(numbers))
    for number in numbers:
        assert run.backend.append(run.step(number))
    return run.backend.flush()


def collected(run: SmallRun, losses: Iterable[Any]) -> None:
    """Hands in losses of steps."""
    for loss in losses:
        run.step(0)
        assert run.backend.append(loss)


def diverged(run: SmallRun) -> bool:
    """What is known by the second look: the first may look behind by one."""
    run.backend.diverged()
    return run.backend.diverged()


# The average of the weights


def averaging(make: Make) -> tuple[SmallRun, WeightAverage]:
    run = make()
    if run.backend.average is None:
        pytest.skip("keeps no average")
    return run, run.backend.average


def test_an_average_leaves_the_run_as_it_is_until_it_is_adopted(make: Make) -> None:
    """Adopted, it is in the model; undone, the run goes on bit for bit."""
    plain = make()
    losses = steps(plain, range(12), 0.02)
    run, average = averaging(make)
    average.begin(4.0, 2)
    assert average.active
    found = steps(run, range(6), 0.02)
    last = present(run)
    average.adopt()
    assert average.adopted
    with pytest.raises(AssertionError):
        assert_same(present(run), last)
    average.undo()
    assert not average.adopted
    assert_same(present(run), last)
    assert_same(found + steps(run, range(6, 12), 0.02), losses)
    assert_same(present(run), present(plain))
    average.adopt()
    adopted = present(run)
    average.end()
    assert not average.active
    assert_same(present(run), adopted)


def test_an_average_of_weights_that_stand_still_is_these(make: Make) -> None:
    run, average = averaging(make)
    steps(run, range(3), 0.02)
    before = present(run)
    average.begin(4.0, 1)
    average.adopt()
    assert_same(present(run), before)


def test_an_average_goes_on_in_another_process(make: Make) -> None:
    run, average = averaging(make)
    average.begin(4.0, 3)
    steps(run, range(4), 0.02)
    saved, state = run.save(), run.through_a_file(average.state_dict())
    random_state = RandomState.capture()
    steps(run, range(4, 9), 0.02)
    average.adopt()
    end = present(run)
    other, resumed = averaging(make)
    other.load(saved)
    resumed.load_state_dict(state)
    random_state.restore()
    steps(other, range(4, 9), 0.02)
    resumed.adopt()
    assert_same(present(other), end)
    run.backend.close()
    assert not average.active


# Probes


@pytest.mark.parametrize("n_before", [0, 3])
def test_a_probe_leaves_no_trace(make: Make, n_before: int) -> None:
    """Weights, optimizer and losses are bitwise those of a run that had the committed batches and LRs alone."""
    plain = make()
    expected = steps(plain, range(n_before), 0.02) + steps(plain, range(n_before, 6), 0.05)
    end = present(plain)

    probed = make()
    losses = steps(probed, range(n_before), 0.02)
    probed.backend.take()
    for lr in (WILD_LR, 0.3):
        steps(probed, range(n_before, n_before + 3), lr)
        probed.backend.restore()
    losses += steps(probed, range(n_before, 6), 0.05)
    assert losses == expected
    assert_same(present(probed), end)


def test_a_snapshot_is_that_of_the_last_take_and_is_restored_as_often_as_one_likes(make: Make) -> None:
    run = make()
    run.backend.take()
    steps(run, [0, 1], 0.1)
    run.backend.take()
    expected = present(run)
    for _ in range(2):
        steps(run, [2, 3], WILD_LR)
        run.backend.restore()
        assert_same(present(run), expected)
        run.backend.restore()
        assert_same(present(run), expected)


def test_committed_steps_are_rolled_back_like_a_probe(make: Make) -> None:
    run = make()
    steps(run, [0, 1], 0.1)
    run.backend.take()
    expected = present(run)
    steps(run, [2, 3], WILD_LR)
    run.backend.restore(committed=True)
    assert_same(present(run), expected)


def test_nothing_can_be_restored_before_something_was_taken(make: Make) -> None:
    with pytest.raises(RuntimeError, match=r"restore\(\) before take\(\)"):
        make().backend.restore()


def test_parts_of_the_data_go_back_with_a_probe_and_stay_with_committed_steps(make: Make) -> None:
    """A backend that does not follow them leaves them alone."""
    run = make()

    class Sampler:
        weights: Sequence[int] = [1, 2]

    sampler = Sampler()
    sampler.weights = [1, 2]
    run.backend.take([sampler])
    sampler.weights = [3]
    run.backend.restore(committed=True)
    assert sampler.weights == [3]
    run.backend.restore()
    assert sampler.weights == ([1, 2] if run.follows_data else [3])


# LRs


def test_the_first_group_has_the_lr_and_the_others_keep_their_ratios(make: Make) -> None:
    run = make()
    assert tuple(run.backend.base_lrs) == pytest.approx(run.base_lrs)
    assert run.backend.lrs() == pytest.approx(run.base_lrs)
    for lr in (0.5, 0.0, 1e-6, 0.02):
        run.backend.set_lr(lr)
        assert run.backend.lrs() == pytest.approx([lr * base / run.base_lrs[0] for base in run.base_lrs])
    assert tuple(run.backend.base_lrs) == pytest.approx(run.base_lrs)


def test_the_lr_goes_back_too_and_is_set_after_a_rollback(make: Make) -> None:
    run = make()
    run.backend.set_lr(0.1)
    run.backend.take()
    steps(run, [0], 2.0)
    run.backend.restore()
    assert run.backend.lrs()[0] == pytest.approx(0.1)
    run.backend.set_lr(0.3)
    assert run.backend.lrs() == pytest.approx([0.3 * base / run.base_lrs[0] for base in run.base_lrs])


def test_a_step_is_made_at_the_lr_that_is_set(make: Make) -> None:
    """At 0 the weights stay; afterwards the momentum is there all the same."""
    losses = []
    for lr in (0.0, 0.1):
        run = make()
        losses.append(steps(run, [0, 0, 0], lr))
    still, moving = losses
    assert still[0] == moving[0]
    assert still[1:] != moving[1:]


# Losses


def test_losses_are_float32_in_order_and_forgotten_once_read(make: Make) -> None:
    run = make()
    run.backend.begin(8)
    collected(run, [run.scalar(0.1), 0.1, 2, np.float64(1e39), run.scalar(-0.25), run.array(1)])
    expected = [float(np.float32(0.1)), float(np.float32(0.1)), 2.0, math.inf, -0.25, 0.0]
    assert run.backend.peek() == expected
    assert run.backend.peek() == expected
    assert run.backend.flush() == expected
    assert run.backend.peek() == run.backend.flush() == []


def test_settled_losses_are_the_first_ones(make: Make) -> None:
    run = make()
    run.backend.begin(8, earlier=[0.5])
    for n in range(8):
        collected(run, [run.scalar(float(n))])
        settled = run.backend.settled()
        assert settled == run.backend.peek()[: len(settled)]
    run.backend.flush()
    assert run.backend.settled() == []


def test_losses_that_are_no_numbers_are_kept(make: Make) -> None:
    run = make()
    run.backend.begin(4)
    losses = [math.nan, math.inf, -math.inf, 1.0]
    collected(run, map(run.scalar, losses))
    assert_same(run.backend.flush(), losses)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda run: run.array(3), r"loss: shape \(3,\) is not a scalar; pass loss.mean\(\)"),
        (lambda run: run.array(0), r"loss: shape \(0,\) is not a scalar"),
        (lambda run: "low", "loss: str is not a scalar"),
        (lambda run: None, "loss: NoneType is not a scalar"),
    ],
)
def test_what_is_not_one_number_is_refused_and_leaves_no_trace(
    make: Make, wrong: Callable[[SmallRun], Any], message: str
) -> None:
    run = make()
    run.backend.begin(4)
    collected(run, [1.0])
    run.step(0)
    with pytest.raises(ValueError, match=message):
        run.backend.append(wrong(run))
    assert run.backend.flush() == [1.0]


def test_a_loss_is_what_it_was_when_it_was_handed_in(make: Make) -> None:
    """Also of a step that was made at once after another, before anybody looked."""
    losses = steps(make(), range(4), 0.1)
    one_by_one = make()
    one_by_one.backend.set_lr(0.1)
    assert losses == [float(np.float32(float(one_by_one.step(number)))) for number in range(4)]


def test_losses_of_an_earlier_process_come_first(make: Make) -> None:
    run = make()
    run.backend.begin(4, earlier=iter([3.0, math.nan]))
    collected(run, [1.0])
    assert_same(run.backend.peek(), [3.0, math.nan, 1.0])
    assert_same(run.backend.flush(), [3.0, math.nan, 1.0])


def test_a_directive_that_begins_forgets_the_one_before(make: Make) -> None:
    run = make()
    run.backend.begin(4)
    collected(run, [math.nan])
    assert diverged(run)
    run.backend.begin(4)
    assert not diverged(run)
    assert run.backend.flush() == []


# Divergence


@pytest.mark.parametrize("bad", [(math.nan,), (math.inf,), (-math.inf,), (1e39,), (LIMIT + 0.1,) * BAD_LOSSES])
def test_a_divergence_is_seen_and_consumes_nothing(make: Make, bad: tuple[float, ...]) -> None:
    run = make()
    run.backend.begin(8, LIMIT)
    collected(run, [LIMIT, *bad[:-1]])
    assert not diverged(run)
    collected(run, [*bad[-1:], 1.0])
    assert diverged(run)
    assert diverged(run)
    assert len(run.backend.flush()) == 2 + len(bad)
    collected(run, [1.0])
    assert not diverged(run)


@pytest.mark.parametrize("looks", [False, True], ids=["at the end", "at every step"])
def test_a_row_above_the_limit_is_broken_by_one_loss_below(make: Make, looks: bool) -> None:
    run = make()
    run.backend.begin(3 * BAD_LOSSES, LIMIT)
    above = [LIMIT + 1] * (BAD_LOSSES - 1)
    for loss in [*above, LIMIT, *above]:
        collected(run, [loss])
        assert not (looks and diverged(run))
    assert not diverged(run)
    collected(run, [LIMIT + 1])
    assert diverged(run)


def test_losses_of_an_earlier_process_belong_to_a_row_and_show_no_divergence(make: Make) -> None:
    run = make()
    run.backend.begin(8, LIMIT, earlier=[1.0] + [LIMIT + 1] * (BAD_LOSSES - 1))
    assert not diverged(run)
    collected(run, [LIMIT + 1])
    assert diverged(run)


def test_without_a_limit_no_finite_loss_diverges(make: Make) -> None:
    run = make()
    run.backend.begin(8)
    collected(run, [3e38] * BAD_LOSSES)
    assert not diverged(run)


# Validation


def test_a_run_without_a_function_has_no_validation(make: Make) -> None:
    assert not make().backend.has_validation


def test_a_validation_leaves_no_trace(make: Make) -> None:
    """It is the user's own, with a draw of random numbers and modes that it leaves as they are."""
    seen = []

    def validate(run: SmallRun) -> float:
        seen.append(run.evaluate() + random.random())
        return seen[-1]

    plain = make()
    steps(plain, range(4), 0.1)
    expected = present(plain)

    run = make(validate)
    assert run.backend.has_validation
    steps(run, [0, 1], 0.1)
    before = present(run)
    assert run.backend.validate() == pytest.approx(seen[-1])
    assert_same(present(run), before)
    steps(run, [2, 3], 0.1)
    assert_same(present(run), expected)


@pytest.mark.parametrize("outcome", [math.nan, math.inf, 1e39, RuntimeError("no data")])
def test_a_validation_that_does_not_work_in_mid_run_gives_none(
    make: Make, outcome: float | RuntimeError, caplog: pytest.LogCaptureFixture
) -> None:
    outcomes = itertools.chain([1.0], itertools.repeat(outcome))

    def validate(run: SmallRun) -> float:
        run.evaluate()
        if isinstance(outcome := next(outcomes), RuntimeError):
            raise outcome
        return outcome

    run = make(validate)
    steps(run, [0, 1], 0.1)
    before = present(run)
    assert run.backend.validate() is None
    assert run.backend.validate() is None
    assert_same(present(run), before)
    assert caplog.text.count("validate raised") == (1 if isinstance(outcome, RuntimeError) else 0)


@pytest.mark.parametrize("outcome", [math.nan, RuntimeError("no data")])
def test_a_validation_that_does_not_work_at_the_start_is_refused(make: Make, outcome: float | RuntimeError) -> None:
    def validate(_: SmallRun) -> float:
        if isinstance(outcome, RuntimeError):
            raise outcome
        return outcome

    with pytest.raises(ConfigError, match=r"validate: it (raised RuntimeError: no data|returned nan)"):
        make(validate)


# Checkpoints


def test_a_run_goes_on_from_a_checkpoint_within_a_probe(make: Make) -> None:
    whole = make()
    steps(whole, [0, 1], 0.1)
    whole.backend.take()
    probe, end = steps(whole, range(2, 6), WILD_LR), present(whole)
    whole.backend.restore()
    committed, rolled_back_end = steps(whole, [2, 3], 0.1), present(whole)

    first = make()
    steps(first, [0, 1], 0.1)
    first.backend.take()
    first.backend.set_lr(WILD_LR)
    first.backend.begin(4)
    for number in (2, 3):
        first.backend.append(first.step(number))
    resumed, earlier = _resumed(first, make)
    resumed.backend.set_lr(WILD_LR)
    resumed.backend.begin(4, earlier=earlier)
    for number in (4, 5):
        resumed.backend.append(resumed.step(number))
    assert resumed.backend.flush() == probe
    assert_same(present(resumed), end)
    resumed.backend.restore()
    assert steps(resumed, [2, 3], 0.1) == committed
    assert_same(present(resumed), rolled_back_end)


def test_a_run_goes_on_from_a_checkpoint_within_committed_steps(make: Make) -> None:
    """And these can still be rolled back to the snapshot of the process before."""
    whole = make()
    whole.backend.take()
    taken = present(whole)
    expected = steps(whole, range(4), 0.1)
    end = present(whole)

    first = make()
    first.backend.take()
    losses = steps(first, [0, 1], 0.1)
    resumed, _ = _resumed(first, make)
    losses += steps(resumed, [2, 3], 0.1)
    assert losses == expected
    assert_same(present(resumed), end)
    resumed.backend.restore(committed=True)
    assert_same(present(resumed), taken)


def test_a_snapshot_of_another_model_is_refused(make: Make) -> None:
    run, other = make(), make(width=WIDTH + 1)
    other.backend.take()
    state = other.through_a_file(other.backend.state_dict())
    before = present(run)
    with pytest.raises(ConfigError):
        run.backend.load_state_dict(state)
    assert_same(present(run), before)


def _resumed(first: SmallRun, make: Make) -> tuple[SmallRun, list[float]]:
    """A run in a new process, as far as this one can play it, and the losses that were not reported."""
    before = present(first)
    state, random_state = first.backend.state_dict(), RandomState.capture()
    assert state is not None
    assert_same(present(first), before)
    saved, losses = first.save(), first.backend.peek()
    state = first.through_a_file(state)
    first.step(7)  # lost

    resumed = make()
    resumed.load(saved)
    random_state.restore()
    resumed.backend.load_state_dict(state)
    assert_same(present(resumed), before)
    return resumed, losses


# The end, and what is said of the run


def test_the_end_comes_as_often_as_one_likes(make: Make) -> None:
    run = make()
    run.backend.take()
    steps(run, [0], 0.1)
    lrs, bits = run.backend.lrs(), run.bits()
    run.backend.finish()
    run.backend.finish()
    run.backend.close()
    run.backend.close()
    run.backend.finish()
    assert run.backend.lrs() == lrs
    assert run.bits() == bits


def test_a_run_may_end_before_it_has_begun(make: Make) -> None:
    run = make()
    run.backend.close()
    run.backend.finish()


def test_the_first_losses_of_probes_differ_by_rounding_alone(make: Make) -> None:
    """By this the driver tells that a rollback was not complete."""
    run = make()
    noise = run.backend.loss_noise
    assert 0 <= noise < 0.01
    assert run.backend.loss_precedes_updates
    run.backend.take()
    [first] = steps(run, [0], WILD_LR)
    run.backend.restore()
    [second] = steps(run, [0], 0.01)
    assert math.isclose(first, second, rel_tol=noise)


def test_nothing_is_suspected_in_a_plain_run(make: Make) -> None:
    run = make()
    steps(run, [0], 0.1)
    assert run.backend.suspects() == []


@pytest.mark.timeout(600)  # Minutes of compiling, on a machine that is busy.
@pytest.mark.slow
def test_all_of_this_in_keras_on_jax() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "keras and not on_jax", __file__]
    # What is run is the same, and it is compiled in half the time.
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    run = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout
