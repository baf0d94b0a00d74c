"""The tuned Trainer, in real training."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lrpilot
import pytest
import torch
from accelerate.state import GradientState
from lrpilot.errors import ConfigError
from lrpilot.integrations.transformers import TunerTrainer
from lrpilot.transport.scripted import ScriptedTransport
from lrpilot.v1 import tuner_pb2 as pb
from torch import nn
from torch.nn import functional
from torch.utils.data import IterableDataset
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from benchmarks.quality.local import LocalTransport
from tests.support.repository import doc_pages
from tests.support.servers.server_process import ServerProcess
from tests.support.training.same_bits import assert_same
from tests.support.training.scripted_directives import directive

BATCH = 8
MEASURED = {
    "learning_rate",
    "train_runtime",
    "train_samples_per_second",
    "train_steps_per_second",
    "train_tokens_per_second",
}
"""Log entries that differ with the LR's source or the clock."""
BOUNDS = (1e-4, 1.0)
BUDGET = {"probe_steps": 5, "refinements": 0}


class Classifier(nn.Module):
    """Buffers that move, and random numbers."""

    main_input_name = "x"

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 2))

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.layers(x)
        return {"loss": functional.cross_entropy(logits, labels), "logits": logits}


def points() -> list[dict[str, torch.Tensor]]:
    """45 of two kinds: the last batch of an epoch is smaller, and so is its last update of two batches."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(45) % 2
    inputs = torch.randn(45, 8, generator=generator) + labels[:, None]
    return [{"x": x, "labels": label} for x, label in zip(inputs, labels, strict=True)]


def language_model() -> nn.Module:
    """It asks for the number of items in a batch."""
    model: nn.Module = GPT2LMHeadModel(GPT2Config(vocab_size=17, n_positions=16, n_embd=8, n_layer=2, n_head=2))
    return model


def sentences() -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, 17, (45, 16), generator=generator)
    return [{"input_ids": each, "labels": each} for each in tokens]


class Recorder(TrainerCallback):  # type: ignore[misc]  # its types are not read
    """Writes down what it is told, and at which step."""

    def __init__(self) -> None:
        self.events: list[tuple[str, int]] = []

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("on_"):
            return super().__getattribute__(name)
        return lambda args, state, control, **_: self.events.append((name, state.global_step))


def arguments(path: Path, **others: Any) -> TrainingArguments:
    defaults = {
        "output_dir": str(path),
        "per_device_train_batch_size": BATCH,
        "learning_rate": 0.02,
        "lr_scheduler_type": "constant",
        "logging_steps": 3,
        "save_strategy": "no",
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "include_num_input_tokens_seen": "all",
    }
    return Seq2SeqTrainingArguments(**(defaults | others))


def made(
    kind: type[Trainer],
    args: TrainingArguments,
    model: Callable[[], nn.Module] = Classifier,
    data: Callable[[], Any] = points,
    **others: Any,
) -> Any:
    torch.manual_seed(0)
    return kind(model=model(), args=args, train_dataset=data(), eval_dataset=data(), **others)


def tuned(args: TrainingArguments, options: dict[str, Any] | None = None, **others: Any) -> Any:
    """By the budget policy, in process."""
    defaults = {"transport": LocalTransport(), "lr_bounds": BOUNDS, "policy_options": BUDGET}
    return made(TunerTrainer, args, lrpilot=defaults | (options or {}), **others)


def probes() -> list[pb.Directive]:
    """Two, over more than an epoch."""
    return [
        directive(pb.PHASE_PROBE, 0.5, 7, restore=False),
        directive(pb.PHASE_PROBE, 1e-3, 4, restore=True),
    ]


def committed(n_steps: int, *, restore: bool = False) -> pb.Directive:
    return directive(pb.PHASE_TRAIN, 0.02, n_steps, restore=restore)


def everything(trainer: Any) -> dict[str, Any]:
    """The state of a training that is over."""
    return {
        "model": trainer.model.state_dict(),
        "optimizer": trainer.optimizer.state_dict()["state"],
        "random": torch.get_rng_state(),
    }


def n_loaders() -> int:
    """Those that Accelerate believes are being iterated over, in this process."""
    return len(GradientState().dataloader_references)


def told(trainer: Any, left_out: set[str] = MEASURED) -> dict[str, Any]:
    """What the Trainer says of it."""
    state = trainer.state
    return {
        "log": [{k: v for k, v in each.items() if k not in left_out} for each in state.log_history],
        "counters": (state.global_step, state.epoch, state.total_flos, state.num_input_tokens_seen, state.max_steps),
    }


@pytest.mark.parametrize(
    ("model", "data", "accumulation"),
    [(Classifier, points, 1), (Classifier, points, 2), (language_model, sentences, 2)],
    ids=["classifier", "accumulated", "language model"],
)
def test_probes_leave_no_trace(
    tmp_path: Path, model: Callable[[], nn.Module], data: Callable[[], Any], accumulation: int
) -> None:
    """At the start and in the middle: weights, random state, logs, counters and callbacks are a plain Trainer's."""
    options = {"gradient_accumulation_steps": accumulation, "eval_strategy": "steps", "eval_steps": 4}
    plain_events, tuned_events = Recorder(), Recorder()
    plain = made(Trainer, arguments(tmp_path, max_steps=17, **options), model, data, callbacks=[plain_events])
    loaders = [n_loaders()]
    plain.train()
    loaders.append(n_loaders())
    expected = everything(plain)

    script = [*probes(), committed(5, restore=True), *probes(), committed(12, restore=True)]
    transport = ScriptedTransport(script)
    trainer = made(
        TunerTrainer,
        arguments(tmp_path, max_steps=17 + 22, **options),
        model,
        data,
        callbacks=[tuned_events],
        lrpilot={"transport": transport},
    )
    trainer.train()
    loaders.append(n_loaders())

    assert [len(report.losses) for report in transport.reports] == [7, 4, 5, 7, 4, 12]
    assert_same(expected, everything(trainer))
    clock = {key for each in plain.state.log_history for key in each if key.startswith("eval_") and "loss" not in key}
    assert told(plain, MEASURED | clock) == told(trainer, MEASURED | clock)
    assert tuned_events.events == plain_events.events
    assert loaders[2] - loaders[1] == loaders[1] - loaders[0]
    assert [each["learning_rate"] for each in trainer.state.log_history if "learning_rate" in each] == [0.02] * 5


