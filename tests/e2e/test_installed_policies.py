"""A server process whose environment has policies of other packages, and training jobs that name them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

import lrpilot
import pytest
import torch
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
STEPS = 600


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server beside whose packages lie a good one and three that are of no use."""
    folder = tmp_path_factory.mktemp("site-packages")
    install(folder, "lr-twins", {"twins": GOOD}, {"twin": "twins:Twin"})
    install(folder, "broken", {"broken": "import nothing_of_the_kind"}, {"broken": "broken:Policy"})
    install(folder, "late", {"late": FAILS_LATE}, {"late": "late:Twin"})
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


def train(target: str, policy: str) -> lrpilot.Tuner:
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
        ("another", "unknown policy 'another'; there are: autolrs, broken, budget, late, twin"),
    ],
)
def test_a_policy_that_cannot_be_used_is_refused_with_a_sentence(policy: str, why: str, target: str) -> None:
    with pytest.raises(lrpilot.ServerError, match=why):
        train(target, policy)


def test_policies_of_no_use_harm_no_other_job(target: str) -> None:
    for policy in ("broken", "late"):
        with pytest.raises(lrpilot.ServerError):
            train(target, policy)
    assert train(target, "twin").schedule.policy == "twin"
    assert train(target, "budget").schedule.policy == "budget"
