"""The Lightning callback in real fits: probes leave no trace in Lightning, and a checkpoint goes on bit for bit."""

from __future__ import annotations

import collections
import copy
import runpy
from pathlib import Path
from typing import Any

import lrpilot
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint, StochasticWeightAveraging
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.utilities import CombinedLoader
from lrpilot.errors import ConfigError
from lrpilot.integrations.lightning import TunerCallback
from lrpilot.transport.scripted import ScriptedTransport
from lrpilot.v1 import tuner_pb2 as pb
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchdata.stateful_dataloader import StatefulDataLoader
from torchmetrics.classification import MulticlassAccuracy

from benchmarks.quality.local import LocalTransport
from tests.support.repository import doc_pages
from tests.support.servers.server_process import ServerProcess
from tests.support.training.same_bits import assert_same
from tests.support.training.scripted_directives import probe, training

pytestmark = [
    # Lightning's advice about workers, intervals and unused hooks; and its own uses of what its libraries deprecate.
    pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:lightning"),
    pytest.mark.filterwarnings("ignore::FutureWarning:lightning"),
    # A resumed run's checkpoints go to a directory of their own here.
    pytest.mark.filterwarnings("ignore:The dirpath has changed:UserWarning:lightning"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning"),
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning:torchdata"),
]

N_SAMPLES, BATCH = 96, 16  # 6 batches an epoch
AUTOLRS: dict[str, Any] = {
    "policy": "autolrs",
    "policy_options": {"tau": 30, "tau_prime": 5, "tau_max": 30, "candidates": 3},
}


class Noisy(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Two blobs, augmented from the global random state."""

    def __init__(self) -> None:
        self.targets = torch.arange(N_SAMPLES) % 2
        self.inputs = torch.randn(N_SAMPLES, 8, generator=torch.Generator().manual_seed(7)) + self.targets[:, None]

    def __len__(self) -> int:
        return N_SAMPLES

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.inputs[index] + 0.1 * torch.randn(8), self.targets[index]


class Net(LightningModule):  # type: ignore[misc]  # Lightning's types are not read
    """Batch norm, dropout, a logged metric, and outputs collected over an epoch."""

    n_forwards = 0
    """Of all nets: attributes of a class are not rolled back."""

    def __init__(self, lr: float = 0.05) -> None:
        super().__init__()
        self.lr = lr
        self.net = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 2))
        self.accuracy = MulticlassAccuracy(num_classes=2)
        self.collected: list[torch.Tensor] = []
        self.used_lrs: list[float] = []
        type(self).n_forwards = 0  # the class's, which is not rolled back

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> torch.Tensor:
        inputs, targets = batch
        logits = self.net(inputs)
        loss = functional.cross_entropy(logits, targets)
        type(self).n_forwards += 1
        self.accuracy(logits, targets)
        self.collected.append(loss.detach())
        self.log("loss", loss, on_step=True, on_epoch=True, batch_size=len(targets))
        self.log("accuracy", self.accuracy, on_step=False, on_epoch=True)
        return loss

    def on_train_epoch_end(self) -> None:
        self.log("collected", torch.stack(self.collected).mean())
        self.collected.clear()

    def validation_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> None:
        inputs, targets = batch
        self.log("val_loss", functional.cross_entropy(self.net(inputs), targets))

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(
            [
                {"params": self.net[0].parameters(), "lr": self.lr},
                {"params": self.net[1:].parameters(), "lr": self.lr / 4},
            ]
        )


class Log(DummyLogger):  # type: ignore[misc]  # Lightning's types are not read
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[dict[str, float], int | None]] = []

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.rows.append((dict(metrics), step))


class Watcher(Callback):  # type: ignore[misc]  # Lightning's types are not read
    """Counts the hooks that Lightning calls, and notes the LR that every optimizer step is made at."""

    def __init__(self) -> None:
        self.calls: collections.Counter[str] = collections.Counter()
        self.lrs: list[float] = []
        self.global_steps: list[int] = []

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("on_") and "checkpoint" not in name:
            object.__getattribute__(self, "calls")[name] += 1
        return object.__getattribute__(self, name)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        self.lrs.append(float(optimizer.param_groups[0]["lr"]))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.global_steps.append(trainer.global_step)


class Run:
    """A fit, and all that can be seen of it afterwards."""

    def __init__(
        self, *callbacks: Callback, lr: float = 0.05, loader: Any = None, net: type[Net] = Net, **options: Any
    ) -> None:
        torch.manual_seed(0)
        self.net = net(lr)
        self.log, self.watcher = Log(), Watcher()
        self.loader = DataLoader(Noisy(), batch_size=BATCH, shuffle=True) if loader is None else loader
        self.trainer = Trainer(
            accelerator="cpu",
            devices=1,
            logger=self.log,
            log_every_n_steps=1,
            callbacks=[*callbacks, self.watcher],
            enable_checkpointing=any(isinstance(each, ModelCheckpoint) for each in callbacks),
            enable_model_summary=False,
            **{"enable_progress_bar": False, **options},
        )

    def fit(self, validate: bool = True, n_workers: int = 0, **arguments: Any) -> Run:
        """`n_workers`: of the validation's loader, which keeps them."""
        workers: dict[str, Any] = {"num_workers": n_workers, "persistent_workers": n_workers > 0}
        loaders = {"val_dataloaders": DataLoader(Noisy(), batch_size=BATCH, **workers)} if validate else {}
        self.trainer.fit(self.net, self.loader, **loaders, **arguments)
        return self

    def everything(self) -> dict[str, Any]:
        """Weights, optimizer state but for the LR, random state, counters, logs, hooks."""
        loop = self.trainer.fit_loop
        optimizer = copy.deepcopy(self.trainer.optimizers[0].state_dict())
        return {
            "model": {name: value.clone() for name, value in self.net.state_dict().items()},
            "optimizer": optimizer,
            "random": torch.get_rng_state(),
            "loops": loop.state_dict(),
            "global_step": self.trainer.global_step,
            "metrics": dict(self.trainer.callback_metrics),
            "rows": self.log.rows,
            "calls": dict(self.watcher.calls),
            "collected": self.net.collected,
        }


def scripted(*directives: pb.Directive, **arguments: Any) -> tuple[TunerCallback, ScriptedTransport]:
    transport = ScriptedTransport(directives)
    arguments.setdefault("total_steps", sum(directive.n_steps for directive in directives))
    return TunerCallback(transport=transport, **arguments), transport


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"accumulate_grad_batches": 4, "gradient_clip_val": 0.5},
        {"precision": "bf16-mixed"},
        {"plugins": [MixedPrecision("16-mixed", device="cpu", scaler=torch.amp.GradScaler("cpu", growth_interval=3))]},
        {"limit_train_batches": 4, "val_check_interval": 2},
        {"enable_progress_bar": True},
    ],
    ids=["plain", "accumulated and clipped", "bf16", "fp16 with a scaler", "part of an epoch", "progress bar"],
)
def test_probes_leave_no_trace_in_lightning(options: dict[str, Any]) -> None:
    """Two searches, one in the middle of an epoch; against Lightning alone with the same constant LR."""
    bare = Run(lr=0.03, max_epochs=3, **copy.deepcopy(options)).fit()
    n_steps = bare.trainer.global_step
    callback, transport = scripted(
        probe(10.0, 9, first=True),
        probe(0.5, 7),
        training(0.03, 3, restore=True),
        probe(1.0, 5, first=True),
        probe(0.2, 5),
        training(0.03, 50, restore=True),
    )
    probed = Run(callback, max_epochs=3, **copy.deepcopy(options)).fit()

    assert [len(report.losses) for report in transport.reports[:5]] == [9, 7, 3, 5, 5]
    if "plugins" not in options:  # The tuner leaves out updates that the scaler skips; Lightning counts them.
        assert callback.tuner.committed_step == n_steps
    assert probed.watcher.lrs == [0.03] * n_steps
    assert_same(bare.everything(), probed.everything())


