"""Interrupts, forks, and embedded servers that do not start: real processes, as a notebook or a terminal has them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.support.servers.server_process import ServerProcess
from tests.support.training import script_processes

TRAINING = """
import multiprocessing, os, signal, sys, threading
import torch
import lrpilot
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.set_num_threads(1)
signal.signal(signal.SIGINT, signal.default_int_handler)  # tests that run in the background are deaf to it
STEPS = 600
parameter = nn.Parameter(torch.ones(8))
optimizer = torch.optim.SGD([parameter], lr=0.05)
options = {"probe_steps": 5, "refinements": 0, "max_candidates": 4}
steps = 0


def make(**arguments):
    return lrpilot.Tuner(
        nn.ParameterList([parameter]), optimizer, total_steps=STEPS, lr_bounds=(1e-3, 1.0), policy_options=options,
        **arguments,
    )


def update(tuner):
    global steps
    loss = (torch.linspace(0.1, 1.0, 8) * parameter**2).sum() + 0.1 * torch.rand(())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    steps += 1
    tuner.step(loss)


def finish(tuner):
    while not tuner.finished:
        update(tuner)
    assert steps == STEPS, steps
    assert tuner.search_steps > 0
    assert tuner.decisions(), "the server is not asked any more"
    tuner.close()
    print("done", tuner.committed_step + tuner.search_steps)

"""
INTERRUPTED = """
tuner = make()
interrupts = 0
pause = threading.Event()


def interrupt():
    while not pause.wait(0.03):
        os.killpg(0, signal.SIGINT)  # as Ctrl-C does


thread = threading.Thread(target=interrupt, daemon=True)
thread.start()
loader = [torch.zeros(1)] * 10
over = False
while not over:
    try:
        for _ in tuner.batches(loader):
            if interrupts >= 5:
                pause.set()
            loss = (torch.linspace(0.1, 1.0, 8) * parameter**2).sum() + 0.1 * torch.rand(())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            tuner.step(loss)
        over = tuner.finished
    except KeyboardInterrupt:
        interrupts += 1
try:
    pause.set()
    thread.join()
except KeyboardInterrupt:
    pass
assert interrupts >= 1
assert tuner.job_id
assert tuner.decisions(), "the server has gone"
tuner.close()
print("done", interrupts)
"""
FORKS = {
    "exit": "sys.exit(0)",
    "an exception": "raise ArithmeticError",
    "close": "tuner.close(); os._exit(0)",
    "collected": "import gc; del tuner; gc.collect(); os._exit(0)",
    "goes on": "[update(tuner) for _ in range(STEPS)]; os._exit(0 if tuner.finished else 1)",
}
KILLED = "os.kill(os.getpid(), signal.SIGKILL)"
FORKED = """
tuner = make()
for _ in range(12):
    update(tuner)
child = os.fork()
if child == 0:
    signal.alarm(20)
    {act}
_, status = os.waitpid(child, 0)
assert not os.WIFSIGNALED(status), f"the child was killed by signal {{os.WTERMSIG(status)}}: it hung"
finish(tuner)
"""
WORKERS = """
tuner = make()
data = DataLoader(TensorDataset(torch.zeros(64, 1)), batch_size=1, num_workers=2)
for _ in tuner.batches(data):
    update(tuner)
process = multiprocessing.get_context("fork").Process(target=sys.exit)
process.start()
process.join(20)
assert process.exitcode == 0
finish(tuner)
"""


def some(value: Any, name: str, *quick: str) -> Any:
    """A parameter; those that are not among the quick ones are slow, though each takes seconds only."""
    return pytest.param(value, id=name, marks=[] if name in quick else pytest.mark.slow)


def environment(tmp_path: Path, **variables: str) -> dict[str, str]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("LRPILOT_")}
    return inherited | {"LRPILOT_DB": f"sqlite:///{tmp_path}/jobs.db", "OMP_NUM_THREADS": "1"} | variables


def trained(script: str, variables: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Runs a training as a user does, in a process group of its own."""
    return subprocess.run(
        [sys.executable, "-c", TRAINING + script],
        env=dict(variables),
        capture_output=True,
        text=True,
        timeout=100,
        start_new_session=True,
    )


def test_an_interrupt_of_all_processes_does_not_end_the_server(tmp_path: Path) -> None:
    """Nor the tuning: the loop goes on with it as a notebook's next cell does."""
    result = trained(INTERRUPTED, environment(tmp_path))
    assert result.stdout.startswith("done"), result.stderr
    assert "the tuning has failed" not in result.stderr


