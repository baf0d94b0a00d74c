"""A small training run on several ranks, for `RankProcesses` to run: every function is one rank's part."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import itertools
import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from lrpilot import ConfigError, LRPilotError, Schedule
from lrpilot.session import session
from lrpilot.transport.grpc_transport import GrpcTransport
from lrpilot.transport.scripted import ScriptedTransport
from lrpilot.tuner import Tuner
from lrpilot.v1 import tuner_pb2 as pb
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import powerSGD_hook as power_sgd
from torch.distributed.algorithms.model_averaging.averagers import PeriodicModelAverager
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import get_total_norm
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from tests.support.hostile.failing_calls import before_calls_of
from tests.support.training.centred import Centred

TOTAL_STEPS = 500
"""No shorter run has a search."""
BATCH = 8
FOLLOWED = 6
POLICY_OPTIONS = {"probe_steps": 8, "refinements": 1, "max_candidates": 4}
SHORT: dict[str, Any] = {
    "total_steps": 160,
    "policy": "autolrs",
    "policy_options": {"tau": 20, "tau_prime": 5, "tau_max": 40, "candidates": 3, "forecaster": "last_value"},
}
"""A run with several searches, for tests of what may end one."""
IMPATIENT_S = 0.5
SLOW_S = 3 * IMPATIENT_S


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """What a rank's run came to. Runs that must not differ are equal, bit for bit."""

    shards: dict[str, torch.Tensor]
    """Model, optimizer and random state as they lie on the rank."""
    weights: dict[str, torch.Tensor]
    """All parameters, whole. Buffers are each rank's own until DDP's next forward pass."""
    lrs: list[float]
    """The LR of every step that was run."""
    own_losses: list[float]
    """The rank's loss at every step."""
    norms: list[float]
    """The norm of the whole model's gradients at every step."""
    products: list[float]
    """The product of the whole model's gradients and the direction before, at the first `FOLLOWED` steps."""
    own_logits: list[float]
    """The rank's largest output at every step."""
    schedule: Schedule
    """The schedule, under no job id."""
    job_id: str