def test_the_size_of_logits_is_measured_of_the_modules_that_were_named(tmp_path: Path) -> None:
    model, largest = Classifier(), []
    model.register_forward_hook(
        lambda module, inputs, output: largest.append(output["logits"].detach().abs().max().item())
    )
    transport = ScriptedTransport([directive(pb.PHASE_TRAIN, 0.02, 4, measures=["output_logit"])])
    args = arguments(tmp_path, max_steps=4, gradient_accumulation_steps=2)
    made(TunerTrainer, args, lambda: model, lrpilot={"transport": transport, "logits": model}).train()
    [measure] = transport.reports[0].measures
    assert list(measure.values) == [max(largest[i : i + 2]) for i in range(0, 8, 2)]


def test_the_loss_of_a_step_is_the_one_that_the_trainer_logs(tmp_path: Path) -> None:
    """The mean over an update's micro-batches."""
    transport = ScriptedTransport([committed(6)])
    args = arguments(tmp_path, max_steps=6, gradient_accumulation_steps=2, logging_steps=1)
    trainer = made(TunerTrainer, args, lrpilot={"transport": transport})
    trainer.train()
    logged = [each["loss"] for each in trainer.state.log_history if "loss" in each]
    assert list(transport.reports[0].losses) == pytest.approx(logged)


def test_a_probe_starts_where_training_stands_and_replays_its_batches(tmp_path: Path) -> None:
    """Two probes at one LR have the same losses, which differ from step to step."""
    script = [
        committed(3),
        directive(pb.PHASE_PROBE, 0.02, 9, restore=False),
        directive(pb.PHASE_PROBE, 0.02, 9, restore=True),
        committed(3, restore=True),
    ]
    transport = ScriptedTransport(script)
    made(TunerTrainer, arguments(tmp_path, max_steps=24), lrpilot={"transport": transport}).train()
    _, first, second, _ = (list(report.losses) for report in transport.reports)
    assert first == second
    assert len(set(first)) == len(first)


