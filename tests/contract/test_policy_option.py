"""An author's way to the contract of policies: an installed policy is named on the command line, nothing is edited."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.extensions import page_examples

ROOT = Path(__file__).parents[2]
ONE_TEST = "too_short"
"""Enough to see which policy is tested, with which options."""


def suite(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """One test of the suite, with the packages of a folder installed."""
    command = [sys.executable, "-m", "pytest", "tests/contract/test_policy.py", "-p", "no:cacheprovider", "-v"]
    path = os.pathsep.join([str(folder), *sys.path])
    return subprocess.run(
        [*command, "-k", ONE_TEST, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )


def test_the_suite_tests_the_policy_that_it_is_told_with_its_options(tmp_path: Path) -> None:
    page_examples.install_policy(tmp_path)
    run = suite(tmp_path, "--policy", "grid", "--policy-options", '{"candidates": 3}')
    assert run.returncode == 0, run.stdout + run.stderr
    assert "-grid-" in run.stdout or "[grid-" in run.stdout
    assert "budget" not in run.stdout


@pytest.mark.parametrize("options", ["{candidates: 3}", "[3]"])
def test_options_that_are_no_json_object_are_refused_with_an_example(tmp_path: Path, options: str) -> None:
    run = suite(tmp_path, "--policy", "budget", "--policy-options", options)
    assert run.returncode == pytest.ExitCode.USAGE_ERROR
    assert f"--policy-options: {options!r} is no JSON" in run.stderr
