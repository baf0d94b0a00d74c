"""Several processes, one model, one job: `torchrun --nproc-per-node 2 examples/ddp.py`; plain `python` trains alone."""

from __future__ import annotations

import logging
import os

import lrpilot
import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
device = torch.device("cpu")
if torch.cuda.is_available():
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    torch.cuda.set_device(device)
if size > 1:
    dist.init_process_group()  # NCCL for GPUs, gloo for the rest
logging.basicConfig(level=logging.INFO if rank == 0 else logging.WARNING, format="%(message)s")

digits = load_digits()
inputs = torch.tensor(digits.data, dtype=torch.float32) / 16
targets = torch.tensor(digits.target)
train_set = TensorDataset(inputs[:1400], targets[:1400])
# tuner.batches calls the sampler's set_epoch
sampler: DistributedSampler[object] = DistributedSampler(train_set, num_replicas=size, rank=rank)
train_loader = DataLoader(train_set, batch_size=64 // size, sampler=sampler)
share = slice(1400 + rank, None, size)  # each rank validates its part; the tuner takes the mean

torch.manual_seed(0)  # every rank starts from the same weights ...
net = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 10)).to(device)
model = DistributedDataParallel(net) if size > 1 else net
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
torch.manual_seed(rank)  # ... and drops out other units


def validate() -> float:
    """Loss on images that are not trained on."""
    model.eval()
    with torch.no_grad():
        return functional.cross_entropy(model(inputs[share].to(device)), targets[share].to(device)).item()


with lrpilot.Tuner(
    model, optimizer, total_steps=1000, lr_bounds=(1e-3, 1.0), validate=validate, name="digits-ddp"
) as tuner:
    for x, y in tuner.batches(train_loader):
        loss = functional.cross_entropy(model(x.to(device)), y.to(device))
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        optimizer.step()
        optimizer.zero_grad()
        tuner.step(loss)
    if rank == 0:
        print(f"{tuner.committed_step} committed and {tuner.search_steps} search steps on {size} ranks")
        tuner.schedule.save("schedule.json")
if size > 1:
    dist.destroy_process_group()