def test_the_budget_is_kept_and_ends_as_any_training_ends(tmp_path: Path) -> None:
    """Exactly `max_steps` optimizer steps, and then the evaluation and the checkpoint of the end."""
    args = arguments(
        tmp_path, max_steps=500, eval_strategy="steps", eval_steps=10_000, save_strategy="steps", save_steps=10_000
    )
    trainer = tuned(args)
    n_steps = 0

    def count(*_: Any) -> None:
        nonlocal n_steps
        n_steps += 1

    optimizer = trainer.create_optimizer()
    optimizer.register_step_post_hook(count)
    trainer.train()
    tuner = trainer.tuner
    assert tuner.finished
    assert tuner.search_steps > 0
    assert n_steps == 500 == tuner.committed_step + tuner.search_steps
    assert trainer.state.global_step == trainer.state.max_steps == tuner.committed_step
    assert len([each for each in trainer.state.log_history if "eval_loss" in each]) == 1
    assert Path(tmp_path, f"checkpoint-{tuner.committed_step}", "lrpilot.pt").exists()


def test_a_schedule_replays_in_a_plain_trainer(tmp_path: Path) -> None:
    """With no server, from a file: the same weights and the same log, learning rates included."""
    first = tuned(arguments(tmp_path, num_train_epochs=84))
    first.train()
    first.tuner.schedule.save(tmp_path / "schedule.json")
    expected = everything(first)

    schedule = lrpilot.Schedule.load(tmp_path / "schedule.json")
    replay = made(Trainer, arguments(tmp_path, max_steps=schedule.n_steps))
    optimizer = replay.create_optimizer()
    replay.lr_scheduler = schedule.scheduler(optimizer)
    replay.train()

    assert first.tuner.search_steps > 0
    assert_same(expected, everything(replay))
    assert told(first, MEASURED - {"learning_rate"}) == told(replay, MEASURED - {"learning_rate"})


AUTOLRS = {"tau": 30, "tau_prime": 4, "candidates": 3}


def test_a_resumed_run_ends_as_if_it_had_not_been_interrupted(tmp_path: Path, shared_server: ServerProcess) -> None:
    """From within an epoch of six steps, and from the end of one; more searches come after it."""

    def trainer() -> Any:
        args = arguments(tmp_path, max_steps=160, save_strategy="steps", save_steps=4, logging_steps=4)
        options = {"server": shared_server.target, "transport": None, "validate": "eval"}
        return tuned(args, options | {"policy": "autolrs", "policy_options": AUTOLRS})

    whole = trainer()
    whole.train()
    expected = everything(whole)

    for step in (20, 24):
        resumed = trainer()
        torch.rand(7)  # random numbers are the checkpoint's, the seed the arguments'
        resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
        assert resumed.tuner.job_id == whole.tuner.job_id
        assert resumed.tuner.schedule == whole.tuner.schedule
        assert_same(expected, everything(resumed))
        # The last entry is on the process alone.
        assert told(whole)["log"][:-1] == told(resumed)["log"][:-1]
        assert told(whole)["counters"] == told(resumed)["counters"]

    with pytest.raises(ConfigError, match="is over, its steps are spent"):
        trainer().train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{whole.state.global_step}"))


def test_validation_on_the_eval_dataset_is_that_of_evaluate_and_is_not_logged(tmp_path: Path) -> None:
    script = [committed(6)]
    script[0].validate_at[:] = [0, 6]
    transport, recorder = ScriptedTransport(script), Recorder()
    trainer = made(
        TunerTrainer,
        arguments(tmp_path, max_steps=6),
        callbacks=[recorder],
        lrpilot={"transport": transport, "validate": "eval"},
    )
    trainer.train()
    validations = transport.reports[0].validations
    assert [validation.step for validation in validations] == [0, 6]
    assert not any("eval_loss" in each for each in trainer.state.log_history)
    assert "on_prediction_step" not in dict(recorder.events)
    assert validations[1].loss == pytest.approx(trainer.evaluate()["eval_loss"])


