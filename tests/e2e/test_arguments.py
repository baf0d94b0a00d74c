"""Every wrong argument is told in one line that names field, value and remedy, with nothing chained to it."""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lrpilot
import numpy as np
import pytest
import torch
from lrpilot.schedules import scheduler
from lrpilot.transport.scripted import ScriptedTransport
from lrpilot.wire.phase import Phase
from lrpilot.wire.profile import Profile
from lrpilot.wire.schedule_data import Segment
from torch import nn

from tests.support.training.quick_run import SCRIPT, Run

NAN, INF = math.nan, math.inf
ONE = torch.tensor(1.0)
NO_NUMBERS: list[Any] = ["1000", [100], {"a": 1}, True, np.bool_(True), 1 + 1j, object()]
NO_WHOLE: list[Any] = [1e3, np.float64(5), torch.tensor(5.0), NAN, *NO_NUMBERS]
NO_TRUTH: list[Any] = ["yes", 1, [True], 0.0]

WRONG: dict[str, list[Any]] = {
    "total_steps": [0, -5, 2**63, *NO_WHOLE],
    "total_time_s": [0, -1, NAN, INF, *NO_NUMBERS],
    "timeout_s": [0, -1, NAN, INF, None, *NO_NUMBERS],
    "seed": [-1, 2**64, None, *NO_WHOLE],
    "stop_when": [0, -1, NAN, INF, "1", "200%", "0%", "nan%", "x%", *NO_NUMBERS],
    "mode": ["MAX", "maximum", None, 1, [], True],
    "lr_bounds": [0.1, (0.1,), (0.1, 1, 2), (1, 0.1), (0, 1), (-1, 1), ("1e-3", "1"), (NAN, 1), (1e-3, INF), (None, 1)],
    "policy": [3, ["budget"], b"budget"],
    "policy_options": [[1], "x", {1: 2}, {"probe_steps": object()}, {"probe_steps": torch.ones(2)}],
    "name": [3, None, "a\nb", "a" * 300],
    "family": [3, None, "a\nb", "a" * 300],
    "record": ["gradient_norm", 3, [3], None],
    "observers": [3, None, [3], logging],
    "strict": [None, *NO_TRUTH],
    "adopt": [None, *NO_TRUTH],
    "population": [None, *NO_TRUTH],
    "progress": NO_TRUTH,
    "credentials": ["lrp_token", 3, {"token": "x"}],
    "transport": [3, "x"],
    "server": [50051, "tuner", "http://x:1", "x:y", "x:99999", "x:0", ":5", "a b:5", b"x:5"],
    "validate": [
        3,
        "loss",
        ONE,
        *((lambda value=value: value) for value in (None, "1", (1, 2), {"loss": 1}, NAN, True)),
    ],
    "register": [3, [1], "x", {1: nn.Linear(1, 1)}, {"step": 3}],
    "snapshot": ["gpu", 3, None, "/nonexistent/folder"],
    "process_group": [3, "nccl"],
    "logits": ["head", 3, [], nn.Linear(1, 1)],
    "epochs": [0, -1, None, *NO_WHOLE],
    "steps_per_epoch": [0, -1, None, *NO_WHOLE],
}
"""What can't be, for every argument that has a name."""

RIGHT: dict[str, list[Any]] = {
    "total_steps": [np.int64(100), np.int32(100), torch.tensor(100), 100],
    "total_time_s": [np.float32(3), torch.tensor(3.0), 3, np.int64(3)],
    "timeout_s": [np.float64(3), 3],
    "seed": [np.int64(3), torch.tensor(3)],
    "stop_when": ["1%", np.float64(0.01), torch.tensor(0.01)],
    "lr_bounds": [np.array([1e-3, 1.0]), [1e-3, 1], (torch.tensor(1e-3), ONE)],
    "policy_options": [{"probe_steps": np.int64(5), "refine": np.bool_(True), "x": None}, {"share": ONE}],
    "validate": [lambda: ONE, lambda: np.float32(1), lambda: torch.ones(1, 1), lambda: 1],
    "strict": [np.bool_(True)],
}


def tuner(**arguments: Any) -> lrpilot.Tuner:
    named = "epochs" if "steps_per_epoch" in arguments else "steps_per_epoch"
    beside = {named: 3} if {"epochs", "steps_per_epoch"} & arguments.keys() else {}
    transport = {} if "server" in arguments else {"transport": ScriptedTransport(SCRIPT)}
    return Run().tuner(**{"total_steps": None, "transport": None, **transport, **beside, **arguments})


def assert_told(error: BaseException, field: str) -> None:
    words = str(error)
    assert words.startswith((f"{field}: ", f"{field}."))
    assert "\n" not in words
    assert len(words) < 300
    assert error.__cause__ is None
    assert error.__suppress_context__ or error.__context__ is None