class Training:
    """A perceptron with batch norm and dropout, whose ranks draw different samples and different random numbers.

    `kind`: "ddp", "ddp_views" (gradients are views of DDP's buckets, and are kept from step to step), "fsdp", "hsdp"
    (shards in groups that are replicas of one another), or another one of DDP's: "static" (its graph), "buffers" (the
    training uses one that differs between ranks after each step), "power_sgd" (a hook that keeps what it has left out),
    "zero" (each rank has a part of the optimizer's state), "post_local" (weights are averaged now and then) and "group"
    (a group of its own).
    """

    def __init__(self, kind: str, seed: int = 0) -> None:
        torch.manual_seed(3)
        inputs = torch.randn(128, 8)
        targets = (inputs[:, 0] * inputs[:, 1] > 0).long()
        data = TensorDataset(inputs, targets)
        self.inputs, self.targets = inputs, targets
        self.sampler: DistributedSampler[Any] = DistributedSampler(data, seed=5)
        self.loader = DataLoader(data, BATCH, sampler=self.sampler)
        torch.manual_seed(seed)
        self.kind = kind
        self.model = self._distributed(
            nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2))
        )
        self.optimizer = self._optimizer()
        self.lrs: list[float] = []
        self.losses: list[float] = []
        self.norms: list[float] = []
        """The norm of the whole model's gradients at every step."""
        self.products: list[float] = []
        """The product of the whole model's gradients and the direction before, at the first `FOLLOWED` steps."""
        self.logits: list[float] = []
        self._direction: torch.Tensor | None = None
        torch.manual_seed(100 * seed + dist.get_rank())

    def _distributed(self, model: nn.Sequential) -> nn.Module:
        if self.kind in ("fsdp", "hsdp"):
            shape = (dist.get_world_size(),) if self.kind == "fsdp" else (dist.get_world_size() // 2 or 1, 2)
            mesh = init_device_mesh("cpu", shape, mesh_dim_names=("replicate", "shard")[-len(shape) :])
            for layer in (model[0], model[3]):
                fully_shard(layer, mesh=mesh)
            fully_shard(model, mesh=mesh)
            return model
        model.insert(1, Centred(16) if self.kind == "buffers" else nn.BatchNorm1d(16))
        replicas = DistributedDataParallel(
            model,
            gradient_as_bucket_view=self.kind == "ddp_views",
            static_graph=self.kind == "static",
            process_group=dist.new_group() if self.kind == "group" else None,
        )
        if self.kind == "power_sgd":
            self.hook = power_sgd.PowerSGDState(None, start_powerSGD_iter=2, min_compression_rate=0.5)
            replicas.register_comm_hook(self.hook, power_sgd.powerSGD_hook)
        return replicas

    def _optimizer(self) -> Any:
        parameters = self.model.parameters()
        if self.kind not in ("zero", "post_local"):
            return torch.optim.AdamW(parameters, lr=0.01)
        # Here, since it warns of what PyTorch itself calls.
        from torch.distributed.optim import PostLocalSGDOptimizer, ZeroRedundancyOptimizer

        if self.kind == "zero":
            return ZeroRedundancyOptimizer(parameters, optimizer_class=torch.optim.AdamW, lr=0.01)
        averager = PeriodicModelAverager(period=3, warmup_steps=2)
        return PostLocalSGDOptimizer(torch.optim.AdamW(parameters, lr=0.01), averager)

    def kept(self) -> dict[str, torch.Tensor]:
        """What is kept from step to step besides the states of model and optimizer."""
        if self.kind == "power_sgd":
            tables = {"error": self.hook.error_dict, "p": self.hook.p_memory_dict, "q": self.hook.q_memory_dict}
            found = {f"hook.{name}.{i}": value for name, table in tables.items() for i, value in table.items()}
            return {name: value.clone() for name, value in found.items()} | {"hook.iter": torch.tensor(self.hook.iter)}
        return {"averager.step": torch.tensor(self.optimizer.averager.step)} if self.kind == "post_local" else {}

    def update(self, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """One step; the rank's own loss."""
        inputs, targets = batch
        outputs = self.model(inputs)
        loss = functional.cross_entropy(outputs, targets)
        self.logits.append(outputs.detach().abs().max().item())
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        self.lrs.append(float(self.optimizer.param_groups[0]["lr"]))
        gradients = [_whole(parameter.grad) for parameter in self.model.parameters() if parameter.grad is not None]
        self.norms.append(get_total_norm(gradients).item())
        if len(self.products) < FOLLOWED:
            self._follow(gradients)
        else:
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=self.kind != "ddp_views")
        self.losses.append(loss.item())
        return loss.detach()

    def _follow(self, gradients: list[torch.Tensor]) -> None:
        """An update whose direction is taken down."""
        gradient = torch.cat([each.flatten() for each in gradients])
        self.products.append(math.nan if self._direction is None else float(gradient @ self._direction))
        before = self._weights()
        self.optimizer.step()
        self._direction = (before - self._weights()) / self.lrs[-1]

    def _weights(self) -> torch.Tensor:
        return torch.cat([_whole(each.detach()).flatten() for each in self.model.parameters()])

    def validate(self) -> float:
        """On the rank's share of all data."""
        self.model.eval()
        share = slice(dist.get_rank(), None, dist.get_world_size())
        with torch.no_grad():
            return functional.cross_entropy(self.model(self.inputs[share]), self.targets[share]).item()

    def tuner(self, **arguments: Any) -> Tuner:
        """Opens its job."""
        defaults: dict[str, Any] = {
            "total_steps": TOTAL_STEPS,
            "lr_bounds": (1e-3, 1.0),
            "policy": "budget",
            "policy_options": POLICY_OPTIONS,
            "validate": self.validate,
            "logits": self.model,
            "seed": 5,
        }
        return Tuner(self.model, self.optimizer, **defaults | arguments)

    def run(self, tuner: Tuner, after_step: Callable[[], object] = lambda: None) -> Outcome:
        """Trains to the end."""
        for batch in tuner.batches(self.loader):
            tuner.step(self.update(batch))
            after_step()
        return self.outcome(dataclasses.replace(tuner.schedule, job_id=""), tuner.job_id)

    def outcome(self, schedule: Schedule, job_id: str = "") -> Outcome:
        shards = {f"model.{name}": value for name, value in self.model.state_dict().items()} | {
            f"optimizer.{i}.{name}": value
            for i, values in getattr(self.optimizer, "optim", self.optimizer).state_dict()["state"].items()
            for name, value in values.items()
        }
        shards = {name: _local(value) for name, value in shards.items()}
        shards |= self.kept() | {"random": torch.get_rng_state()}
        weights = {name: _whole(value.detach()) for name, value in self.model.named_parameters()}
        seen = self.lrs, self.losses, self.norms, self.products, self.logits
        return Outcome(shards, weights, *seen, schedule, job_id)


def _local(value: torch.Tensor) -> torch.Tensor:
    return (value.to_local() if isinstance(value, DTensor) else value).clone()


def _whole(value: torch.Tensor) -> torch.Tensor:
    return (value.full_tensor() if isinstance(value, DTensor) else value).clone()


# --- what `RankProcesses` run -----------------------------------------------------------------------------------------


def train(kind: str, server: str, arguments: dict[str, Any]) -> Outcome:
    """A whole run."""
    training = Training(kind)
    with training.tuner(server=server, **arguments) as tuner:
        return training.run(tuner)


def train_bare(kind: str, lr: float, n_steps: int) -> Outcome:
    """Without a tuner."""
    training = Training(kind)
    batches = endless(training)
    for _ in range(n_steps):
        training.optimizer.param_groups[0]["lr"] = lr
        training.update(next(batches))
    return training.outcome(_no_schedule())


def endless(training: Training) -> Iterator[Any]:
    """The batches of one epoch after another."""
    for epoch in itertools.count():
        training.sampler.set_epoch(epoch)
        yield from training.loader


def _no_schedule() -> Schedule:
    return Schedule(
        job_id="", name="", policy="", base_lrs=(), total_steps=None, segments=(), losses=(), validations=(), probes=()
    )


def train_by_script(
    kind: str, script: list[bytes], poison: tuple[int, int] | None, arguments: dict[str, Any] | None = None
) -> tuple[Outcome, list[bytes]]:
    """Carries directives out; with the reports on them (none of ranks but 0).

    `poison`: the rank whose loss is no number, and at which step; `arguments`: further ones of the tuner.
    """
    training = Training(kind)
    directives = [pb.Directive.FromString(each) for each in script]
    transport = ScriptedTransport(directives)
    total_steps = sum(d.n_steps for d in directives if not d.taken_along)
    with training.tuner(transport=transport, total_steps=total_steps, **arguments or {}) as tuner:
        for batch in tuner.batches(training.loader):
            loss = training.update(batch)
            if poison == (dist.get_rank(), len(training.lrs)):
                loss *= float("nan")
            tuner.step(loss)
        outcome = training.outcome(tuner.schedule, tuner.job_id)
    return outcome, [report.SerializeToString() for report in transport.reports]


def meetings(kind: str, script: list[bytes]) -> list[int]:
    """Carries directives out; how often ranks had met in the tuner before each of its steps, and at the end."""
    training, directives = Training(kind), [pb.Directive.FromString(each) for each in script]
    total_steps, n_met, met = sum(each.n_steps for each in directives), 0, []

    def count(number: int) -> None:
        nonlocal n_met
        n_met = number

    with (
        training.tuner(transport=ScriptedTransport(directives), total_steps=total_steps) as tuner,
        before_calls_of("lrpilot.distributed.ranks.Ranks._meet", count),
    ):
        for batch in tuner.batches(training.loader):
            loss = training.update(batch)
            met.append(n_met)
            tuner.step(loss)
        return [*met, n_met]


def train_averaged(kind: str, script: bytes, failing: int | None, validates: bool) -> tuple[Outcome, str | None]:
    """Carries out a directive with an average, which can't be put into the model on a rank; what was adopted."""
    training, directive = Training(kind), pb.Directive.FromString(script)

    def strike(_: int) -> None:
        if failing == dist.get_rank():
            raise MemoryError("no more")

    options: dict[str, Any] = {"transport": ScriptedTransport([directive]), "total_steps": directive.n_steps}
    validate = {} if validates else {"validate": None}
    failure = "lrpilot.backends.torch.weight_average.TorchWeightAverage.adopt"
    with training.tuner(**options, **validate) as tuner, before_calls_of(failure, strike):
        return training.run(tuner), tuner.adopted


def train_past_a_failure(
    server: str, kind: str, failing: str, call: int, rank: int | None, arguments: dict[str, Any] = SHORT
) -> tuple[Outcome, int]:
    """One of the client's functions raises at its `call`th call on a rank (None: on all) and ever after.

    With the number of steps in the books. `arguments` are the tuner's.
    """
    training, struck = Training(kind), False

    def strike(number: int) -> None:
        nonlocal struck
        if number >= call and rank in (None, dist.get_rank()):
            struck = True
            raise MemoryError("no more")

    with training.tuner(server=server, **arguments) as tuner, before_calls_of(failing, strike):
        outcome = training.run(tuner)
    assert struck == (rank in (None, dist.get_rank())), "a run too short to come to the failure"
    return outcome, tuner.committed_step + tuner.search_steps


def train_past_a_server(
    kind: str, server: str, pid: int, n_steps: int, arguments: dict[str, Any] | None = None
) -> tuple[Outcome, int, int]:
    """The server dies after so many steps, for good; with the counts of committed and of search steps.

    `arguments`: further ones of the tuner.
    """
    training = Training(kind)

    def after_step() -> None:
        if len(training.lrs) == n_steps and dist.get_rank() == 0:
            os.kill(pid, signal.SIGKILL)

    with training.tuner(server=server, timeout_s=0.5, **arguments or {}) as tuner:
        outcome = training.run(tuner, after_step)
    return outcome, tuner.committed_step, tuner.search_steps


def train_in_changing_plans(kind: str, server: str) -> tuple[Outcome, bool, list[str]]:
    """Extends a run, anneals it and undoes that, while somebody at the server asks for an extension, too.

    Returns:
        What it came to, whether the rank was as before the annealing once that was undone, and the changes by name.
    """
    training = Training(kind)
    with training.tuner(server=server) as tuner:
        batches = iter(tuner.batches(training.loader))

        def train(n_steps: int | None) -> None:
            for batch in batches if n_steps is None else itertools.islice(batches, n_steps):
                tuner.step(training.update(batch))

        train(300)
        tuner.extend(40)
        train(20)
        if dist.get_rank() == 0:
            change = pb.PlanChange(kind=pb.PLAN_CHANGE_KIND_EXTEND, total_steps=TOTAL_STEPS + 100)
            with contextlib.closing(GrpcTransport(server)) as transport:
                transport.stub.ChangePlan(pb.ChangePlanRequest(job_id=tuner.job_id, change=change), timeout=10)
        train(60)
        before = training.outcome(tuner.schedule).shards
        tuner.anneal(30)
        train(20)
        tuner.undo_annealing()
        after = training.outcome(tuner.schedule).shards
        for shards in (before, after):
            del shards["random"]  # the data go on where they are
        undone = all(torch.equal(value, after[name]) for name, value in before.items())
        batches = iter(tuner.batches(training.loader))
        train(None)
        kinds = [replan.kind.value for replan in tuner.schedule.replans]
        return training.outcome(dataclasses.replace(tuner.schedule, job_id=""), tuner.job_id), undone, kinds


def train_and_save(kind: str, server: str, directory: Path, n_steps: int) -> None:
    """Leaves a checkpoint of each rank after so many steps, and goes on a little."""
    training = Training(kind)
    tuner = training.tuner(server=server)
    for batch in tuner.batches(training.loader):
        tuner.step(training.update(batch))
        if len(training.lrs) == n_steps:
            state = {
                "model": training.model.state_dict(),
                "optimizer": training.optimizer.state_dict(),
                "tuner": tuner.state_dict(),
            }
            torch.save(copy.deepcopy(state), directory / f"{dist.get_rank()}.pt")
        if len(training.lrs) == n_steps + 15:
            break


def resume(kind: str, server: str, directory: Path, arguments: dict[str, Any] | None = None) -> Outcome:
    """Goes on from the checkpoints, in a model of other weights; `arguments`: further ones of the tuner."""
    training = Training(kind, seed=9)
    with training.tuner(server=server, **arguments or {}) as tuner:
        state = torch.load(directory / f"{dist.get_rank()}.pt", weights_only=True)
        training.model.load_state_dict(state["model"])
        training.optimizer.load_state_dict(state["optimizer"])
        tuner.load_state_dict(state["tuner"])
        return training.run(tuner)


def fail(server: str, arguments: dict[str, Any]) -> tuple[str, str, int]:
    """A run that is to raise: kind and message of what it raised, and after how many steps."""
    training = Training("ddp")
    try:
        training.run(training.tuner(server=server, **arguments))
    except LRPilotError as error:
        return type(error).__name__, str(error), len(training.lrs)
    raise AssertionError("nothing was raised")


def differ(server: str) -> str:
    """Ranks with different arguments: what is said to that."""
    try:
        Training("ddp").tuner(server=server, seed=dist.get_rank(), name="x" * dist.get_rank())
    except ConfigError as error:
        return str(error)
    raise AssertionError("nothing was raised")


def measure_differently(server: str) -> list[float]:
    """Ranks that find their optimizers to begin otherwise, as with other parts of the weights: what the job has."""
    own = mock.PropertyMock(return_value=(1.0 + dist.get_rank(),))
    with mock.patch("lrpilot.backends.torch.backend.TorchBackend.first_updates", own):
        tuner = Training("ddp").tuner(server=server)
    with tuner:
        return [*tuner._session.config.first_updates]


def swap_states(server: str) -> str:
    """Each rank loads what another one saved: what is said to that."""
    with Training("ddp").tuner(server=server) as tuner:
        state = tuner.state_dict()
        state["session"]["rank"] = dist.get_world_size() - 1 - dist.get_rank()
        try:
            tuner.load_state_dict(state)
        except ConfigError as error:
            return str(error)
    raise AssertionError("nothing was raised")


class Slow(GrpcTransport):
    """Takes its time before the job is open."""

    def create_job(self, request: pb.CreateJobRequest, timeout_s: float) -> pb.CreateJobResponse:
        time.sleep(SLOW_S)
        return super().create_job(request, timeout_s)


def outwait(server: str) -> str:
    """A server that takes longer than the ranks' group waits; the job's id."""
    group = dist.new_group(timeout=timedelta(seconds=IMPATIENT_S))
    with Training("ddp").tuner(transport=Slow(server), process_group=group) as tuner:
        return tuner.job_id


def desert(server: str) -> str:
    """Rank 1 raises in the middle; what each rank saw raised, and what was said."""
    parameter = nn.Parameter(torch.ones(4))
    optimizer = torch.optim.SGD([parameter], lr=0.01)
    try:
        model = nn.ParameterList([parameter])
        with Tuner(model, optimizer, server=server, total_steps=100, lr_bounds=(1e-3, 1.0)) as tuner:
            for step in range(100):
                if (step, dist.get_rank()) == (3, 1):
                    raise ArithmeticError
                tuner.step(torch.tensor(1.0))
    except (ArithmeticError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    raise AssertionError("nothing was raised")


def die(server: str, directory: Path) -> None:
    """Rank 1 of several ends in the middle without a word; the others write down what was said to them."""
    parameter = nn.Parameter(torch.ones(4))
    optimizer = torch.optim.SGD([parameter], lr=0.01)
    try:
        with Tuner(nn.ParameterList([parameter]), optimizer, server=server, total_steps=100) as tuner:
            for step in range(100):
                if (step, dist.get_rank()) == (3, 1):
                    os._exit(1)
                tuner.step(torch.tensor(1.0))
    except RuntimeError as error:
        (directory / str(dist.get_rank())).write_text(str(error))


def train_apart(server: str) -> str:
    """Each rank is a part of the world; the id of its job."""
    groups = [dist.new_group([rank]) for rank in range(dist.get_world_size())]
    with Training("ddp").tuner(server=server, process_group=groups[dist.get_rank()]) as tuner:
        return tuner.job_id


class CountingSigns(GrpcTransport):
    """Counts the signs that are given, and sends none."""

    given = 0

    def beat(self, request: pb.BeatRequest) -> None:
        self.given += 1


def give_signs(server: str) -> tuple[str, int]:
    """Some steps, each of which is reason for a sign; the job's id, and how many signs the rank gave."""
    training, transport = Training("ddp"), CountingSigns(server)
    with mock.patch.object(session, "BEAT_S", 0.0), training.tuner(transport=transport) as tuner:
        for _, batch in zip(range(5), tuner.batches(training.loader), strict=False):
            tuner.step(training.update(batch))
        return tuner.job_id, transport.given
