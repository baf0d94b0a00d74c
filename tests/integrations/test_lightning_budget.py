"""The budget of a Lightning fit: what is left in optimizer steps, wherever the fit begins; and its base LRs."""

from __future__ import annotations

import logging
import re
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import BackboneFinetuning, BaseFinetuning, GradientAccumulationScheduler
from lightning.pytorch.utilities import CombinedLoader
from lrpilot.integrations import lightning_plan
from lrpilot.integrations.lightning import TunerCallback
from lrpilot.transport.scripted import ScriptedTransport
from lrpilot.v1 import tuner_pb2 as pb
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tests.support.jobs.kept_jobs import KeptJobs
from tests.support.training.scripted_directives import probe, training

pytestmark = [
    # Lightning's advice about workers, intervals and resumed epochs; and its own uses of what its libraries deprecate.
    pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:lightning"),
    pytest.mark.filterwarnings("ignore::FutureWarning:lightning"),
    # Lightning tells what a checkpoint or its place lacks, and what a callback leaves frozen.
    pytest.mark.filterwarnings("ignore::UserWarning:lightning"),
]

BASE = 0.05
JOBS = KeptJobs()
AUTOLRS: dict[str, Any] = {
    "policy": "autolrs",
    "policy_options": {"tau": 10, "tau_prime": 3, "tau_max": 10, "candidates": 2},
}


def loader(n_batches: int = 6) -> DataLoader[Any]:
    inputs = torch.randn(4 * n_batches, 4, generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(inputs, inputs.sum(dim=1, keepdim=True)), batch_size=4)


USED: weakref.WeakKeyDictionary[Net, list[list[float]]] = weakref.WeakKeyDictionary()
"""The LRs of every optimizer step, also of those that are rolled back: an attribute of the module would be, too."""


class Net(LightningModule):  # type: ignore[misc]  # Lightning's types are not read
    """Notes the LRs of every optimizer step; those of probes too."""

    def __init__(self, lr: float = BASE) -> None:
        super().__init__()
        self.backbone, self.head, self.lr = nn.Linear(4, 4), nn.Linear(4, 1), lr
        USED[self] = []

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        inputs, targets = batch
        loss: torch.Tensor = (self.head(self.backbone(inputs)) - targets).square().mean()
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=self.lr)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        USED[self].append([float(group["lr"]) for group in optimizer.param_groups])

    @property
    def lrs(self) -> list[float]:
        return [lrs[0] for lrs in USED[self]]

    @property
    def ratios(self) -> list[float]:
        """Of the second group's LR to the first, where there are two."""
        return [lrs[1] / lrs[0] for lrs in USED[self] if len(lrs) > 1]


class Validated(Net):
    def validation_step(self, batch: Any, batch_idx: int) -> None: ...


class SaveAt(Callback):  # type: ignore[misc]  # Lightning's types are not read
    """Saves a checkpoint the nth time that a hook is called."""

    def __init__(self, path: Path, hook: str, nth: int) -> None:
        self._path, self._nth = path, nth
        setattr(self, hook, self._save)

    def _save(self, trainer: Trainer, *_: Any) -> None:
        self._nth -= 1
        if self._nth == 0:
            trainer.save_checkpoint(self._path)


def fit(net: Net, *callbacks: Callback, data: Any = None, ckpt_path: Path | None = None, **limits: Any) -> Trainer:
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        callbacks=list(callbacks),
        **limits,
    )
    validation = loader(2) if isinstance(net, Validated) else None
    trainer.fit(net, loader() if data is None else data, validation, ckpt_path=ckpt_path)
    return trainer


def tuned(**options: Any) -> TunerCallback:
    return TunerCallback(transport=JOBS, lr_bounds=(1e-3, 1.0), **options)


def assert_whole_decay(lrs: list[float], n_steps: int) -> None:
    """The LR came from the base, and to its end: it fell by as much as it does in every of its last steps."""
    assert len(lrs) == n_steps
    assert max(lrs) == pytest.approx(BASE)
    assert lrs[-1] == pytest.approx(lrs[-2] - lrs[-1], rel=0.2)


