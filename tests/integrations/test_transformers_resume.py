"""The tuned Trainer again: a second `train()`, checkpoints with and without a tuner, other budgets, other LRs."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from lrpilot.errors import ConfigError
from lrpilot.integrations.transformers import TunerTrainer
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from tests.support.jobs.kept_jobs import KeptJobs

BASE, BATCH = 0.03, 4
JOBS = KeptJobs()


class Regressor(nn.Module):
    main_input_name = "x"

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1)

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": (self.layer(x) - labels).square().mean()}


def points() -> list[dict[str, torch.Tensor]]:
    """26: seven batches, the last one of two."""
    inputs = torch.randn(26, 3, generator=torch.Generator().manual_seed(0))
    return [{"x": x, "labels": x.sum(dim=0, keepdim=True)} for x in inputs]


def arguments(path: Path, **others: Any) -> TrainingArguments:
    defaults = {
        "output_dir": str(path),
        "per_device_train_batch_size": BATCH,
        "learning_rate": BASE,
        "logging_strategy": "no",
        "save_strategy": "steps",
        "save_steps": 12,
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
    }
    return TrainingArguments(**(defaults | others))


class Lrs(TrainerCallback):  # type: ignore[misc]  # its types are not read
    """Notes the LR of every step of the Trainer's own loop."""

    def __init__(self) -> None:
        self.used: list[float] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:
        self.used.append(float(optimizer.param_groups[0]["lr"]))


def made(kind: type[Trainer], args: TrainingArguments, **others: Any) -> tuple[Any, Lrs]:
    lrs = Lrs()
    torch.manual_seed(0)
    callbacks = [*others.pop("callbacks", ()), lrs]
    return kind(model=Regressor(), args=args, train_dataset=points(), callbacks=callbacks, **others), lrs


def tuned(path: Path, kind: type[TunerTrainer] = TunerTrainer, **others: Any) -> tuple[Any, Lrs]:
    made_with = {name: others.pop(name) for name in ("callbacks", "optimizers", "model_init") if name in others}
    return made(kind, arguments(path, **others), lrpilot={"transport": JOBS}, **made_with)


