import copy
import random
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
import torch
from lrpilot.backends.torch.rollback.snapshot import Snapshot
from lrpilot.rng import RandomState
from torch import nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tests.support.training.same_bits import assert_same

MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]

OPTIMIZERS: dict[str, MakeOptimizer] = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.05),
    "SGD momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.01),
    "SGD nesterov": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "SGD fused": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, fused=True),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "Adam amsgrad": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
    "Adam tensor LR": lambda p: torch.optim.Adam(p, lr=torch.tensor(0.01), foreach=False),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01, foreach=False),
    "AdamW foreach": lambda p: torch.optim.AdamW(p, lr=0.01, foreach=True),
    "AdamW fused": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5, centered=True),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.05),
    "Adadelta": lambda p: torch.optim.Adadelta(p, lr=0.5),
    "Adafactor": lambda p: torch.optim.Adafactor(p, lr=0.01),
    "Adamax": lambda p: torch.optim.Adamax(p, lr=0.01),
    "NAdam": lambda p: torch.optim.NAdam(p, lr=0.01),
    "RAdam": lambda p: torch.optim.RAdam(p, lr=0.01),
    "ASGD": lambda p: torch.optim.ASGD(p, lr=0.05, t0=3),
    "Rprop": lambda p: torch.optim.Rprop(p, lr=0.01),
}
# LBFGS evaluates the loss several times a step, so that a step is not one draw of a batch; its nested state, lists of
# tensors, is tested apart.