@pytest.mark.parametrize(
    ("hook", "nth"),
    [("on_train_epoch_end", 2), ("on_train_batch_end", 8), ("on_train_batch_end", 12), ("on_validation_end", 3)],
    ids=["after an epoch", "within an epoch", "after an epoch's last batch", "after a validation"],
)
@pytest.mark.parametrize(
    "limits",
    [
        {"max_epochs": 6},
        {"max_steps": 20},
        {"max_epochs": 6, "accumulate_grad_batches": 4},
        {"max_epochs": 6, "limit_train_batches": 4},
        {"max_epochs": 6, "callbacks": {0: 4, 3: 2, 4: 1}},
    ],
    ids=["epochs", "steps", "accumulated", "part of an epoch", "accumulated by epoch"],
)
def test_a_checkpoint_without_a_tuner_leaves_what_lightning_would_still_make(
    tmp_path: Path, hook: str, nth: int, limits: dict[str, Any]
) -> None:
    """Against Lightning alone from the same checkpoint; also where an epoch's last step has fewer micro-batches."""
    path = tmp_path / "plain.ckpt"
    nth = min(nth, 2 * limits.get("limit_train_batches", nth))
    limits = {"val_check_interval": 2, **limits}
    schedule = limits.pop("callbacks", None)

    def callbacks() -> list[Callback]:
        return [] if schedule is None else [GradientAccumulationScheduler(dict(schedule))]

    class Scheduled(Validated):
        def configure_optimizers(self) -> Any:
            optimizer = super().configure_optimizers()
            return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.1)]

    fit(Scheduled(), SaveAt(path, hook, nth), *callbacks(), **{**limits, "max_epochs": 3, "max_steps": -1})
    bare, net, callback = Validated(), Validated(), tuned()
    fit(bare, *callbacks(), ckpt_path=path, **limits)
    fit(net, callback, *callbacks(), ckpt_path=path, **limits)
    assert callback.tuner.finished
    assert_whole_decay(net.lrs, len(bare.lrs))


@pytest.mark.parametrize(
    ("limits", "data", "n_steps"),
    [
        ({"max_epochs": 5}, lambda: loader(7), 35),
        ({"max_epochs": 5, "accumulate_grad_batches": 3}, lambda: loader(7), 15),
        ({"max_epochs": 6, "schedule": {0: 8, 2: 3, 4: 1}}, lambda: loader(7), 2 * 1 + 2 * 3 + 2 * 7),
        ({"max_epochs": 6, "schedule": {2: 7}, "max_steps": 15}, lambda: loader(7), 15),
        ({"max_epochs": 5, "limit_train_batches": 0.5}, lambda: loader(8), 20),
        ({"max_epochs": 4}, lambda: CombinedLoader([loader(3), loader(5)], "max_size_cycle"), 20),
        ({"max_epochs": 5}, lambda: CombinedLoader([loader(3), loader(5)], "min_size"), 15),
    ],
    ids=["plain", "accumulated", "by epoch", "by epoch, in steps", "half an epoch", "two loaders", "the shorter one"],
)
def test_the_budget_is_in_optimizer_steps(limits: dict[str, Any], data: Any, n_steps: int) -> None:
    class First(Net):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return super().training_step(batch[0] if isinstance(batch[0], list) else batch, batch_idx)

    net, callback, others = First(), tuned(), []
    if schedule := limits.pop("schedule", None):
        others = [GradientAccumulationScheduler(schedule)]
    fit(net, callback, *others, data=data(), **limits)
    assert callback.tuner.finished
    assert_whole_decay(net.lrs, n_steps)


def test_a_search_accumulates_as_the_epoch_that_comes_does() -> None:
    """The first one before Lightning has set the number for epoch 0, the second one at the end of an epoch."""
    transport = ScriptedTransport(
        [probe(0.1, 3, first=True), training(0.02, 4, restore=True), probe(0.1, 3, first=True), training(0.02, 9)]
    )
    sizes: list[int] = []

    class Counted(Net):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            sizes.append(int(self.trainer.accumulate_grad_batches))
            return super().training_step(batch, batch_idx)

    callback = TunerCallback(transport=transport, total_steps=19)
    trainer = fit(Counted(), callback, GradientAccumulationScheduler({0: 3, 2: 2}), max_epochs=5)
    assert sizes == [3] * 9 + [3] * 12 + [2] * 6 + [2] * 18
    assert trainer.global_step == 4 + 9


@pytest.mark.parametrize("limit", ["max_epochs", "max_steps"])
def test_a_second_fit_has_what_is_left_and_the_lr_that_was_set(limit: str, caplog: pytest.LogCaptureFixture) -> None:
    """The same trainer, module and callback, and an optimizer that the module keeps; then with more to do."""

    class Keeps(Net):
        def configure_optimizers(self) -> Any:
            self._kept = getattr(self, "_kept", None) or super().configure_optimizers()
            return self._kept

    n_steps = {"max_epochs": 10, "max_steps": 60}
    net, callback = Keeps(), tuned(**AUTOLRS)
    limits: dict[str, Any] = {limit: n_steps[limit]}
    trainer = fit(net, callback, **limits)
    assert len(net.lrs) == 60
    assert callback.tuner.search_steps > 0

    with caplog.at_level(logging.WARNING, "lrpilot"):
        trainer.fit(net, loader())
    assert len(net.lrs) == 60
    assert "nothing is left to train" in caplog.text
    assert trainer.global_step == callback.tuner.committed_step

    loop = trainer.fit_loop if limit == "max_epochs" else trainer.fit_loop.epoch_loop
    setattr(loop, limit, 2 * n_steps[limit])
    callback._job = {"transport": JOBS}  # not searched: the base LR is what the schedule begins with
    trainer.fit(net, loader())
    n_partial = -trainer.global_step % 6 if limit == "max_epochs" else 0
    assert 120 - 6 <= len(net.lrs) + n_partial <= 120 + 6
    assert callback.tuner.finished
    assert_whole_decay(net.lrs[60:], callback.tuner.committed_step)


