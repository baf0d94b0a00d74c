"""A server and its command line need no PyTorch: it is the users' own, and the demo's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TIMEOUT_S = 60.0
RUN = (sys.executable, "-m", "tuner_server")


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Variables of an environment in which nothing of PyTorch can be imported."""
    for name in ("torch", "botorch", "gpytorch"):
        (tmp_path / f"{name}.py").write_text(f"raise ModuleNotFoundError('No module named {name!r}', name={name!r})\n")
    paths = os.pathsep.join((str(tmp_path), os.environ.get("PYTHONPATH", "")))
    return dict(os.environ) | {"PYTHONPATH": paths, "XDG_DATA_HOME": str(tmp_path)}


def test_a_server_starts_and_is_asked_for_its_jobs(environment: dict[str, str]) -> None:
    serve = (*RUN, "serve", "--listen", "127.0.0.1:0", "--exit-with-stdin")
    pipe = subprocess.PIPE
    with subprocess.Popen(serve, env=environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as server:
        assert server.stdout is not None
        listening = server.stdout.readline()
        assert listening.startswith("listening on ")
        jobs = (*RUN, "jobs", "--server", listening.removeprefix("listening on ").strip())
        listed = subprocess.run(jobs, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S)
        _, log = server.communicate(timeout=TIMEOUT_S)
    assert (listed.returncode, server.returncode) == (0, 0), listed.stderr + log
    assert "no jobs" in listed.stdout.lower()


def test_the_demo_says_what_to_install(environment: dict[str, str]) -> None:
    code = "import sys; sys.modules['torch'] = None; from tuner_server.cli import main; sys.argv[1:] = ['demo']; main()"
    demo = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert demo.returncode != 0
    assert "No module named 'torch'; pip install 'lrpilot[demo]'" in demo.stderr