def test_every_training_begins_with_the_lr_of_the_arguments(tmp_path: Path) -> None:
    """The optimizer outlives a call of `train`, with whatever LR that ended on."""
    configs = []
    trainer = made(TunerTrainer, arguments(tmp_path, max_steps=3))
    for _ in range(2):
        transport = ScriptedTransport([directive(pb.PHASE_TRAIN, 1e-5, 3, restore=False)])
        trainer._options["transport"] = transport
        trainer.train()
        assert transport.closed
        configs.append(transport.config)
    assert [config.base_lr for config in configs] == [0.02, 0.02]
    assert [config.total_steps for config in configs] == [3, 3]


class Interrupting(TrainerCallback):  # type: ignore[misc]  # its types are not read
    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 2:
            raise KeyboardInterrupt


def test_an_interrupted_training_reports_what_it_did(tmp_path: Path) -> None:
    transport = ScriptedTransport([committed(6)])
    trainer = made(
        TunerTrainer, arguments(tmp_path, max_steps=6), callbacks=[Interrupting()], lrpilot={"transport": transport}
    )
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert transport.closed
    assert [len(report.losses) for report in transport.reports] == [2]


class Stream(IterableDataset[dict[str, torch.Tensor]]):
    """Has no length."""

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        yield from points()


def test_a_stream_and_a_subclass_of_trainer_are_tuned_too(tmp_path: Path) -> None:
    class Mine(TunerTrainer, Seq2SeqTrainer):  # type: ignore[misc]  # its types are not read
        """As one makes a tuned trainer of somebody else's."""

    transport = ScriptedTransport([*probes(), committed(9, restore=True)])
    trainer = made(
        Mine, arguments(tmp_path, max_steps=20), data=Stream, lrpilot={"transport": transport, "validate": lambda: 1.0}
    )
    trainer.train()
    assert trainer.state.global_step == 9
    assert transport.config.has_validation


def test_the_scale_of_half_precision_is_rolled_back(tmp_path: Path) -> None:
    """It doubles after every third step without overflow, here on the CPU."""
    scales = []
    for script in ([committed(4)], [*probes(), committed(4, restore=True)]):
        options: dict[str, Any] = {"transport": ScriptedTransport(script)}
        trainer = made(TunerTrainer, arguments(tmp_path, max_steps=sum(d.n_steps for d in script)), lrpilot=options)
        trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=3)
        trainer.train()
        scales.append(trainer.accelerator.scaler.state_dict())
    assert scales[0] == scales[1]
    assert scales[0]["scale"] == 16.0


@pytest.mark.parametrize(
    ("args", "options", "message"),
    [
        ({"lr_scheduler_type": "cosine"}, {}, "lr_scheduler_type"),
        ({"warmup_steps": 10}, {}, "warmup_steps"),
        ({}, {"total_steps": 10}, "total_steps is the Trainer's max_steps"),
        ({}, {"total_time_s": 10.0}, "total_time_s: the Trainer ends after max_steps"),
    ],
)
def test_what_else_would_set_the_lr_is_refused(
    tmp_path: Path, args: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        tuned(arguments(tmp_path, max_steps=100, **args), options)


def test_a_scheduler_of_the_users_own_is_refused(tmp_path: Path) -> None:
    model = Classifier()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer)
    with pytest.raises(ConfigError, match=r"optimizers: pass \(optimizer, None\)"):
        TunerTrainer(model=model, args=arguments(tmp_path), train_dataset=points(), optimizers=(optimizer, scheduler))


def test_validation_on_no_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs one eval_dataset"):
        TunerTrainer(model=Classifier(), args=arguments(tmp_path), train_dataset=points(), lrpilot={"validate": "eval"})


def test_the_page_shows_the_example() -> None:
    """Which is run below, with the page."""
    assert doc_pages.first_shows("transformers", "transformers_digits")


@pytest.mark.slow
def test_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], shared_server: ServerProcess
) -> None:
    """Its blocks, in order; the first one is the example's code."""
    monkeypatch.setenv("LRPILOT_SERVER", shared_server.target)
    monkeypatch.chdir(tmp_path)
    doc_pages.run("transformers")
    found = re.search(r"committed and (\d+) search steps", capsys.readouterr().out)
    assert found is not None
    assert int(found[1]) > 0