def assert_whole_decay(lrs: list[float], n_steps: int, base: float = BASE) -> None:
    """The LR came from the base, and to its end: it fell by as much as it does in every of its last steps."""
    assert len(lrs) == n_steps
    assert max(lrs) == pytest.approx(base)
    assert lrs[-1] == pytest.approx(lrs[-2] - lrs[-1], rel=0.2)


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Warnings of LRPilot, without that of a short run."""
    records = [each for each in caplog.records if each.name == "lrpilot" and each.levelno >= logging.WARNING]
    return [text for text in (record.getMessage() for record in records) if "too few for" not in text]


PLAIN: dict[str, Any] = {"lr_scheduler_type": "cosine", "warmup_steps": 3, "learning_rate": 0.1}
"""What the run before was made with."""


@pytest.mark.parametrize(
    ("limits", "n_steps"),
    [
        ({"max_steps": 40}, 40),
        ({"num_train_epochs": 5}, 35),
        ({"num_train_epochs": 5, "gradient_accumulation_steps": 2, "save_steps": 6}, 20),
        ({"max_steps": 20, "gradient_accumulation_steps": 3, "save_steps": 8}, 20),
    ],
    ids=["steps", "epochs", "epochs, accumulated", "steps, accumulated"],
)
@pytest.mark.parametrize("only_model", [False, True], ids=["whole", "only the model"])
def test_a_checkpoint_without_a_tuner_leaves_what_is_left(
    tmp_path: Path, limits: dict[str, Any], n_steps: int, only_model: bool
) -> None:
    """From the LR of the arguments now, whatever that run did to it."""
    save_steps = limits.get("save_steps", 12)
    plain, _ = made(Trainer, arguments(tmp_path, **{**limits, **PLAIN, "save_only_model": only_model}))
    plain.train()
    path = tmp_path / f"checkpoint-{save_steps}"
    trainer, lrs = tuned(tmp_path / "tuned", **limits)
    trainer.train(resume_from_checkpoint=str(path))
    assert trainer.state.global_step == n_steps
    assert_whole_decay(lrs.used, n_steps - save_steps)

    # And that run's own checkpoints go on in turn.
    path = tmp_path / "tuned" / f"checkpoint-{2 * save_steps}"
    if 2 * save_steps < n_steps:
        trainer, lrs = tuned(tmp_path / "more", **{**limits, "max_steps": n_steps + 10})
        trainer.train(resume_from_checkpoint=str(path))
        assert len(lrs.used) == n_steps + 10 - 2 * save_steps
        assert trainer.tuner.committed_step == n_steps + 10 - save_steps


@pytest.mark.parametrize("max_steps", [60, 30], ids=["more", "fewer"])
def test_a_checkpoint_goes_on_to_another_number_of_steps(tmp_path: Path, max_steps: int) -> None:
    first, before = tuned(tmp_path, max_steps=40)
    first.train()
    trainer, after = tuned(tmp_path, max_steps=max_steps)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-24"))
    assert trainer.state.global_step == max_steps == trainer.tuner.committed_step
    assert len(after.used) == max_steps - 24
    if max_steps < 40:
        assert after.used[0] == pytest.approx(before.used[23], rel=0.1)
    else:  # on the line from the first run's peak to the new end
        assert after.used[0] == pytest.approx(BASE * 36 / 60, rel=0.1)
    assert after.used[-1] == pytest.approx(after.used[-2] - after.used[-1], rel=0.2)


def test_a_run_that_was_over_goes_on_with_more_steps(tmp_path: Path) -> None:
    first, _ = tuned(tmp_path, max_steps=24)
    first.train()
    trainer, lrs = tuned(tmp_path, max_steps=48)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-24"))
    assert len(lrs.used) == 24
    assert max(lrs.used) == pytest.approx(BASE / 2, rel=0.1)


@pytest.mark.parametrize("kind", [Trainer, TunerTrainer])
def test_a_budget_that_is_spent_is_refused(tmp_path: Path, kind: type[Trainer]) -> None:
    """Whoever spent it."""
    options = {"lrpilot": {"transport": JOBS}} if kind is TunerTrainer else {}
    made(kind, arguments(tmp_path, max_steps=24), **options)[0].train()
    for max_steps in (24, 20):
        trainer, lrs = tuned(tmp_path, max_steps=max_steps)
        with pytest.raises(ConfigError, match=r"(raise max_steps or num_train_epochs|give more)$"):
            trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-24"))
        assert lrs.used == []


def sgd() -> dict[str, Any]:
    model = Regressor()
    return {"model": model, "optimizers": (torch.optim.SGD(model.parameters(), lr=BASE), None)}


@pytest.mark.parametrize("own", ["the Trainer's", "the user's", "model_init"])
def test_every_training_begins_at_the_lr_that_was_set(
    tmp_path: Path, own: str, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    model = Regressor()
    options: dict[str, Any] = {"model": model}
    if own == "the user's":
        options["optimizers"] = (torch.optim.SGD(model.parameters(), lr=BASE), None)
    if own == "model_init":
        options = {"model_init": lambda trial=None: Regressor()}
    lrs = Lrs()
    trainer = TunerTrainer(
        args=arguments(tmp_path, max_steps=30, save_strategy="no"),
        train_dataset=points(),
        callbacks=[lrs],
        lrpilot={"transport": JOBS},
        **options,
    )
    for _ in range(3):
        trainer.train()
        assert_whole_decay(lrs.used, 30)
        lrs.used.clear()
    if own != "model_init":
        trainer.optimizer.param_groups[0]["lr"] = 0.007
        trainer.train()
        assert_whole_decay(lrs.used, 30, base=0.007)
        lrs.used.clear()
    trainer.args.max_steps = 20
    trainer.train()
    assert len(lrs.used) == 20
    assert said(caplog) == []


class SetsLr(TrainerCallback):  # type: ignore[misc]  # its types are not read
    """Sets the LR in one hook."""

    def __init__(self, hook: str) -> None:
        setattr(self, hook, self._set)

    def _set(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:
        optimizer.param_groups[0]["lr"] = 0.5


@pytest.mark.parametrize("hook", ["on_epoch_begin", "on_epoch_end", "on_step_end", "on_step_begin"])
def test_a_callback_that_sets_the_lr_is_named_once(tmp_path: Path, hook: str, caplog: pytest.LogCaptureFixture) -> None:
    trainer, lrs = tuned(tmp_path, max_steps=30, save_strategy="no")
    trainer.add_callback(SetsLr(hook))
    trainer.train()
    assert len(said(caplog)) == 1
    assert "take out the scheduler, callback or assignment" in said(caplog)[0]
    if "epoch" in hook:
        assert 0.5 not in lrs.used


class Scheduled(TunerTrainer):
    """Makes a scheduler of its own."""

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        self.lr_scheduler = torch.optim.lr_scheduler.ConstantLR(self.optimizer)
        return self.lr_scheduler


def test_a_scheduler_is_refused_wherever_it_comes_from(tmp_path: Path) -> None:
    trainer, lrs = tuned(tmp_path, kind=Scheduled, max_steps=30)
    with pytest.raises(ConfigError, match="create_scheduler: it makes a scheduler, and the LR is the tuner's"):
        trainer.train()
    trainer, _ = tuned(tmp_path, max_steps=30)
    trainer.lr_scheduler = torch.optim.lr_scheduler.ConstantLR(trainer.create_optimizer())
    with pytest.raises(ConfigError, match="lr_scheduler: there is one"):
        trainer.train()
    assert lrs.used == []