CASES = [(name, value) for name, values in WRONG.items() for value in values]


@pytest.mark.parametrize(("name", "value"), CASES, ids=[f"{name}-{i}" for i, (name, _) in enumerate(CASES)])
def test_a_wrong_argument_of_a_tuner(name: str, value: Any) -> None:
    with pytest.raises(lrpilot.ConfigError) as raised:
        tuner(**{name: value})
    assert_told(raised.value, name)


RIGHT_CASES = [(name, value) for name, values in RIGHT.items() for value in values]


@pytest.mark.parametrize(("name", "value"), RIGHT_CASES)
def test_numbers_of_other_libraries_are_numbers(name: str, value: Any) -> None:
    with tuner(**{name: value}):
        pass


def test_the_table_has_every_argument() -> None:
    assert set(inspect.signature(lrpilot.Tuner.__init__).parameters) - {"self", "model", "optimizer"} == set(WRONG)


MODEL = nn.Linear(2, 1)


def sgd(lr: float = 0.1) -> torch.optim.Optimizer:
    return torch.optim.SGD(MODEL.parameters(), lr=lr)


OBJECTS: list[tuple[Callable[[], tuple[Any, Any]], str]] = [
    (lambda: (sgd(), MODEL), "model, optimizer: they are swapped; the order is Tuner(model, optimizer)"),
    (lambda: (None, sgd()), "model: a NoneType is none; give"),
    (lambda: (nn.Linear, sgd()), "model: the class Linear is none; give"),
    (lambda: (MODEL, None), "optimizer: a NoneType is none; give"),
    (lambda: (MODEL, "sgd"), "optimizer: a str is none; give"),
    (lambda: (MODEL, torch.optim.SGD), "optimizer: the class SGD is none; give"),
    (lambda: (MODEL, []), "optimizer: a list without any; give"),
    (lambda: (MODEL, list(MODEL.parameters())), "optimizer: a Parameter is none; give"),
    (
        lambda: (MODEL, torch.optim.lr_scheduler.StepLR(sgd(), 1)),
        "optimizer: a StepLR is a scheduler; give its optimizer",
    ),
    (lambda: (MODEL, [sgd()] * 2), "optimizer: one of them is there twice; give each once"),
    (lambda: (MODEL, sgd(0.0)), "optimizer: the LR of its first group must be positive, not 0.0"),
]


@pytest.mark.parametrize(("objects", "words"), OBJECTS, ids=[words[:30] for _, words in OBJECTS])
def test_a_model_or_an_optimizer_that_is_none(objects: Callable[[], tuple[Any, Any]], words: str) -> None:
    with pytest.raises(lrpilot.ConfigError) as raised:
        lrpilot.Tuner(*objects(), transport=ScriptedTransport(SCRIPT))
    assert str(raised.value).startswith(words)
    assert raised.value.__cause__ is None


@pytest.fixture
def running() -> Iterator[lrpilot.Tuner]:
    with Run().tuner(ScriptedTransport(SCRIPT)) as made:
        yield made


def first(batches: Any) -> Any:
    return next(iter(batches))


NO_EPOCHS: list[Any] = [None, 3, iter([1]), []]
CALLS: list[tuple[Callable[[lrpilot.Tuner], Any], str]] = [
    *(
        (lambda t, loss=loss: t.step(loss), "loss")
        for loss in (None, "0.5", [0.5], (0.5,), {"loss": ONE}, True, 1 + 1j)
    ),
    *((lambda t, loss=loss: t.step(loss), "loss") for loss in (torch.ones(2), torch.ones(0), torch.tensor(1 + 1j))),
    *((lambda t, loader=loader: t.batches(loader), "batches") for loader in (None, 3, MODEL)),
    (lambda t: first(t.batches([])), "batches"),
    *((lambda t, loader=loader: first(t.epochs(loader)), "epochs") for loader in NO_EPOCHS),
    *((lambda t, n=n: first(t.epochs([1], n)), "n_epochs") for n in (-1, *NO_WHOLE)),
    *((lambda t, n=n: t.extend(n), "steps") for n in (0, -1, None, 2**63, *NO_WHOLE)),
    *((lambda t, n=n: t.anneal(n), "steps") for n in (0, -1, None, 2**63, *NO_WHOLE)),
    *((lambda t, n=n: t.replan(batch_size=n), "batch_size") for n in (0, -1, *NO_WHOLE)),
    (lambda t: t.replan(batch_size=32, batch_scaling="cubic"), "batch_scaling"),
    (lambda t: t.replan(scale_betas=True), "scale_betas"),
    (lambda t: t.undo_annealing(), "undo_annealing"),
    *((lambda t, state=state: t.load_state_dict(state), "state") for state in (None, {}, "run.pt", MODEL.state_dict())),
    (lambda t: t.averaged().__enter__(), "averaged"),
]