@pytest.mark.parametrize("act", [some(FORKS[name], name, "exit", "goes on") for name in FORKS])
def test_a_fork_leaves_job_and_server_alone(tmp_path: Path, act: str) -> None:
    result = script_processes.finished(TRAINING + FORKED.format(act=act), environment(tmp_path), tmp_path)
    assert result.stdout.endswith("done 600\n"), result.stderr


def test_workers_of_a_loader_leave_them_alone(tmp_path: Path) -> None:
    result = script_processes.finished(TRAINING + WORKERS, environment(tmp_path), tmp_path)
    assert result.stdout.endswith("done 600\n"), result.stderr


def test_a_fork_in_the_middle_of_a_call_ends_neither_process(shared_server: ServerProcess) -> None:
    """And gRPC says nothing on standard error, as it does where it has to leave a fork alone."""
    script = """
import os, signal, sys
from lrpilot.transport.grpc_transport import GrpcTransport
from lrpilot.v1 import tuner_pb2 as pb

def connected():
    transport = GrpcTransport(sys.argv[1])
    transport.beat(pb.BeatRequest(job_id="none"))
    return transport

def code(transport):
    return transport._beat.code().value[0]

transport = connected()
codes = []
for _ in range(10):
    transport.reconnect()
    transport.beat(pb.BeatRequest(job_id="none"))
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        os._exit(code(connected()))
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(code(transport), codes)
"""
    done = subprocess.run([sys.executable, "-c", script, shared_server.target], capture_output=True, text=True)
    not_found = grpc.StatusCode.NOT_FOUND.value[0]
    assert (done.stdout, done.stderr, done.returncode) == (f"{not_found} {[not_found] * 10}\n", "", 0)


@pytest.mark.parametrize("way_out", [some("sys.exit(0)", "exit"), some(KILLED, "killed", "killed")])
def test_a_server_ends_with_its_process_though_a_fork_lives_on(tmp_path: Path, way_out: str) -> None:
    script = f"""
tuner = make()
print(tuner._session._outbox._transport.server._process.pid, flush=True)
if os.fork() == 0:
    os.closerange(0, 3)
    signal.pause()
{way_out}
"""
    result = subprocess.Popen(
        [sys.executable, "-c", TRAINING + script],
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert result.stdout is not None
    server = int(result.stdout.readline())
    result.wait(30)
    try:
        gone = subprocess.run(["timeout", "20", "tail", f"--pid={server}", "-f", "/dev/null"])
        assert gone.returncode == 0, "the server has outlived its process"
    finally:
        os.killpg(result.pid, signal.SIGKILL)
        result.stdout.close()


BROKEN = {
    "no such directory": {"LRPILOT_DB": "sqlite:////proc/none/jobs.db"},
    "no file": {"LRPILOT_DB": "sqlite:////dev"},
    "a full disk": {"LRPILOT_DB": "sqlite:////dev/full"},
    "no URL": {"LRPILOT_DB": "nonsense"},
    "no home": {"LRPILOT_DB": "", "HOME": "/proc/none", "XDG_DATA_HOME": ""},
}
ALONE = """
tuner = make()
while not tuner.finished:
    update(tuner)
tuner.close()
print("done", steps)
"""


@pytest.mark.parametrize("variables", [some(BROKEN[name], name, "a full disk", "no home") for name in BROKEN])
def test_a_server_that_does_not_start_is_one_that_is_away(tmp_path: Path, variables: dict[str, str]) -> None:
    """And one sentence says what to set. Under `strict` it is an error."""
    given = {key: value for key, value in environment(tmp_path, **variables).items() if value}
    result = script_processes.finished(TRAINING + ALONE + "make(strict=True)", given, tmp_path)
    assert result.stdout == "done 600\n", result.stderr
    warnings, raised = result.stderr.split("Traceback (most recent call last)", 1)
    [said] = [line for line in warnings.splitlines() if "did not start" in line]
    assert "set LRPILOT_DB" in said
    assert "LRPILOT_SERVER" in said
    assert result.returncode == 1
    assert "UnavailableError: server: the embedded one did not start" in raised


def test_a_server_that_has_died_is_started_again(tmp_path: Path) -> None:
    script = """
tuner = make()
for _ in range(12):
    update(tuner)
server = tuner._session._outbox._transport.server._process
server.kill()
server.wait()
finish(tuner)
"""
    result = script_processes.finished(TRAINING + script, environment(tmp_path), tmp_path)
    assert result.stdout.endswith("done 600\n"), result.stderr