def test_a_metric_that_is_logged_is_minimised_as_minus_it() -> None:
    callback, transport = scripted(
        probe(0.1, 3, first=True, validate_at=[3]), training(0.03, 2, restore=True), validate="val_loss", mode="max"
    )
    Run(callback, max_steps=5).fit()
    (reported,) = [each.loss for report in transport.reports for each in report.validations]
    assert reported < 0  # a loss, taken for a metric
    (shown,) = [each.loss for tried in callback.tuner.schedule.probes for each in tried.validations]
    assert (shown, callback.tuner.mode) == (-reported, "max")


def test_the_size_of_logits_is_measured_of_the_modules_that_were_named() -> None:
    net, largest = Net(), []
    net.net[-1].register_forward_hook(lambda module, inputs, output: largest.append(output.detach().abs().max().item()))
    callback, transport = scripted(training(0.03, 4, measures=["output_logit"]), logits=net.net[-1])
    Run(callback, net=lambda lr: net, max_steps=4, accumulate_grad_batches=2).fit(validate=False)  # type: ignore[arg-type]
    [measure] = transport.reports[0].measures
    assert list(measure.values) == [max(largest[i : i + 2]) for i in range(0, 8, 2)]


def test_own_generators_and_several_loaders_are_where_they_were() -> None:
    """A loader that shuffles by a generator of its own, combined with another one that is cycled through."""

    def loaders() -> CombinedLoader:
        generator = torch.Generator().manual_seed(1)
        short = DataLoader(Noisy(), batch_size=48, shuffle=True)
        return CombinedLoader(
            {"a": DataLoader(Noisy(), BATCH, shuffle=True, generator=generator), "b": short}, "max_size_cycle"
        )

    class Pairs(Net):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return super().training_step(batch["a"], batch_idx) + super().training_step(batch["b"], batch_idx)

    bare = Run(net=Pairs, lr=0.03, loader=loaders(), max_epochs=3).fit()
    callback, _ = scripted(
        training(0.03, 8), probe(0.5, 9, first=True), probe(0.1, 4), training(0.03, 20, restore=True)
    )
    probed = Run(callback, net=Pairs, loader=loaders(), max_epochs=3).fit()
    assert_same(bare.everything(), probed.everything())