class Net(nn.Module):
    """Batch norm, dropout, tied weights, a frozen weight, a non-persistent buffer and one that is replaced."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.3))
        self.hidden = nn.Linear(6, 6)
        self.tied = nn.Linear(6, 6)
        self.tied.weight = self.hidden.weight
        self.head = nn.Linear(6, 1)
        self.head.bias.requires_grad_(False)
        self.mean: torch.Tensor
        self.register_buffer("mean", torch.zeros(6), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.body(x)
        self.mean = 0.9 * self.mean + 0.1 * y.detach().mean(0)
        out: torch.Tensor = self.head(self.tied(torch.tanh(self.hidden(y))) - self.mean)
        return out


class Run:
    """A training run whose batches come from the global random state."""

    def __init__(self, make_optimizer: MakeOptimizer) -> None:
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)
        self.net = Net()
        self.optimizer = make_optimizer(p for p in self.net.parameters() if p.requires_grad)
        average = get_ema_multi_avg_fn(0.9)  # type: ignore[no-untyped-call]  # PyTorch's, untyped.
        self.ema = AveragedModel(self.net, multi_avg_fn=average, use_buffers=True)
        self.snapshot = Snapshot(self.net, [self.optimizer], {"ema": self.ema})

    def steps(self, n_steps: int) -> None:
        for _ in range(n_steps):
            x = torch.randn(8, 4) + random.random() + float(np.random.rand())
            loss = (self.net(x) - x.sum(1, keepdim=True)).square().mean()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.ema.update_parameters(self.net)

    def probe(self) -> None:
        set_lr(self.optimizer, 3.0)
        self.net.eval()
        self.steps(1)
        self.net.train()
        self.steps(4)
        self.optimizer.zero_grad()

    def tensors(self) -> list[torch.Tensor]:
        state = [v for s in self.optimizer.state.values() for v in s.values()]
        tensors = [*self.net.parameters(), *self.net.buffers(), *state]
        tensors += [*self.ema.parameters(), *self.ema.buffers()]
        return [t for t in tensors if isinstance(t, torch.Tensor)]

    def everything(self) -> list[Any]:
        gradients = [p.grad for p in self.net.parameters()]
        plain = [[v for k, v in g.items() if k != "params"] for g in self.optimizer.param_groups]
        return copy.deepcopy([self.tensors(), gradients, plain, RandomState.capture().states])


def set_lr(optimizer: Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr


@pytest.mark.parametrize("warm_up", [0, 3], ids=["fresh", "warm"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_after_probes_are_bitwise_those_without(name: str, warm_up: int) -> None:
    plain = Run(OPTIMIZERS[name])
    plain.steps(warm_up)
    at_snapshot = plain.everything()
    plain.steps(20)

    probed = Run(OPTIMIZERS[name])
    probed.steps(warm_up)
    addresses = [t.data_ptr() for t in probed.tensors()]
    probed.snapshot.take()
    for _ in range(2):
        probed.probe()
        probed.snapshot.restore()
        assert [t.data_ptr() for t in probed.tensors()] == addresses
    # Not through `plain`: its random state is gone on.
    assert_same(probed.everything(), at_snapshot, nan_is_nan=True)
    probed.steps(20)
    assert_same(probed.tensors(), plain.tensors(), nan_is_nan=True)


def test_the_probe_of_these_tests_would_leave_traces() -> None:
    run = Run(OPTIMIZERS["Adam"])
    run.steps(2)

    def traced() -> list[Any]:
        trained = [*run.net.parameters(), *run.ema.parameters()]
        tensors = [*(p for p in trained if p.requires_grad), *run.net.buffers()]
        return [*tensors, *run.optimizer.state.values(), *RandomState.capture().states.values()]

    before = copy.deepcopy(traced())
    run.probe()
    for now, old in zip(traced(), before, strict=True):
        with pytest.raises(AssertionError):
            assert_same(now, old, nan_is_nan=True)


def test_taking_again_uses_the_same_memory() -> None:
    run = Run(OPTIMIZERS["AdamW"])
    run.steps(1)

    def memory() -> set[int]:
        assert run.snapshot._taken
        return {t.data_ptr() for t in run.snapshot._taken.all_copies}

    assert run.snapshot.nbytes == 0
    run.snapshot.take()
    first, nbytes = memory(), run.snapshot.nbytes
    distinct = {id(t): t for t in run.tensors()}.values()
    gradients = [p.grad for p in run.net.parameters() if p.grad is not None]
    assert nbytes == sum(t.nbytes for t in [*distinct, *gradients])
    for _ in range(3):
        run.steps(2)
        run.snapshot.take()
        assert memory() == first
        assert run.snapshot.nbytes == nbytes


def test_take_and_restore_work_while_gradients_are_recorded_and_record_none() -> None:
    run = Run(OPTIMIZERS["SGD"])
    run.snapshot.take()
    run.snapshot.restore()
    assert all(p.is_leaf and p.grad_fn is None for p in run.net.parameters())


def linear() -> tuple[nn.Linear, torch.optim.Adam]:
    net = nn.Linear(2, 2)
    return net, torch.optim.Adam(net.parameters(), lr=0.1, betas=(0.8, 0.9))


def test_gradients_come_back_with_their_values_or_as_none() -> None:
    net, optimizer = linear()
    net.weight.grad = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    expected = net.weight.grad.clone()
    address = net.weight.grad.data_ptr()
    snapshot = Snapshot(net, [optimizer], {})
    snapshot.take()

    net(torch.ones(2)).sum().backward()  # Adds to the one, makes the other.
    snapshot.restore()
    assert net.bias.grad is None
    assert net.weight.grad is not None
    assert torch.equal(net.weight.grad, expected)
    assert net.weight.grad.data_ptr() == address

    for _ in range(2):
        optimizer.zero_grad(set_to_none=True)
        snapshot.restore()
        assert net.weight.grad is not None
        assert torch.equal(net.weight.grad, expected)
        net.weight.grad.zero_()


def test_sparse_gradients_come_back() -> None:
    net = nn.Embedding(5, 2, sparse=True)
    optimizer: Optimizer = torch.optim.SparseAdam(net.parameters(), lr=0.1)
    snapshot = Snapshot(net, [optimizer], {})
    with torch.sparse.check_sparse_tensor_invariants():  # type: ignore[no-untyped-call]  # PyTorch's.
        net(torch.tensor([1, 3])).sum().backward()
        expected = copy.deepcopy(net.weight.grad)
        snapshot.take()
        assert snapshot.nbytes > net.weight.nbytes
        for i in (2, 4):
            optimizer.zero_grad()
            net(torch.tensor([i])).sum().backward()
            optimizer.step()
            snapshot.restore()
            assert net.weight.grad is not None
            assert expected is not None
            assert torch.equal(net.weight.grad.to_dense(), expected.to_dense())
    assert not optimizer.state


def test_state_that_was_removed_comes_back_and_new_state_goes() -> None:
    net, optimizer = linear()
    net(torch.ones(2)).sum().backward()
    optimizer.step()
    moments = optimizer.state[net.weight]["exp_avg"]
    values = moments.clone()
    snapshot = Snapshot(net, [optimizer], {})
    snapshot.take()

    moments.zero_()
    del optimizer.state[net.weight]
    optimizer.state[net.bias]["new"] = torch.ones(1)
    optimizer.state[net.bias]["step"] = torch.tensor(7.0)
    snapshot.restore()
    assert optimizer.state[net.weight]["exp_avg"] is moments
    assert torch.equal(moments, values)
    assert optimizer.state[net.bias].keys() == {"step", "exp_avg", "exp_avg_sq"}
    assert optimizer.state[net.bias]["step"].item() == 1


def test_hyperparameters_come_back_and_tensors_keep_their_identity() -> None:
    net = nn.Linear(2, 2)
    lr = torch.tensor(0.5)
    betas = (torch.tensor(0.9), torch.tensor(0.99))
    optimizer = torch.optim.Adam(net.parameters(), lr=lr, betas=betas, foreach=False)
    group = optimizer.param_groups[0]
    group["betas"] = betas
    group["custom"] = {"schedule": [1, 2], "seen": {1}}
    snapshot = Snapshot(net, [optimizer], {})
    snapshot.take()
    for _ in range(2):
        lr.fill_(9.0)
        betas[0].fill_(0.0)
        group["weight_decay"] = 3.0
        group["custom"]["schedule"].append(3)
        group["custom"]["seen"].add(3)
        group["new"] = 1
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))]})
        snapshot.restore()
        assert optimizer.param_groups == [group]
        assert group["lr"] is lr
        assert lr.item() == 0.5
        assert group["betas"] is betas
        assert betas[0].item() == pytest.approx(0.9)
        assert group["weight_decay"] == 0
        assert group["custom"] == {"schedule": [1, 2], "seen": {1}}
        assert "new" not in group


def test_parameters_of_the_optimizer_that_are_not_the_models_come_back() -> None:
    net = nn.Linear(2, 2)
    temperature = nn.Parameter(torch.tensor(1.5))
    optimizer = torch.optim.SGD([*net.parameters(), temperature], lr=0.1)
    snapshot = Snapshot(net, [optimizer], {})
    snapshot.take()
    with torch.no_grad():
        temperature.fill_(0.0)
    snapshot.restore()
    assert temperature.item() == 1.5


def test_any_layout_and_type_of_tensor_comes_back_in_place() -> None:
    net = nn.Module()
    base = torch.arange(12.0).reshape(3, 4)
    buffers = {
        "transposed": base.clone().t(),
        "sliced": torch.arange(20.0).reshape(4, 5)[::2, 1:4],
        "scalar": torch.tensor(3, dtype=torch.int64),
        "brain": torch.ones(3, dtype=torch.bfloat16),
        "mask": torch.tensor([True, False]),
        "complex": torch.ones(2, dtype=torch.complex64),
        "expanded": torch.tensor([[1.0], [2.0]]).expand(2, 3),
        "empty": torch.empty(0, 3),
        "channels_last": torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last),
    }
    for name, buffer in buffers.items():
        net.register_buffer(name, buffer)
    expected = {name: buffer.clone() for name, buffer in buffers.items()}
    outside = buffers["sliced"]._base
    assert outside is not None
    net.register_buffer("nothing", None)
    snapshot = Snapshot(net, [], {})
    snapshot.take()
    for _ in range(2):
        for buffer in net.buffers():
            (buffer[:, :1] if buffer is buffers["expanded"] else buffer).zero_()
        outside[0] = 77.0
        net.nothing = torch.ones(1)
        net.register_buffer("late", torch.ones(1))
        snapshot.restore()
        assert dict(net.named_buffers()).keys() == buffers.keys()
        assert net.nothing is None
        for name, buffer in net.named_buffers():
            assert buffer is buffers[name]
            assert torch.equal(buffer, expected[name])
        assert outside[0] == 77.0
    assert snapshot.nbytes <= sum(t.nbytes for t in expected.values())


def test_modes_and_extra_state_of_modules_come_back() -> None:
    class Counting(nn.Linear):
        calls = 0

        def get_extra_state(self) -> dict[str, int]:
            return {"calls": self.calls}

        def set_extra_state(self, state: dict[str, int]) -> None:
            self.calls = state["calls"]

    net = nn.Sequential(Counting(2, 2), nn.Dropout())
    net[1].eval()
    snapshot = Snapshot(net, [], {})
    snapshot.take()
    net.eval()
    net[0].calls = 5  # type: ignore[assignment]  # Sequential doesn't know its modules' types.
    snapshot.restore()
    assert [module.training for module in net.modules()] == [True, True, False]
    assert net[0].calls == 0


class Shadow:
    """An average of weights as users write it; its state dict may share, and loading may keep, its tensors."""

    def __init__(self, shares: bool, keeps: bool) -> None:
        self.shares, self.keeps = shares, keeps
        self.state: dict[str, Any] = {"shadow": [torch.ones(3)], "count": 0, "seen": {0}}

    def update(self) -> None:
        self.state["shadow"][0].mul_(2)
        self.state["count"] += 1
        self.state["seen"].add(self.state["count"])

    def state_dict(self) -> dict[str, Any]:
        return self.state if self.shares else copy.deepcopy(self.state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.state = state if self.keeps else copy.deepcopy(state)


@pytest.mark.parametrize("shares", [True, False])
@pytest.mark.parametrize("keeps", [True, False])
def test_registered_objects_come_back_whatever_their_state_dicts_share(shares: bool, keeps: bool) -> None:
    shadow = Shadow(shares, keeps)
    snapshot = Snapshot(nn.Linear(1, 1), [], {"shadow": shadow})
    for count in (0, 1):
        snapshot.take()
        for _ in range(3):
            shadow.update()
            shadow.update()
            snapshot.restore()
            assert shadow.state["count"] == count
            assert shadow.state["seen"] == set(range(count + 1))
            assert shadow.state["shadow"][0].tolist() == [2.0**count] * 3
        shadow.update()


def test_a_grad_scaler_and_a_scheduler_come_back() -> None:
    net, optimizer = linear()
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=1)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2], gamma=0.5)
    snapshot = Snapshot(net, [optimizer], {"scaler": scaler, "scheduler": scheduler})

    def step() -> None:
        scaler.scale(net(torch.ones(2)).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        scheduler.step()

    step()
    snapshot.take()
    for _ in range(2):
        step()
        step()
        assert (scaler.get_scale(), scheduler.last_epoch) == (64.0, 3)
        assert scheduler.get_last_lr() == [0.05]
        snapshot.restore()
        assert (scaler.get_scale(), scheduler.last_epoch) == (16.0, 1)
        assert scheduler.get_last_lr() == [0.1]
        assert optimizer.param_groups[0]["lr"] == 0.1


def test_nested_state_of_lbfgs_comes_back() -> None:
    def run(probes: bool) -> torch.Tensor:
        x = nn.Parameter(torch.tensor([-1.2, 1.0]))
        optimizer: Optimizer = torch.optim.LBFGS([x], lr=0.1, max_iter=3)

        def closure() -> float:
            optimizer.zero_grad()
            loss: torch.Tensor = (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2
            loss.backward()  # type: ignore[no-untyped-call]  # PyTorch's, untyped.
            return loss.item()

        snapshot = Snapshot(nn.Module(), [optimizer], {})
        for _ in range(6):
            if probes:
                snapshot.take()
                optimizer.step(closure)
                optimizer.step(closure)
                snapshot.restore()
            optimizer.step(closure)
        return x.detach()

    assert torch.equal(run(probes=True), run(probes=False))


def test_a_wrapper_s_mode_is_preserved_though_nothing_else_of_it_is_followed() -> None:
    model = nn.DataParallel(nn.Linear(2, 1))
    with Snapshot(model, [torch.optim.SGD(model.parameters(), 0.1)], {}).preserved():
        model.eval()
    assert [module.training for module in model.modules()] == [True, True]


CHANGES: dict[str, Callable[[nn.Linear], object]] = {
    "nothing": lambda net: None,
    "values": lambda net: net.weight.data.fill_(7.0),
    "other memory": lambda net: setattr(net.weight, "data", torch.full((3, 2), 5.0)),
    "another order": lambda net: setattr(net.weight, "data", torch.arange(6.0).reshape(2, 3).t()),
    "another type": lambda net: setattr(net.weight, "data", torch.full((3, 2), 5.0, dtype=torch.float64)),
    "larger storage": lambda net: net.weight.untyped_storage().resize_(48),
    "frozen": lambda net: net.weight.requires_grad_(False),
    "a gradient": lambda net: setattr(net.weight, "grad", torch.ones_like(net.weight)),
    "a further tensor": lambda net: net.register_buffer("further", torch.ones(2)),
    "one less": lambda net: setattr(net, "bias", None),
    "the same memory": lambda net: setattr(net, "bias", nn.Parameter(net.weight.data[:, 0])),
}


@pytest.mark.parametrize("probed", CHANGES)
@pytest.mark.parametrize("committed", CHANGES)
def test_a_second_take_is_of_the_present_whatever_has_changed_since_the_first(committed: str, probed: str) -> None:
    """What has not changed is neither looked up again when it is taken, nor put back in its place."""
    net = nn.Linear(2, 3)
    snapshot = Snapshot(net, [], {}, "device")
    for change in ("nothing", committed):
        CHANGES[change](net)
        snapshot.take()
    before, gradient = copy.deepcopy(net), copy.deepcopy(net.weight.grad)
    for _ in range(2):
        CHANGES[probed](net)
        with torch.no_grad():
            for tensor in net.state_dict().values():
                tensor.mul_(2)
        snapshot.restore()
        assert_same(net.state_dict(), before.state_dict())
        assert net.weight.requires_grad == before.weight.requires_grad
        assert net.weight.stride() == before.weight.stride()
        assert_same(net.weight.grad, gradient)
