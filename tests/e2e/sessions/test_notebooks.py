"""First sessions in a notebook: cells are run, interrupted and run again, and kernels restarted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from lrpilot.v1 import tuner_pb2 as pb

from tests.support.notebook import Notebook
from tuner_server.cli.common import state_of
from tuner_server.cli.own_database import OwnDatabase

SETUP = """
import gc, lrpilot, time, torch
from torch import nn
torch.manual_seed(0)
torch.set_num_threads(1)
x = torch.randn(512, 8)
y = x @ torch.randn(8, 1)
loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=32, shuffle=True)
"""
MAKE = """
model = nn.Linear(8, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
tuner = lrpilot.Tuner(model, optimizer, total_steps={steps}, name="{name}", policy_options={{"probe_steps": 10}})
"""
TRAIN = """
for inputs, targets in tuner.batches(loader):
    optimizer.zero_grad()
    loss = nn.functional.mse_loss(model(inputs), targets)
    loss.backward()
    optimizer.step()
    tuner.step(loss)
    time.sleep({pause})
"""


@pytest.fixture
def database(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/jobs.db"


@pytest.fixture
def notebook(database: str) -> Iterator[Notebook]:
    made = Notebook({"LRPILOT_DB": database, "OMP_NUM_THREADS": "1"})
    made.run(SETUP)
    try:
        yield made
    finally:
        made.close()


def states(database: str) -> dict[str, str]:
    """The states of all jobs, by name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LRPILOT_DB", database)
        with OwnDatabase() as own:
            return {job.config.name: state_of(job) for job in own.list_jobs(pb.ListJobsRequest(page_size=50), 1.0).jobs}


def test_a_cell_is_run_interrupted_and_run_again(notebook: Notebook, database: str) -> None:
    made = notebook.run(MAKE.format(steps=500, name="first"))
    assert "'first', on an embedded server: policy budget, 500 steps" in made.told

    interrupted = notebook.run(TRAIN.format(pause=0.005), interrupt_at="train at LR")
    assert interrupted.error.startswith("KeyboardInterrupt")
    # One display that changes, not a line for every look.
    assert len(interrupted.displays) == 1
    assert len(next(iter(interrupted.displays.values()))) > 1
    assert interrupted.streams == ""
    before = int(notebook.run("print(tuner.committed_step + tuner.search_steps)").streams)
    assert 0 < before < 500

    again = notebook.run(TRAIN.format(pause=0))
    assert again.error == ""
    assert len(again.displays) == 1
    assert again.displays.keys() != interrupted.displays.keys()
    assert "lrpilot: done after" in again.told
    assert notebook.run("print(tuner.committed_step + tuner.search_steps)").streams == "500\n"
    assert states(database) == {"first": "finished"}

    after = notebook.run(TRAIN.format(pause=0))
    assert after.error == ""
    assert "the budget of 500 steps is spent: there are no more batches; a loop over epochs" in after.streams
    for shown, kind in (
        ("tuner", "text/html"),
        ("tuner.schedule", "text/html"),
        ("tuner.schedule.plot()", "image/png"),
    ):
        assert kind in notebook.run(shown).result


@pytest.mark.slow
def test_cells_that_make_a_tuner_are_run_again(notebook: Notebook, database: str) -> None:
    notebook.run(MAKE.format(steps=2000, name="first"))
    notebook.run(TRAIN.format(pause=0.01), interrupt_at="%")
    refused = notebook.run("other = lrpilot.Tuner(model, optimizer, total_steps=300)")
    assert refused.error.startswith("ConfigError: optimizer: an open tuner tunes it already; close() that one first")
    notebook.run(MAKE.format(steps=100, name="second"))
    trained = notebook.run(TRAIN.format(pause=0))
    assert trained.error == ""
    assert trained.streams == ""
    # The first one is gone with its name, and its job with it.
    notebook.run("1 / 0")  # whose traceback takes the place of that which kept it
    notebook.run("gc.collect(); time.sleep(3)")
    assert states(database) == {"first": "stopped", "second": "finished"}


@pytest.mark.slow
def test_a_kernel_is_restarted(notebook: Notebook, database: str) -> None:
    notebook.run(MAKE.format(steps=2000, name="first"))
    notebook.run(TRAIN.format(pause=0.01), interrupt_at="%")
    notebook.restart()
    notebook.run(SETUP)
    notebook.run(MAKE.format(steps=100, name="second"))
    assert notebook.run(TRAIN.format(pause=0)).error == ""
    assert states(database)["second"] == "finished"
    killed = notebook.run(
        "import subprocess; print(subprocess.run(['ps', '-ef'], capture_output=True, text=True).stdout)"
    )
    servers = [line for line in killed.streams.splitlines() if "tuner_server serve" in line]
    assert (
        len([line for line in servers if f" {int(notebook.run('import os; print(os.getpid())').streams)} " in line])
        == 1
    )