def test_every_probe_replays_the_same_batches_at_its_own_lr_and_counts_from_the_same_step() -> None:
    seen: list[tuple[int, float, float]] = []
    indices: list[int] = []

    class Watched(Net):
        def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> torch.Tensor:
            lr = float(self.trainer.optimizers[0].param_groups[0]["lr"])
            seen.append((self.global_step, lr, batch[0].sum().item()))
            indices.append(batch_idx)
            return super().training_step(batch, batch_idx)

    callback, _ = scripted(training(0.03, 4), probe(0.5, 8, first=True), probe(0.1, 8), training(0.02, 6, restore=True))
    Run(callback, net=Watched, max_steps=200, max_epochs=-1).fit()
    first, second = seen[4:12], seen[12:20]
    assert [step for step, _, _ in first] == list(range(4, 12))
    assert [(step, data) for step, _, data in first] == [(step, data) for step, _, data in second]
    assert indices[4:12] == [0, 1, 2, 3, 4, 5, 0, 1]
    assert [lr for _, lr, _ in seen] == [0.03] * 4 + [0.5] * 8 + [0.1] * 8 + [0.02] * 6


@pytest.mark.parametrize(
    "limits", [{"max_steps": 90, "max_epochs": -1}, {"max_epochs": 15, "min_epochs": 15}, {"max_epochs": 15}]
)
def test_the_trainer_stops_when_the_budget_is_spent(limits: dict[str, Any]) -> None:
    """Also where the Trainer's minimums would have it go on; 15 epochs are 90 steps."""
    callback = TunerCallback(transport=LocalTransport(), lr_bounds=(1e-3, 1.0), **AUTOLRS)
    run = Run(callback, **limits).fit()
    tuner = callback.tuner
    assert tuner.finished
    assert tuner.search_steps > 0
    assert tuner.committed_step + tuner.search_steps == 90
    assert run.trainer.global_step == tuner.committed_step
    assert run.watcher.lrs == [tuner.schedule.lr(step) for step in range(tuner.committed_step)]
    assert run.net.n_forwards == 90
    assert run.trainer.min_epochs == limits.get("min_epochs", 0)