def test_another_trainer_begins_anew_with_the_same_callback() -> None:
    callback = tuned()
    fit(Net(), callback, max_epochs=5)
    net = Net()
    fit(net, callback, max_epochs=5)
    assert_whole_decay(net.lrs, 30)


class Resumed(ScriptedTransport):
    """Goes on where a checkpoint was."""

    def resume_job(self, request: pb.ResumeJobRequest, timeout_s: float) -> pb.ResumeJobResponse:
        return pb.ResumeJobResponse()


class Unfreeze(BaseFinetuning):  # type: ignore[misc]  # Lightning's types are not read
    """The backbone joins after an epoch, at a LR of its own."""

    def freeze_before_training(self, pl_module: LightningModule) -> None:
        self.freeze(pl_module.backbone)

    def finetune_function(self, pl_module: LightningModule, epoch: int, optimizer: Any) -> None:
        if epoch == 1:
            lr = float(optimizer.param_groups[0]["lr"]) / 4
            self.unfreeze_and_add_param_group(pl_module.backbone, optimizer, lr=lr)


def backbone() -> BackboneFinetuning:
    return BackboneFinetuning(1, lambda epoch: 1.0, backbone_initial_ratio_lr=0.25, should_align=False)


@pytest.mark.parametrize("finetuning", [Unfreeze, backbone])
@pytest.mark.parametrize("first", [True, False], ids=["before the tuner", "after the tuner"])
def test_a_group_that_is_added_keeps_its_ratio_over_a_divergence_and_a_resume(
    tmp_path: Path, finetuning: Any, first: bool
) -> None:
    def callbacks(*directives: pb.Directive) -> tuple[list[Callback], TunerCallback]:
        callback = TunerCallback(transport=Resumed(directives), total_steps=60)
        return ([finetuning(), callback] if first else [callback, finetuning()]), callback

    path = tmp_path / "tuned.ckpt"
    unfrozen, _ = callbacks(training(0.04, 9), training(1e30, 9), training(0.02, 40, restore=True))
    net = Net()
    fit(net, *unfrozen, SaveAt(path, "on_train_epoch_end", 4), max_epochs=6)
    assert len(net.ratios) == 30
    assert net.ratios == pytest.approx([0.25] * 30)
    assert net.lrs[-1] == 0.02

    resumed, callback = callbacks(training(0.03, 60))
    net = Net()
    fit(net, *resumed, ckpt_path=path, max_epochs=6)
    assert len(net.ratios) == 12
    assert net.ratios == pytest.approx([0.25] * 12)
    assert callback.tuner.schedule.base_lrs[0] == BASE


@pytest.mark.parametrize("first", [True, False], ids=["before the tuner", "after the tuner"])
def test_a_group_that_was_added_without_a_tuner_keeps_its_ratio(tmp_path: Path, first: bool) -> None:
    path = tmp_path / "plain.ckpt"
    fit(Net(), Unfreeze(), SaveAt(path, "on_train_epoch_end", 2), max_epochs=3)
    net, callback = Net(), tuned()
    fit(net, *([Unfreeze(), callback] if first else [callback, Unfreeze()]), ckpt_path=path, max_epochs=8)
    assert_whole_decay(net.lrs, 36)
    assert net.ratios == pytest.approx([0.25] * 36)


def test_an_interrupted_search_leaves_the_last_committed_weights_and_no_state_of_a_probe() -> None:
    class Stops(Net):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            if len(USED[self]) == 4:
                committed.append(self.head.weight.detach().clone())
            if len(USED[self]) == 6:
                raise RuntimeError("out of memory")
            return super().training_step(batch, batch_idx)

    committed: list[torch.Tensor] = []
    callback = TunerCallback(transport=ScriptedTransport([training(0.02, 4), probe(0.1, 5, first=True)]), total_steps=9)
    net = Stops()
    with pytest.raises(RuntimeError, match="out of memory"):
        fit(net, callback, max_epochs=5)
    assert torch.equal(net.head.weight, *committed)
    assert callback.state_dict() == {}


