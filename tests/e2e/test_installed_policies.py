"""A server process whose environment has policies of other packages, and training jobs that name them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import lrpilot
import pytest
import torch
from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.v1 import tuner_pb2_grpc
from torch import nn

from tests.support.extensions.installed_packages import install

GOOD = """
from tuner_server.core.policies.budget import Budget

class Twin(Budget):
    name = "twin"
"""
FAILS_LATE = (
    GOOD.replace("twin", "late")
    + """
    def start(self, progress):
        raise RuntimeError("no idea where to begin")
"""
)
HARMFUL = (
    GOOD.replace("twin", "harmful")
    + """
from tuner_server.core.policies.budget_options import BudgetOptions
from tuner_server.core.search.acquisition import LogExpectedImprovement
from tuner_server.core.search.observations import observations
from tuner_server.core.search.suggest import Query

class HarmfulOptions(BudgetOptions):
    how: str

class Harmful(Budget):
    name = "harmful"
    options_type = HarmfulOptions

    def advance(self, state, directive, report, progress):
        if self.options.how == "exit":
            raise SystemExit(3)
        while self.options.how == "asks":
            yield Query(observations([]), (-3.0, 0.0), LogExpectedImprovement(), seed=1)
        step = yield from super().advance(state, directive, report, progress)
        if self.options.how == "nonsense":
            return type(step)(step.state, step.directive.model_copy(update={"stage": 2**40, "n_steps": 0.5}))
        return step

    @classmethod
    def optimum(cls, state):
        raise SystemExit(4)
"""
)
STEPS = 600


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server beside whose packages lie a good one and four that are of no use."""
    folder = tmp_path_factory.mktemp("site-packages")
    install(folder, "lr-twins", {"twins": GOOD}, {"twin": "twins:Twin"})
    install(folder, "broken", {"broken": "import nothing_of_the_kind"}, {"broken": "broken:Policy"})
    install(folder, "late", {"late": FAILS_LATE}, {"late": "late:Twin"})
    install(folder, "harmful", {"harmful": HARMFUL}, {"harmful": "harmful:Harmful"})
    install(folder, "impostors", {"impostors": GOOD}, {"budget": "impostors:Twin"})
    database = f"sqlite:///{tmp_path_factory.mktemp('data') / 'jobs.db'}"
    command = [sys.executable, "-m", "tuner_server", "serve", "--listen", "127.0.0.1:0", "--db", database]
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    process = subprocess.Popen(
        [*command, "--exit-with-stdin"],
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    with process, contextlib.ExitStack() as stack:
        stack.callback(process.kill)
        line = process.stdout.readline()
        assert line.startswith("listening on "), process.communicate()
        yield line.removeprefix("listening on ").strip()
        stack.pop_all()
        _, said = process.communicate(timeout=60)
        assert "policy 'budget' of package impostors 1.0 can't be used" in said


def train(target: str, policy: str, **fields: Any) -> lrpilot.Tuner:
    """A whole run that names a policy."""
    torch.manual_seed(0)
    weights = nn.Parameter(torch.ones(8))
    optimizer = torch.optim.SGD([weights], lr=0.05)
    with lrpilot.Tuner(
        nn.ParameterList([weights]),
        optimizer,
        server=target,
        total_steps=STEPS,
        policy=policy,
        lr_bounds=(1e-4, 1.0),
        strict=True,
        **fields,
    ) as tuner:
        while not tuner.finished:
            loss = (weights**2).sum() + 0.1 * torch.rand(())
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
            optimizer.step()
            tuner.step(loss)
    return tuner


def test_a_job_is_tuned_by_an_installed_policy(target: str) -> None:
    schedule = train(target, "twin").schedule
    assert schedule.policy == "twin"
    assert schedule.probes
    assert schedule.n_steps + sum(probe.n_steps for probe in schedule.probes) == STEPS


@pytest.mark.parametrize(
    ("policy", "why"),
    [
        ("broken", "policy 'broken' of package broken 1.0 can't be used: its import fails with ModuleNotFoundError"),
        ("another", "unknown policy 'another'; there are autolrs, broken, budget, fedhyper"),
    ],
)
def test_a_policy_that_cannot_be_used_is_refused_with_a_sentence(policy: str, why: str, target: str) -> None:
    with pytest.raises(lrpilot.ServerError, match=why):
        train(target, policy)


def test_a_policy_that_fails_at_the_first_directive_is_refused_at_once(target: str) -> None:
    why = "policy 'late' can't tune this job: RuntimeError: no idea where to begin"
    with pytest.raises(lrpilot.ServerError, match=why):
        train(target, "late")


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("exit", "PolicyError: `advance` raised SystemExit: 3"),
        ("asks", "PolicyError: `advance` asked more than 100 times for one decision"),
        ("nonsense", "PolicyError: directive.stage: Input should be less than or equal to 2147483646"),
    ],
)
def test_a_job_whose_policy_does_harm_fails_and_others_go_on_meanwhile(how: str, why: str, target: str) -> None:
    found: list[str] = []
    beside = threading.Thread(target=lambda: found.append(train(target, "budget", family="shared").schedule.policy))
    beside.start()
    failed = train(target, "harmful", policy_options={"how": how}, family="shared")
    beside.join(60)
    assert found == ["budget"]
    with grpc.insecure_channel(target) as channel:
        request = pb.GetJobRequest(job_id=failed.schedule.job_id)
        job = tuner_pb2_grpc.TunerServiceStub(channel).GetJob(request).job
    assert job.state == pb.JOB_STATE_FAILED
    assert why in job.message
    # What its `optimum` raises keeps no other job of the family from being opened.
    assert train(target, "budget", family="shared").schedule.policy == "budget"


def test_policies_of_no_use_harm_no_other_job(target: str) -> None:
    for policy in ("broken", "late"):
        with pytest.raises(lrpilot.ServerError):
            train(target, policy)
    assert train(target, "twin").schedule.policy == "twin"
    assert train(target, "budget").schedule.policy == "budget"