def test_steps_are_updates_and_losses_their_means() -> None:
    """6 batches in groups of 4: an update of 4, and one of 2. In a probe as in committed steps."""
    losses: list[float] = []

    class Watched(Net):
        def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> torch.Tensor:
            loss = super().training_step(batch, batch_idx)
            losses.append(loss.item())
            return loss

    callback, transport = scripted(probe(0.03, 3, first=True), training(0.03, 4, restore=True))
    run = Run(callback, net=Watched, accumulate_grad_batches=4, max_epochs=10).fit(validate=False)
    assert run.trainer.global_step == 4
    for report, first in zip(transport.reports, (0, 10), strict=True):
        ends = [(0, 4), (4, 6), (6, 10), (10, 12)][: len(report.losses)]
        means = [sum(losses[first + i : first + j]) / (j - i) for i, j in ends]
        assert list(report.losses) == pytest.approx(means)


def test_a_divergence_in_committed_steps_takes_the_weights_back_and_lets_the_counters_go_on() -> None:
    callback, transport = scripted(training(1e30, 20), training(0.03, 10, restore=True), total_steps=60)
    average = EMAWeightAveraging()
    run = Run(average, callback, max_steps=30, max_epochs=-1).fit()
    n_lost = len(transport.reports[0].losses)
    assert transport.reports[0].outcome == pb.OUTCOME_DIVERGED
    assert run.trainer.global_step == 30
    assert callback.tuner.committed_step == 30 - n_lost
    assert all(torch.isfinite(value).all() for value in run.net.state_dict().values())  # the average, by now


@pytest.mark.parametrize("n_workers", [0, 1])
def test_a_metric_of_the_validation_can_be_what_counts(n_workers: int) -> None:
    """It is the Trainer's own figure; asking for it leaves no trace, nor workers that Lightning would go on with."""
    bare = Run(lr=0.03, max_epochs=3).fit(n_workers=n_workers)
    callback, transport = scripted(
        probe(0.5, 7, first=True, validate_at=[0, 7]),
        training(0.03, 40, restore=True, validate_at=[3, 6]),
        validate="val_loss",
    )
    run = Run(callback, max_epochs=3).fit(n_workers=n_workers)
    assert_same(bare.everything(), run.everything())
    assert [v.step for v in transport.reports[0].validations] == [0, 7]
    assert [v.step for v in transport.reports[1].validations] == [3, 6]
    with pytest.raises(ConfigError, match=r"validation logs no 'val_los', only .*val_loss"):
        Run(scripted(training(0.03, 4), validate="val_los")[0], max_epochs=1).fit()


def stateful() -> StatefulDataLoader[Any]:
    return StatefulDataLoader(Noisy(), batch_size=BATCH, shuffle=True)


def shuffled() -> DataLoader[Any]:
    return DataLoader(Noisy(), batch_size=BATCH, shuffle=True)


