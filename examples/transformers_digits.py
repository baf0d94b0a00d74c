"""A Hugging Face Trainer whose learning rate is tuned. `python examples/transformers_digits.py`, in one process.

In several: `torchrun --nproc-per-node 2 examples/transformers_digits.py`.
"""

from __future__ import annotations

import torch
from lrpilot.integrations.transformers import TunerTrainer
from sklearn.datasets import load_digits
from transformers import TrainingArguments, ViTConfig, ViTForImageClassification, set_seed

set_seed(0)

digits = load_digits()
examples = [
    {"pixel_values": torch.tensor(image, dtype=torch.float32)[None] / 16, "labels": int(label)}
    for image, label in zip(digits.images, digits.target, strict=True)
]
model = ViTForImageClassification(
    ViTConfig(
        image_size=8,
        patch_size=4,
        num_channels=1,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        num_labels=10,
    )
)

trainer = TunerTrainer(
    model=model,
    args=TrainingArguments(
        output_dir="digits",
        max_steps=800,  # search included
        per_device_train_batch_size=32,
        per_device_eval_batch_size=200,
        logging_steps=200,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
    ),
    train_dataset=examples[:1600],
    eval_dataset=examples[1600:],
    lrpilot={"lr_bounds": (1e-4, 1e-1), "validate": "eval", "name": "digits-vit"},
)
trainer.train()

tuner = trainer.tuner
assert tuner is not None
validation_loss = trainer.evaluate()["eval_loss"]  # on all processes
if trainer.is_world_process_zero():
    print(f"{tuner.committed_step} committed and {tuner.search_steps} search steps")
    print(f"validation loss {validation_loss:.4f}")
    tuner.schedule.save("schedule.json")
trainer.accelerator.end_training()  # several processes take leave of one another