@pytest.mark.parametrize(
    ("hook", "nth", "limits", "n_steps"),
    [
        ("on_train_epoch_end", 4, {"max_epochs": 12}, 72),
        ("on_train_epoch_end", 4, {"max_epochs": 6}, 36),
        ("on_train_batch_end", 20, {"max_epochs": 12}, 72),
        ("on_train_batch_end", 20, {"max_steps": 50}, 50),
        ("on_fit_end", 1, {"max_epochs": 12}, 72),
    ],
    ids=["more", "fewer", "more, from within an epoch", "in steps", "after the end"],
)
def test_a_checkpoint_goes_on_to_another_end(
    tmp_path: Path, hook: str, nth: int, limits: dict[str, Any], n_steps: int
) -> None:
    """Planned anew: the LR is at its end when the Trainer is at its own."""
    path = tmp_path / "tuned.ckpt"
    fit(Net(), tuned(), SaveAt(path, hook, nth), max_epochs=8)
    net, callback = Net(), tuned()
    trainer = fit(net, callback, ckpt_path=path, **limits)
    assert trainer.global_step == callback.tuner.committed_step == n_steps
    assert net.lrs[-1] == pytest.approx(net.lrs[-2] - net.lrs[-1], rel=0.2)
    assert max(net.lrs) <= BASE


def test_a_checkpoint_of_a_run_that_is_over_is_not_kept_for_the_next_fit(tmp_path: Path) -> None:
    """It leaves nothing to do; a fit with more to do and no checkpoint is a job of its own."""
    path = tmp_path / "over.ckpt"
    fit(Net(), tuned(), SaveAt(path, "on_fit_end", 1), max_epochs=4)
    net, callback = Net(), tuned()
    trainer = fit(net, callback, ckpt_path=path, max_epochs=4)
    assert net.lrs == []
    assert callback.state_dict()["tuner"]["finished"]
    trainer.fit_loop.max_epochs = 9
    trainer.fit(net, loader())
    assert_whole_decay(net.lrs, 30)


class Grows(Callback):  # type: ignore[misc]  # Lightning's types are not read
    """Changes in mid-fit how many micro-batches make a step."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.accumulate_grad_batches = 1 + trainer.current_epoch


class SetsLr(Net):
    def on_train_epoch_start(self) -> None:
        for group in self.optimizers().param_groups:
            group["lr"] = 0.01


@pytest.mark.parametrize(
    ("net", "callbacks", "options", "sentence"),
    [
        (Net, [], {"total_steps": 500}, "total_steps leaves 500 steps, and the Trainer makes 30: .* leave total_steps"),
        (Net, [Grows()], {}, r"the Trainer ends at step \d+ now, and the LR is planned for 30"),
        (SetsLr, [], {}, "the LR is 0.01 where the tuner had set .*: something else sets it too"),
    ],
    ids=["a budget that the Trainer cuts off", "accumulation of one's own", "a hook that sets the LR"],
)
def test_what_would_spoil_the_schedule_is_said_in_one_sentence(
    net: type[Net], callbacks: list[Callback], options: Any, sentence: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "lrpilot"):
        fit(net(), tuned(**options), *callbacks, max_epochs=5)
    texts = [record.getMessage() for record in caplog.records if "too few" not in record.getMessage()]
    assert len(texts) == 1
    assert re.search(sentence, texts[0])


def test_max_time_is_said(caplog: pytest.LogCaptureFixture) -> None:
    fit(Net(), tuned(), max_epochs=2, max_time={"minutes": 5})
    assert "max_time may end the run" in caplog.text


def test_a_time_ends_the_run_wherever_the_trainer_would(caplog: pytest.LogCaptureFixture) -> None:
    callback = tuned(total_time_s=2.0)
    with caplog.at_level(logging.WARNING, "lrpilot"):
        fit(Net(), callback, max_epochs=100_000)
    assert callback.tuner.finished
    assert callback.tuner.lr < 0.1 * max(callback.tuner.schedule.lrs())
    assert not caplog.records


def test_a_budget_without_an_end_has_no_number() -> None:
    class Endless(torch.utils.data.IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter(loader().dataset)

    ahead: list[int | None] = []

    class Asks(Callback):  # type: ignore[misc]  # Lightning's types are not read
        def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            ahead.append(lightning_plan.steps_ahead(trainer))

    fit(Net(), Asks(), data=DataLoader(Endless(), batch_size=4), max_epochs=1)
    fit(Net(), Asks(), data=DataLoader(Endless(), batch_size=4), max_epochs=2, max_steps=8)
    assert ahead == [None, 8]