@pytest.mark.parametrize(
    ("loader", "limits", "saves"),
    [
        (shuffled, {"max_epochs": 15}, {"every_n_epochs": 1, "save_on_train_epoch_end": True}),
        (stateful, {"max_epochs": 15}, {"every_n_train_steps": 7}),
    ],
    ids=["after an epoch", "within an epoch"],
)
def test_a_checkpoint_goes_on_bit_for_bit(
    tmp_path: Path, shared_server: ServerProcess, loader: Any, limits: dict[str, Any], saves: dict[str, Any]
) -> None:
    def callbacks(directory: str) -> list[Callback]:
        tuner = TunerCallback(server=shared_server.target, lr_bounds=(1e-3, 1.0), **AUTOLRS)
        return [tuner, ModelCheckpoint(tmp_path / directory, save_top_k=-1, filename="{step}", **saves)]

    whole = Run(*callbacks("whole"), loader=loader(), **limits).fit(validate=False)
    checkpoints = sorted((tmp_path / "whole").iterdir(), key=lambda path: int(path.stem.partition("=")[2]))
    assert len(checkpoints) > 4
    for path in (checkpoints[1], checkpoints[4]):
        torch.manual_seed(1)
        resumed = Run(*callbacks(path.stem), loader=loader(), **limits)
        resumed.net.load_state_dict(Net().state_dict())  # other weights than in the beginning
        resumed.fit(validate=False, ckpt_path=path, weights_only=True)
        first, second = (run.trainer.callbacks[0] for run in (whole, resumed))
        assert isinstance(first, TunerCallback)
        assert isinstance(second, TunerCallback)
        assert second.tuner.schedule == first.tuner.schedule
        assert resumed.trainer.global_step == whole.trainer.global_step
        assert_same(whole.everything()["model"], resumed.everything()["model"])
        assert_same(whole.everything()["optimizer"], resumed.everything()["optimizer"])
        assert_same(whole.everything()["random"], resumed.everything()["random"])
        stored = shared_server.stub.GetSchedule(
            pb.GetScheduleRequest(job_id=second.tuner.job_id, view=pb.SCHEDULE_VIEW_FULL), timeout=10
        )
        assert lrpilot.Schedule.from_response(stored, first.tuner.schedule.base_lrs) == first.tuner.schedule


def test_a_checkpoint_saved_after_the_fit_can_still_spend_what_is_left(tmp_path: Path) -> None:
    transport = LocalTransport()
    callback = TunerCallback(transport=transport, lr_bounds=(1e-3, 1.0), **AUTOLRS, total_steps=150)
    run = Run(callback, max_epochs=5).fit()
    assert callback.tuner.committed_step == 30
    run.trainer.save_checkpoint(tmp_path / "half.ckpt")
    state = torch.load(tmp_path / "half.ckpt", weights_only=True)["callbacks"]["TunerCallback"]
    assert not state["tuner"]["finished"]


def test_a_saved_schedule_drives_another_run_with_no_server(tmp_path: Path) -> None:
    callback = TunerCallback(transport=LocalTransport(), lr_bounds=(1e-3, 1.0), **AUTOLRS)
    tuned = Run(callback, max_steps=90, max_epochs=-1).fit()
    callback.tuner.schedule.save(tmp_path / "schedule.json")

    class Replayed(Net):
        def configure_optimizers(self) -> Any:
            optimizer = super().configure_optimizers()
            schedule = lrpilot.Schedule.load(tmp_path / "schedule.json")
            scheduler = schedule.scheduler(optimizer)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    replayed = Run(net=Replayed, max_steps=tuned.trainer.global_step, max_epochs=-1).fit()
    assert replayed.watcher.lrs == tuned.watcher.lrs
    assert_same(replayed.everything()["model"], tuned.everything()["model"])


class Scheduled(Net):
    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 10)]


def test_what_cannot_be_tuned_is_refused() -> None:
    callback = TunerCallback(transport=LocalTransport())
    by_hand = Run(callback, max_epochs=1)
    by_hand.net.automatic_optimization = False
    with pytest.raises(ConfigError, match="optimizes by hand"):
        by_hand.fit()
    with pytest.raises(ConfigError, match="StochasticWeightAveraging"):
        Run(callback, StochasticWeightAveraging(0.1), max_epochs=1).fit()
    with pytest.raises(ConfigError, match="returns an LR scheduler"):
        Run(callback, net=Scheduled, max_epochs=1).fit()
    with pytest.raises(RuntimeError, match="when training starts"):
        _ = callback.tuner


@pytest.mark.slow  # much the same program as the page's
def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared_server: ServerProcess) -> None:
    example = Path("examples/lightning_digits.py").resolve()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LRPILOT_SERVER", shared_server.target)
    names = runpy.run_path(str(example))
    assert names["trainer"].global_step == lrpilot.Schedule.load("schedule.json").n_steps
    assert names["tuner"].search_steps > 0
    assert names["trainer"].callback_metrics["val_loss"] < 0.3


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared_server: ServerProcess) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LRPILOT_SERVER", shared_server.target)
    names = doc_pages.run("lightning")
    assert names["trainer"].global_step == names["tuner"].committed_step