@pytest.mark.parametrize(("call", "field"), CALLS, ids=[f"{field}-{i}" for i, (_, field) in enumerate(CALLS)])
def test_a_wrong_argument_of_a_call(call: Callable[[lrpilot.Tuner], Any], field: str, running: lrpilot.Tuner) -> None:
    with pytest.raises((ValueError, lrpilot.LRPilotError)) as raised:
        call(running)
    assert_told(raised.value, field)


@pytest.mark.parametrize("loss", [np.float32(0.5), 0.5, 1, torch.ones(1, 1), torch.tensor(2), np.float64(1)])
def test_a_loss_may_be_any_number(loss: Any, running: lrpilot.Tuner) -> None:
    running.step(loss)


SCHEDULE = lrpilot.Schedule("", "", "budget", (0.1,), 10, (Segment(0, 10, Profile.constant(0.1, 10), Phase.TRAIN, 1),))
SCHEDULES: list[tuple[Callable[[], Any], str]] = [
    *((lambda n=n: SCHEDULE.stretched(n), "total_steps") for n in (0, -1, None, 2**63, *NO_WHOLE)),
    *(
        (lambda e=e: SCHEDULE.stretched(5, length_exponent=e), "length_exponent")
        for e in (2, -1, NAN, None, *NO_NUMBERS)
    ),
    *((lambda step=step: SCHEDULE.lr(step), "step") for step in ("1", 1.5, NAN, None)),
    (lambda: SCHEDULE.lr(-1), "schedule"),
    *((lambda each=each: SCHEDULE.scheduler(each), "optimizer") for each in (None, MODEL, "sgd", [sgd()])),
    (lambda: SCHEDULE.scheduler(sgd(0.0)), "schedule"),
    *((lambda path=path: SCHEDULE.save(path), "path") for path in (3, None, b"x")),
    *((lambda path=path: SCHEDULE.plot(path), "path") for path in (3, b"x")),
    *((lambda path=path: lrpilot.Schedule.load(path), "path") for path in (3, None, b"x")),
    (lambda: SCHEDULE.plot("schedule.foo"), "plot"),
]


@pytest.mark.parametrize(("call", "field"), SCHEDULES, ids=[f"{field}-{i}" for i, (_, field) in enumerate(SCHEDULES)])
def test_a_wrong_argument_of_a_schedule(call: Callable[[], Any], field: str) -> None:
    with pytest.raises(lrpilot.ScheduleError) as raised:
        call()
    assert_told(raised.value, field)


def test_a_file_that_is_no_schedule_or_can_not_be_written_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    for text in ("", "{}", "[1]", '{"format": "lrpilot.schedule", "version": 1}'):
        path.write_text(text)
        with pytest.raises(lrpilot.ScheduleError) as raised:
            lrpilot.Schedule.load(path)
        assert_told(raised.value, str(path))
    for call in (SCHEDULE.save, SCHEDULE.plot, lrpilot.Schedule.load):
        missing = tmp_path / "missing" / "schedule.png"
        with pytest.raises(FileNotFoundError) as lost:
            call(missing)
        assert str(lost.value.filename) == str(missing)


SCHEDULERS: list[tuple[Callable[[], Any], str]] = [
    *((lambda n=n: scheduler(sgd(), "linear", n), "total_steps") for n in ("9", 1.5, None)),
    *((lambda n=n: scheduler(sgd(), "linear", 10, warmup=n), "warmup") for n in ("9", 1.5)),
    (lambda: scheduler(sgd(), "linear", 10, warmup=10), "scheduler"),
    (lambda: scheduler(MODEL, "linear", 10), "optimizer"),  # type: ignore[arg-type]  # what is tested
    (lambda: scheduler(sgd(), "linaer", 10), "shape"),
    (lambda: scheduler(sgd(), 3, 10), "shape"),  # type: ignore[arg-type]  # what is tested
]


@pytest.mark.parametrize(("call", "field"), SCHEDULERS, ids=[f"{field}-{i}" for i, (_, field) in enumerate(SCHEDULERS)])
def test_a_wrong_argument_of_a_scheduler(call: Callable[[], Any], field: str) -> None:
    with pytest.raises(ValueError, match=f"^{field}: ") as raised:
        call()
    assert_told(raised.value, field)


@pytest.mark.parametrize(
    "arguments",
    [
        {"token": 3},
        {"token": "a b"},
        {"token": ""},
        {"tls": "yes"},
        {"insecure": 1},
        {"ca_file": 3},
        {"token_file": 3},
        {"cert_file": "x"},
        {"token": "x", "token_file": "y"},
    ],
)
def test_wrong_credentials(arguments: dict[str, Any]) -> None:
    with pytest.raises(lrpilot.ConfigError) as raised:
        lrpilot.Credentials(**arguments)
    assert_told(raised.value, "credentials")
