"""A tuned Trainer in two processes: every function is one rank's part."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState
from lrpilot import ConfigError
from lrpilot.integrations.transformers import TunerTrainer
from lrpilot.transport.scripted import ScriptedTransport
from lrpilot.v1 import tuner_pb2 as pb
from torch import nn
from torch.nn import functional
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

from tests.support.frameworks.accelerate_state import set_kind, small_shards
from tests.support.frameworks.launched import as_launched, kill
from tests.support.frameworks.rank_runs import AUTOLRS, RankRun, state_of, told_of
from tests.support.training.centred import Centred

BATCH = 4


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Outcome(RankRun):
    """A rank's run, and what its Trainer tells of it."""

    logs: list[float]
    """The losses that the Trainer logged."""
    n_steps: int


class Classifier(nn.Module):
    """Random numbers, and buffers that move unless it is to be sharded."""

    main_input_name = "x"

    def __init__(self, *, normalized: bool) -> None:
        super().__init__()
        norm = [nn.BatchNorm1d(16), Centred(16)] if normalized else []
        self.layers = nn.Sequential(nn.Linear(8, 16), *norm, nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 2))

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.layers(x)
        return {"loss": functional.cross_entropy(logits, labels), "logits": logits}


def _model(kind: str) -> nn.Module:
    if kind == "language":  # It asks for the number of items in a batch, of all ranks.
        model: nn.Module = GPT2LMHeadModel(GPT2Config(vocab_size=17, n_positions=16, n_embd=8, n_layer=2, n_head=2))
        return model
    return Classifier(normalized=kind == "ddp")


def _data(kind: str) -> list[dict[str, torch.Tensor]]:
    """45: neither the last batch of an epoch nor the last update is full, nor as large on both ranks."""
    generator = torch.Generator().manual_seed(1)
    if kind == "language":
        tokens = torch.randint(0, 17, (45, 16), generator=generator)
        labels = tokens.masked_fill(torch.rand(45, 16, generator=generator) < 0.3, -100)
        return [{"input_ids": each, "labels": label} for each, label in zip(tokens, labels, strict=True)]
    labels = torch.arange(45) % 2
    inputs = torch.randn(45, 8, generator=generator) + labels[:, None]
    return [{"x": x, "labels": label} for x, label in zip(inputs, labels, strict=True)]


class Watcher(TrainerCallback):  # type: ignore[misc]  # its types are not read
    """Notes the LR of every step of the Trainer's own loop."""

    def __init__(self) -> None:
        self.lrs: list[float] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:
        self.lrs.append(float(optimizer.param_groups[0]["lr"]))


def _made(trainer: type[Trainer], kind: str, path: Path, options: dict[str, Any], **others: Any) -> tuple[Any, Watcher]:
    """`kind`: "ddp", "language" (the same with a language model) or "fsdp", in a state that is set on GPUs only."""
    as_launched()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    AcceleratorState._reset_state(reset_partial_state=True)
    torch.manual_seed(0)
    args = TrainingArguments(
        **{
            "output_dir": str(path),
            "per_device_train_batch_size": BATCH,
            "gradient_accumulation_steps": 2,
            "learning_rate": 0.02,
            "lr_scheduler_type": "constant",
            "logging_steps": 3,
            "save_strategy": "no",
            "use_cpu": True,
            "report_to": "none",
            "disable_tqdm": True,
            "ddp_find_unused_parameters": False,
        }
        | others
    )
    watcher = Watcher()
    if "lrpilot" not in options and trainer is TunerTrainer:
        options = {"lrpilot": options}
    made = trainer(
        model=_model(kind),
        args=args,
        train_dataset=_data(kind),
        eval_dataset=_data(kind),
        callbacks=[watcher],
        **options,
    )
    if kind == "fsdp":
        set_kind("FSDP")
        made.is_fsdp_enabled = True
        made.accelerator.state.fsdp_plugin = small_shards()
    return made, watcher


def _outcome(trainer: Any, watcher: Watcher) -> Outcome:
    logs = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    told = told_of(getattr(trainer, "tuner", None))
    state = state_of(trainer.model, trainer.optimizer)
    return Outcome(state=state, lrs=watcher.lrs, logs=logs, n_steps=trainer.state.global_step, **told)


# --- what `RankProcesses` run -----------------------------------------------------------------------------------------


def train_bare(kind: str, path: Path, n_steps: int) -> Outcome:
    """Trains with a plain Trainer."""
    trainer, watcher = _made(Trainer, kind, path, {}, max_steps=n_steps)
    trainer.train()
    return _outcome(trainer, watcher)


def train_by_script(kind: str, path: Path, script: list[bytes]) -> tuple[Outcome, list[bytes]]:
    """Carries directives out; with the reports on them (none of ranks but 0)."""
    directives = [pb.Directive.FromString(each) for each in script]
    transport = ScriptedTransport(directives)
    options = {"transport": transport, "validate": "eval"}
    trainer, watcher = _made(TunerTrainer, kind, path, options, max_steps=sum(each.n_steps for each in directives))
    trainer.train()
    return _outcome(trainer, watcher), [report.SerializeToString() for report in transport.reports]


def evaluate(path: Path) -> tuple[float, float]:
    """The loss that is reported as a validation, and the one that `evaluate` gives."""
    trainer, _ = _made(TunerTrainer, "ddp", path, {"validate": "eval"}, per_device_eval_batch_size=7)
    return trainer._eval_loss(), trainer.evaluate()["eval_loss"]


def train_and_save(kind: str, server: str, path: Path, save_steps: int, limit: int | None = None) -> Outcome:
    """A whole run, which leaves checkpoints behind, or the last few of them."""
    options = {"server": server, **AUTOLRS}
    saving = {"save_strategy": "steps", "save_steps": save_steps, "save_total_limit": limit}
    trainer, watcher = _made(TunerTrainer, kind, path, options, max_steps=60, **saving)
    trainer.train()
    return _outcome(trainer, watcher)


class Killer(TrainerCallback):  # type: ignore[misc]  # its types are not read
    """Ends a process after a committed step."""

    def __init__(self, pid: int, n_steps: int) -> None:
        self._pid, self._n_steps = pid, n_steps

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self._n_steps:
            kill(self._pid)


def train_past_a_server(server: str, path: Path, pid: int) -> tuple[Outcome, int]:
    """The server dies in the first stage, for good; with the number of search steps."""
    options = {"server": server, "timeout_s": 0.5, **AUTOLRS}
    trainer, watcher = _made(TunerTrainer, "ddp", path, options, max_steps=60)
    trainer.add_callback(Killer(pid, 5))
    trainer.train()
    return _outcome(trainer, watcher), trainer.tuner.search_steps


def resume(kind: str, server: str, path: Path, checkpoint: Path) -> Outcome:
    """Goes on from a checkpoint."""
    trainer, watcher = _made(TunerTrainer, kind, path, {"server": server, **AUTOLRS}, max_steps=60)
    trainer.train(resume_from_checkpoint=str(checkpoint))
    return _outcome(trainer, watcher)


def fail_to_resume(path: Path, checkpoint: Path) -> str:
    """What is said to a checkpoint that is not these processes'."""
    try:
        resume("ddp", "127.0.0.1:1", path, checkpoint)
    except ConfigError as error:
        return str(error)
    raise AssertionError("nothing was raised")
