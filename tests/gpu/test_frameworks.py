"""Transformers, Lightning and Accelerate on the device that they choose by themselves, or are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lrpilot.transport.scripted import ScriptedTransport
from lrpilot.v1 import tuner_pb2 as pb
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from tests.support.training.device_training import as_bytes
from tests.support.training.scripted_directives import probe, training

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:lightning"),
    pytest.mark.filterwarnings("ignore::FutureWarning:lightning"),
]
LR = 0.02
N_STEPS = 10


class Classifier(nn.Module):
    """Batch norm and dropout, as a Trainer wants them."""

    main_input_name = "x"

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 2))

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.layers(x)
        return {"loss": functional.cross_entropy(logits.float(), labels), "logits": logits}


class Points(Dataset[dict[str, torch.Tensor]]):
    """Two clouds."""

    def __init__(self) -> None:
        self.labels = torch.arange(45) % 2
        generator = torch.Generator().manual_seed(1)
        self.inputs = torch.randn(45, 8, generator=generator) + self.labels[:, None]

    def __len__(self) -> int:
        return 45

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        return {"x": self.inputs[number], "labels": self.labels[number]}


def script() -> list[pb.Directive]:
    return [
        probe(LR * 20, 7, first=True),
        probe(LR / 5, 4),
        training(LR, 4, restore=True),
        probe(LR * 10, 7, first=True),
        training(LR, N_STEPS - 4, restore=True),
    ]


def options() -> dict[str, Any]:
    directives = script()
    return {"transport": ScriptedTransport(directives), "total_steps": sum(each.n_steps for each in directives)}


def bits(model: nn.Module) -> dict[str, bytes]:
    return {name: as_bytes(tensor) for name, tensor in model.state_dict().items()}


def precisions(device: torch.device) -> list[str]:
    """Half precision brings a GradScaler, and updates that it skips: they are rounds of a loop, and no steps."""
    return ["no", "bf16", "fp16"] if device.type == "cuda" else ["no"]


def test_accelerate(device: torch.device) -> None:
    pytest.importorskip("accelerate")
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from lrpilot.integrations.accelerate import tuner as tuner_of

    def run(precision: str, *, probed: bool, n_rounds: int = 0) -> tuple[dict[str, bytes], int]:
        AcceleratorState._reset_state(True)  # one process has one state
        torch.manual_seed(0)
        accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision=precision)
        net = Classifier()
        optimizer: Any = torch.optim.AdamW(net.parameters(), lr=LR)
        model, optimizer, loader = accelerator.prepare(net, optimizer, DataLoader(Points(), 8, shuffle=True))

        def update(batch: dict[str, torch.Tensor]) -> torch.Tensor:
            loss: torch.Tensor = model(**batch)["loss"]
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            return loss

        made = 0
        if probed:
            with tuner_of(accelerator, model, optimizer, **options()) as tuner:
                for batch in tuner.batches(loader):
                    made += not tuner.searching
                    tuner.step(update(batch))
            assert tuner.committed_step == N_STEPS
            return bits(net), made
        while made < n_rounds:
            for batch in loader:
                if made < n_rounds:
                    update(batch)
                    made += 1
        return bits(net), made

    for precision in precisions(device):
        probed, made = run(precision, probed=True)
        assert (probed, made) == run(precision, probed=False, n_rounds=made)


def test_transformers(device: torch.device, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from lrpilot.integrations.transformers import TunerTrainer
    from transformers import Trainer, TrainingArguments

    def run(precision: str, *, probed: bool, n_steps: int = 0) -> tuple[dict[str, bytes], int]:
        torch.manual_seed(0)
        net = Classifier()
        arguments = TrainingArguments(
            str(tmp_path),
            use_cpu=device.type == "cpu",
            bf16=precision == "bf16",
            fp16=precision == "fp16",
            learning_rate=LR,
            lr_scheduler_type="constant",
            per_device_train_batch_size=8,
            max_steps=sum(each.n_steps for each in script()) if probed else n_steps,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        given: dict[str, Any] = {"model": net, "args": arguments, "train_dataset": Points()}
        trainer: Any = (
            TunerTrainer(**given, lrpilot={"transport": options()["transport"]}) if probed else Trainer(**given)
        )
        trainer.train()
        return bits(net), trainer.state.global_step

    for precision in precisions(device):
        probed, made = run(precision, probed=True)
        assert (probed, made) == run(precision, probed=False, n_steps=made)


def test_lightning(device: torch.device, tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    from lightning.pytorch import LightningModule, Trainer, seed_everything
    from lrpilot.integrations.lightning import TunerCallback

    class Module(LightningModule):  # type: ignore[misc]  # untyped
        def __init__(self) -> None:
            super().__init__()
            self.net = Classifier()

        def training_step(self, batch: dict[str, torch.Tensor], number: int) -> torch.Tensor:
            return self.net(**batch)["loss"]  # type: ignore[no-any-return]

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=LR)

    def run(precision: str, *, probed: bool, n_steps: int) -> tuple[dict[str, bytes], int]:
        seed_everything(0, verbose=False)
        module = Module()
        given = options()
        callback = TunerCallback(transport=given["transport"]) if probed else None
        trainer = Trainer(
            accelerator="gpu" if device.type == "cuda" else "cpu",
            devices=1,
            precision={"no": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}[precision],
            max_steps=given["total_steps"] if probed else n_steps,
            callbacks=[callback] if callback else [],
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
            default_root_dir=tmp_path,
        )
        trainer.fit(module, DataLoader(Points(), batch_size=8, shuffle=True))
        return bits(module), trainer.global_step

    for precision in precisions(device):
        probed, made = run(precision, probed=True, n_steps=0)
        assert probed == run(precision, probed=False, n_steps=made)[0]
