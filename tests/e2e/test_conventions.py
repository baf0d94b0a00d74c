"""What people know from other libraries: reprs that are read, figures that are returned, and refusals in a sentence."""

from __future__ import annotations

import copy
import pickle
import traceback
from pathlib import Path
from typing import Any

import grpc
import lrpilot
import pytest
import torch
from lrpilot.transport.grpc_transport import to_error
from lrpilot.transport.scripted import ScriptedTransport
from matplotlib.figure import Figure
from torch import nn

from tests.simulation.network import SimulatedRpcError
from tests.support.servers.server_process import ServerProcess
from tests.support.training.quick_run import SCRIPT, TOTAL, Run


def test_a_tuner_says_what_it_does() -> None:
    run = Run()
    tuner = run.tuner(ScriptedTransport(SCRIPT), name="mine")
    run.step(tuner)
    assert repr(tuner).startswith("<Tuner 'mine': job ")
    assert f"0 committed and 1 search steps of {TOTAL}, probe at LR 0.1>" in repr(tuner)
    run.train(tuner)
    assert repr(tuner).endswith("finished>")


@pytest.mark.parametrize("copied", [pickle.dumps, copy.deepcopy])
def test_a_tuner_is_not_copied(copied: Any) -> None:
    tuner = Run().tuner(ScriptedTransport(SCRIPT))
    with pytest.raises(TypeError, match=r"a Tuner can't be pickled or copied.*state_dict"):
        copied(tuner)
    tuner.close()


def test_a_schedule_is_a_line_and_a_figure(shared_server: ServerProcess, tmp_path: Path) -> None:
    run = Run()
    tuner = lrpilot.Tuner(
        nn.ParameterList([run.parameter]), run.optimizer, server=shared_server.target, total_steps=100, name="short"
    )
    for _ in range(100):
        run.step(tuner)
    schedule = tuner.schedule
    assert len(repr(schedule)) < 150
    assert "'short'" in repr(schedule)
    assert f"{schedule.n_steps} steps, LR up to 0.05" in repr(schedule)
    scheduler = schedule.scheduler(run.optimizer)
    assert repr(scheduler) == f"<ReplayScheduler: step 0 of {schedule!r}>"
    assert isinstance(schedule.plot(), Figure)
    assert list(tmp_path.iterdir()) == []
    assert isinstance(schedule.plot(tmp_path / "schedule.png"), Figure)
    assert (tmp_path / "schedule.png").exists()
    tuner.close()


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"total_steps": 1e3}, "total_steps: 1000.0 (float); give a whole number of optimizer steps"),
    ({"total_steps": "1000"}, "total_steps: '1000' (str); give a whole number"),
    ({"total_time_s": -1}, "total_time_s: -1 (int); give a number of seconds above 0"),
    ({"timeout_s": "x"}, "timeout_s: 'x' (str); give a number of seconds above 0"),
    ({"seed": "a"}, "seed: 'a' (str); give a whole number"),
    ({"name": 3}, "name: 3 (int); give a string"),
    ({"policy": 3}, "policy: 3 (int); give the name of a policy"),
    ({"observers": 3}, "observers: 3 (int); give a list of observers"),
    ({"observers": [3]}, "observers: [3] (list); give a list of observers"),
    ({"validate": lambda: None}, "validate: it returned None (is a `return` missing?); it must return"),
    ({"validate": lambda: (1.0, 2.0)}, "validate: it returned a tuple; it must return the validation loss, one number"),
    ({"validate": lambda: torch.ones(3)}, "validate: it returned a Tensor of shape (3,); it must return"),
    ({"server": "http://tuner:50051/"}, "has a scheme, and takes none; give HOST:PORT, as 'tuner:50051'"),
    ({"server": "tuner"}, "server: 'tuner' has no port; give HOST:PORT, as 'tuner:50051'"),
    ({"server": "tuner:0"}, "server: 'tuner:0': the port 0 is none; give HOST:PORT with one up to 65535"),
    ({"server": "tuner:99999999"}, "the port 99999999 is none; give HOST:PORT with one up to 65535"),
    ({"server": 50051}, "server: 50051 is a int; give HOST:PORT"),
]


@pytest.mark.parametrize(("arguments", "words"), WRONG, ids=[words[:30] for _, words in WRONG])
def test_a_wrong_argument_is_told_in_a_line(arguments: dict[str, Any], words: str) -> None:
    model = nn.Linear(2, 1)
    with pytest.raises(lrpilot.ConfigError) as raised:
        lrpilot.Tuner(model, torch.optim.SGD(model.parameters(), lr=0.1), **{"server": "127.0.0.1:1", **arguments})
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


SLIPS: list[tuple[dict[str, Any], str]] = [
    ({"policy": "buget"}, "policy: unknown policy 'buget'; did you mean 'budget'? there are autolrs, budget"),
    ({"policy_options": {"probe_step": 10}}, "policy_options.probe_step: no such option; did you mean 'probe_steps'?"),
    ({"lr_bounds": (1e-40, 1.0)}, "lr_bounds: both bounds must be positive and finite, as (1e-4, 1.0)"),
]


@pytest.mark.parametrize(("arguments", "words"), SLIPS)
def test_what_a_server_refuses_is_told_without_the_frames_of_the_network(
    arguments: dict[str, Any], words: str, shared_server: ServerProcess
) -> None:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(lrpilot.RefusedError) as raised:
        lrpilot.Tuner(model, optimizer, **{"server": shared_server.target, "total_steps": 1000, **arguments})
    assert words in str(raised.value)
    shown = "".join(traceback.format_exception(raised.value))
    assert "grpc" not in shown
    assert len(shown.splitlines()) < 20


def test_a_server_that_wants_a_token_or_tls_is_told_with_the_variables_to_set() -> None:
    asked = to_error(SimulatedRpcError(grpc.StatusCode.UNAUTHENTICATED, "a token is needed"), "tuner:1")
    assert str(asked) == "a token is needed; set LRPILOT_TOKEN to one that the server knows"
    spoken = to_error(SimulatedRpcError(grpc.StatusCode.UNAVAILABLE, "Socket closed"), "tuner:1")
    assert str(spoken).endswith("; if it has TLS, set LRPILOT_TLS=1 or LRPILOT_TLS_CA")
